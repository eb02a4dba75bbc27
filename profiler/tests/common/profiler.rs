//! The program under test, as a child.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use super::{
    LONG, Scratch,
    child::{Guarded, Lines},
    http,
};

pub const BINARY: &str = env!("CARGO_BIN_EXE_profiler");

/// The program with arguments, to be run to its end.
pub fn profiler<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    command
}

/// A profiler that watches a process.
pub struct Watching {
    child: Guarded,
    stderr: Lines,
    report: Scratch,
    address: SocketAddr,
}

/// What it left.
pub struct Finished {
    pub status: ExitStatus,
    pub report: Value,
    /// What it said after it had begun.
    pub complaints: Vec<String>,
}

impl Watching {
    /// Attaches to a process; returns when all probes count.
    pub fn process(pid: u32) -> Self {
        Self::with(pid, &[])
    }

    pub fn with(pid: u32, more: &[&str]) -> Self {
        Self::chosen_by(&[&["--pid", &pid.to_string()], more].concat())
    }

    /// Observes what these arguments choose; returns when all that matches already is counted.
    pub fn chosen_by(arguments: &[&str]) -> Self {
        let report = Scratch::name("report.json");
        let mut command = profiler(["--listen", "127.0.0.1:0", "--report"]);
        command.arg(report.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Guarded(command.spawn().expect("profiler starts"));
        let stderr = Lines::of(child.0.stderr.take().expect("it is a pipe"));
        let mut said = Vec::new();
        let address = loop {
            let Some(line) = stderr.next(LONG) else { panic!("profiler ended at its start: {said:#?}") };
            let line = String::from_utf8(line).expect("what profiler says is UTF-8");
            if line.starts_with("profiler: watching") || line.starts_with("profiler: waiting") {
                break line.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
            }
            said.push(line);
        };
        Self { child, stderr, report, address: address.expect("it says where it listens") }
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn get(&self, path: &str) -> http::Answer {
        http::get(self.address, path)
    }

    /// The target as it is now: a snapshot that was taken after this was called.
    pub fn now(&self) -> Value {
        self.document()["targets"][0].clone()
    }

    /// Everything as it is now, in the same way.
    pub fn document(&self) -> Value {
        let asked = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
        for _ in 0..100 {
            let document: Value =
                serde_json::from_str(self.get("/api/v1/targets").text()).expect("the answer is JSON");
            // On a busy machine it may hand out the last one instead of a new one.
            if document["taken_at"].as_f64().expect("a time") >= asked {
                return document;
            }
        }
        panic!("no new snapshot was to be had");
    }

    /// Sends it a signal, and nothing more.
    pub fn signal(&mut self, signal: i32) {
        self.child.signal(signal);
    }

    /// Ends it as Ctrl-C does, and reads its report.
    pub fn finish(mut self) -> Finished {
        self.signal(libc::SIGINT);
        self.wait()
    }

    /// Waits for its end, and reads its report.
    pub fn wait(mut self) -> Finished {
        let status = self.child.wait(LONG);
        let lines = self.stderr.rest();
        let complaints = lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        let report = std::fs::read(self.report.path()).unwrap_or_default();
        Finished { status, report: serde_json::from_slice(&report).unwrap_or_default(), complaints }
    }

    /// Kills it; it can't clean up.
    pub fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.child.wait(Duration::from_secs(10));
    }
}

impl Finished {
    /// The target in the report of a run that ended well and lost nothing.
    pub fn target(&self) -> &Value {
        assert!(self.status.success(), "{:?}: {:#?}", self.status, self.complaints);
        for (reason, count) in self.report["events_lost"].as_object().expect("losses are listed") {
            // The kernels of some virtual machines don't report every switch; which ones is not ours to say.
            assert!(reason == "switch_not_seen" || count == 0, "events were lost: {reason} {count}");
        }
        &self.report["targets"][0]
    }
}
