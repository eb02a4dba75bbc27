//! The one way xtask runs another program: the command is printed first, and a failure is one line that names it and
//! the way out.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::style;

/// Runs a command with this terminal's input and output. `way_out` completes the message if it fails.
pub fn run(command: &mut Command, way_out: &str) -> Result<()> {
    let line = shown(command);
    run_as(command, &line, way_out)
}

/// Like [`run`], for a command which is better known under another line (a script, for example).
pub fn run_as(command: &mut Command, line: &str, way_out: &str) -> Result<()> {
    announce(line);
    let status = command.status().map_err(|error| failure(line, &error.to_string(), way_out))?;
    check(status, line, way_out)
}

/// Asks a program something: its standard output if it succeeded, nothing if it failed or isn't there. What it says on
/// standard error is left out, for a "no" is an answer here.
pub fn ask(command: &mut Command) -> Option<String> {
    announce(&shown(command));
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command's standard output, which the caller can't do without. Standard error stays visible.
pub fn output(command: &mut Command, way_out: &str) -> Result<String> {
    let line = shown(command);
    announce(&line);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failure(&line, &error.to_string(), way_out))?;
    check(output.status, &line, way_out)?;
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` wrote something which isn't UTF-8"))
}

/// Runs a command which may hang (a download, for example) and says whether it succeeded in time.
pub fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    announce(&shown(command));
    let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    else {
        return false;
    };
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break,
        }
    }
    // Already gone, or ours to end; either way the answer is no.
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Becomes the command, so that signals and the exit code are its own. Returns only if that fails.
pub fn become_command(command: &mut Command, way_out: &str) -> Result<()> {
    let line = shown(command);
    announce(&line);
    let error = command.exec();
    Err(failure(&line, &error.to_string(), way_out))
}

/// Starts a command and returns while it runs.
pub fn spawn(command: &mut Command, way_out: &str) -> Result<std::process::Child> {
    let line = shown(command);
    announce(&line);
    command.spawn().map_err(|error| failure(&line, &error.to_string(), way_out))
}

/// How a program gets the rights it needs when this user isn't root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sudo {
    /// A person is there and may be asked for a password.
    Ask,
    /// It works without a question, or not at all.
    Quiet,
}

/// A command that runs as root: itself if this user is root, else through `sudo`.
pub fn as_root(program: impl AsRef<OsStr>, sudo: Sudo) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    if sudo == Sudo::Quiet {
        command.arg("-n");
    }
    command.arg("--").arg(program);
    command
}

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Lets `sudo` ask for its password now, where the question stands alone, and not in the middle of something.
pub fn unlock_sudo() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    if find("sudo").is_none() {
        bail!("the profiler needs root and there is no sudo: run this as root");
    }
    run(Command::new("sudo").arg("-v"), "the profiler needs root: run this as root")
}

/// Where a program lies in PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| is_executable(file))
}

/// Whether this is a file that may be run.
pub fn is_executable(file: &std::path::Path) -> bool {
    file.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
}

/// A command as it would be typed, with the variables set for it. The cargo that runs xtask is plain `cargo`.
pub fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), quoted(&value?.to_string_lossy())))
    });
    let own_cargo = std::env::var_os("CARGO").is_some_and(|cargo| cargo == command.get_program());
    let program = if own_cargo { OsStr::new("cargo") } else { command.get_program() };
    let words = std::iter::once(program).chain(command.get_args());
    let words = words.map(|word| quoted(&word.to_string_lossy()));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn announce(line: &str) {
    style::say(&style::dim(&format!("$ {line}")));
}

fn check(status: ExitStatus, line: &str, way_out: &str) -> Result<()> {
    if status.success() { Ok(()) } else { Err(failure(line, &status.to_string(), way_out)) }
}

fn failure(line: &str, reason: &str, way_out: &str) -> anyhow::Error {
    anyhow!("`{line}` failed ({reason}): {way_out}")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("cargo");
        command.args(["build", "-Z", "build std", ""]).env("A", "b c");
        assert_eq!(shown(&command), "A='b c' cargo build -Z 'build std' ''");
    }

    #[test]
    fn a_failure_names_the_command_and_the_way_out() {
        let error = run(&mut Command::new("false"), "try true").unwrap_err().to_string();
        assert!(
            error.starts_with("`false` failed (exit status: 1)") && error.ends_with("try true"),
            "{error}"
        );
    }

    #[test]
    fn a_program_which_is_not_there_is_a_failure_with_the_same_shape() {
        let error = run(&mut Command::new("no-such-program"), "install it").unwrap_err().to_string();
        assert!(error.starts_with("`no-such-program` failed (No such file"), "{error}");
    }

    #[test]
    fn a_command_which_hangs_is_ended_and_counts_as_failed() {
        let start = Instant::now();
        assert!(!succeeds_within(Command::new("sleep").arg("30"), Duration::from_millis(100)));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
