//! The workload as a child: `ready` from it, `start` and `stop` to it, then one line of JSON from it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// The running workload. It ends when its standard input closes, so it can't outlive this process.
pub struct Workload {
    child: Child,
    /// Taken away to tell it that it is over.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Workload {
    /// Starts it and waits until it is idle. `lifetime` is its own limit, should all else fail.
    pub fn start(program: &Path, lifetime: Duration) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(lifetime.as_secs().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command::spawn(&mut command, "build it with `cargo xtask demo`")?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the workload has no standard output")?);
        let mut workload = Self { child, commands, answers };
        let answer = workload.answer()?;
        if answer.split(' ').next() != Some("ready") {
            bail!("the workload said {answer:?} and not that it is ready");
        }
        Ok(workload)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it work.
    pub fn begin(&mut self) -> Result<()> {
        self.tell("start")
    }

    /// Lets it stop, and returns what it counted. It stays alive and idle.
    pub fn finish(&mut self) -> Result<Value> {
        self.tell("stop")?;
        let answer = self.answer()?;
        serde_json::from_str(&answer)
            .with_context(|| format!("the workload said {answer:?}, which isn't JSON"))
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("the workload has no standard input")?;
        writeln!(commands, "{line}")
            .with_context(|| format!("the workload is gone, it can't be told {line:?}"))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("can't read what the workload says")?;
        if line.is_empty() {
            let status = self.child.wait().context("can't ask for the workload's state")?;
            bail!("the workload ended without an answer ({status})");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.commands = None;
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // It should have gone by itself; if it is gone by now, that is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A shell script in the workload's place.
    fn script(name: &str, text: &str) -> std::path::PathBuf {
        let file = std::env::temp_dir().join(format!("xtask-workload-{}-{name}", std::process::id()));
        std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    #[test]
    fn the_conversation_ends_with_its_counts_and_then_with_it() {
        let file =
            script("good", "echo ready $$; read a; read b; echo \"{\\\"heard\\\":\\\"$a $b\\\"}\"; cat");
        let mut workload = Workload::start(&file, Duration::from_secs(9)).unwrap();
        workload.begin().unwrap();
        assert_eq!(workload.finish().unwrap()["heard"], "start stop");
        assert!(workload.child.try_wait().unwrap().is_none(), "it stays until it is dropped");
        let pid = workload.pid();
        drop(workload);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_workload_which_dies_is_an_error_with_its_exit_status() {
        let file = script("bad", "exit 3");
        let error = Workload::start(&file, Duration::from_secs(9)).err().unwrap().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        std::fs::remove_file(file).unwrap();
    }
}
