//! One life of the process, as its client sees it.

use std::{
    collections::HashSet,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Limits,
    protocol::{Reply, Request, decode, encode},
    serve::ARGUMENT,
    wire,
};

/// How long a killed process may take to be gone. One that waits for a file system that doesn't answer takes longer.
const REAP: Duration = Duration::from_millis(500);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It took too long, and was killed for it.
    Late,
    /// It made a system call that it must not make.
    Refused,
    /// Somebody else killed it: no file's fault.
    Killed,
    /// It ended by itself.
    Crashed,
}

/// A running process.
#[derive(Debug)]
pub struct Running {
    child: Child,
    socket: UnixStream,
    /// Files that it has been given.
    pub files: HashSet<u32>,
    /// Spaces that it has been told. It may have forgotten some.
    pub spaces: HashSet<u64>,
    /// The file that it was about to read for the first time when it was last heard of, in this request.
    pub reading: Option<u32>,
    /// When it was started.
    pub since: Instant,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If the system can't.
    pub fn start(limits: &Limits) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let longest = limits.unwind.max(limits.symbolise).max(limits.analyse).as_secs() + 5;
        let child = Command::new(&limits.program)
            .args([ARGUMENT, &limits.memory.to_string(), &longest.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            socket: ours,
            files: HashSet::new(),
            spaces: HashSet::new(),
            reading: None,
            since: Instant::now(),
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something, without an answer.
    ///
    /// # Errors
    ///
    /// If it is gone or doesn't listen: see [`Running::bury`].
    pub fn tell(
        &mut self,
        request: &Request<'_>,
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> io::Result<()> {
        wire::send(&self.socket, &encode(request), descriptors, Some(deadline))
    }

    /// Asks it and waits for the answer.
    ///
    /// # Errors
    ///
    /// If there is none in time: see [`Running::bury`].
    pub fn ask(
        &mut self,
        request: &Request<'_>,
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> io::Result<Reply> {
        self.tell(request, descriptors, deadline)?;
        loop {
            let received = wire::receive(&self.socket, Some(deadline))?;
            let (bytes, _) = received.ok_or(io::ErrorKind::UnexpectedEof)?;
            match decode(&bytes).ok_or(io::ErrorKind::InvalidData)? {
                Reply::Reading { key } => self.reading = Some(key),
                reply => return Ok(reply),
            }
        }
    }

    /// Takes the answers that nobody waited for any more, so that it isn't kept from ending; says what it was reading.
    fn last_words(&mut self) {
        let deadline = Instant::now() + Duration::from_millis(50);
        while let Ok(Some((bytes, _))) = wire::receive(&self.socket, Some(deadline)) {
            if let Some(Reply::Reading { key }) = decode(&bytes) {
                self.reading = Some(key);
            }
        }
    }

    /// Ends it and says why it failed: `error` is what came instead of an answer.
    pub fn bury(mut self, error: &io::Error) -> (Death, Option<u32>) {
        let (late, nonsense) = (wire::is_late(error), error.kind() == io::ErrorKind::InvalidData);
        if late {
            let _gone = self.child.kill();
        }
        self.last_words();
        let _gone = self.child.kill();
        let status = self.reap();
        let death = match status.and_then(|status| status.signal()) {
            _ if late => Death::Late,
            Some(libc::SIGALRM) => Death::Late,
            Some(libc::SIGSYS) => Death::Refused,
            Some(libc::SIGKILL) if !nonsense => Death::Killed,
            _ => Death::Crashed,
        };
        (death, self.reading)
    }

    fn reap(&mut self) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + REAP;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                // It will be the system's to clean up, when we end at the latest.
                _ => return None,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.reap();
    }
}
