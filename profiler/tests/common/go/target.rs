//! The program that tells the truth, while it runs.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::super::{LONG, helper::Helper, within};

/// A program of `tests/programs/go` that runs.
pub struct Target {
    helper: Helper,
}

impl Target {
    /// Starts it with as many processors, and with more in its environment.
    pub fn start(program: &Path, procs: u32, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.env_remove("GODEBUG").env_remove("GOGC").env_remove("GOMEMLIMIT").env_remove("GOTRACEBACK");
        command.env("GOMAXPROCS", procs.to_string()).envs(environment.iter().copied());
        Self { helper: Helper::spawn(&mut command) }
    }

    pub fn pid(&self) -> u32 {
        self.helper.pid()
    }

    /// Lets it do something, and says what it answers.
    pub fn ask(&mut self, command: &str) -> Value {
        self.helper.tell(command);
        self.helper.answer()
    }

    /// Lets it do something in whose course it stops itself; looks at it there, then lets it go on and answer.
    pub fn stopped<T>(&mut self, command: &str, look: impl FnOnce() -> T) -> (T, Value) {
        self.helper.tell(command);
        let pid = self.pid();
        assert!(
            within(LONG, || threads(pid).iter().all(|thread| state(pid, *thread) == 'T')),
            "{command}: it doesn't stop"
        );
        let seen = look();
        self.helper.signal(libc::SIGCONT);
        (seen, self.helper.answer())
    }

    /// Waits until none of its threads has run for a while.
    pub fn rests(&self) -> bool {
        let mut last = self.switches();
        let mut same = 0;
        within(LONG, || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let now = self.switches();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            same > 15
        })
    }

    /// How often its threads were switched away, all together, for whatever reason.
    pub fn switches(&self) -> u64 {
        let pid = self.pid();
        let of = |thread: &u32| {
            let text =
                std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
            let lines = text.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
            lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>()
        };
        threads(pid).iter().map(of).sum()
    }

    /// Who traces it; 0: nobody.
    pub fn tracer(&self) -> u32 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("TracerPid:")).expect("a line of it");
        line.trim().parse().expect("a number")
    }

    /// Lets it end.
    pub fn end(self) {
        let status = self.helper.end();
        assert!(status.success(), "the program fails: {status}");
    }
}

/// The threads of a process.
fn threads(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The state of a thread as the kernel has it: `R`, `S`, `T`...; ` ` if there is none.
fn state(pid: u32, thread: u32) -> char {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).unwrap_or_default();
    text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or(' ')
}
