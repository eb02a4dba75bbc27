//! Processes that the tests start: bounded in time, ended by their own id, read line by line.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use super::{LONG, within};

/// A process of ours. It doesn't outlive this value.
pub struct Guarded(pub Child);

impl Guarded {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: i32) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // SAFETY: the child wasn't reaped, so the id is still its own.
            unsafe { libc::kill(self.pid().cast_signed(), signal) };
        }
    }

    /// How it ends; it has to, within the time.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        within(limit, || {
            status = self.0.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("process {} didn't end within {limit:?}", self.pid()))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The lines that a process writes, read by a thread of its own so that nobody waits for ever.
pub struct Lines(Receiver<Vec<u8>>);

impl Lines {
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                if send.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Self(receive)
    }

    /// The next line; `None` at the end.
    pub fn next(&self, limit: Duration) -> Option<Vec<u8>> {
        match self.0.recv_timeout(limit) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing was said for {limit:?}"),
        }
    }

    /// All that is still to come.
    pub fn rest(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next(LONG)).collect()
    }
}

/// What a command that ended has left.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub took: Duration,
}

impl Ended {
    /// The lines on standard error.
    pub fn complaints(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.stderr).lines().map(str::to_owned).collect()
    }
}

/// Runs a command to its end, which has to come.
pub fn run(command: &mut Command) -> Ended {
    run_within(command, LONG)
}

/// The same, for a command that may need another time.
pub fn run_within(command: &mut Command, limit: Duration) -> Ended {
    let began = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guarded(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    let read = |stream: Option<Box<dyn Read + Send>>| {
        let mut stream = stream.expect("it is a pipe");
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is what there is.
            let _read = stream.read_to_end(&mut bytes);
            bytes
        })
    };
    let stdout = read(child.0.stdout.take().map(|stream| Box::new(stream) as _));
    let stderr = read(child.0.stderr.take().map(|stream| Box::new(stream) as _));
    let status = child.wait(limit);
    let took = began.elapsed();
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().expect("a reader doesn't panic");
    Ended { status, stdout: text(stdout), stderr: text(stderr), took }
}
