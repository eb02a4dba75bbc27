//! The virtual machine: emulated as a whole, so it runs wherever its emulator does, and ended by force if it doesn't
//! end by itself.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::console;
use crate::{command, style};

/// How long a machine may take from power on to power off.
const LIMIT: Duration = Duration::from_secs(120);

/// How long it may take until its first own process runs. Nothing of ours has run by then: on a busy host the emulator
/// now and then gets stuck in the kernel's start, so it is started again, ...
const BOOT_LIMIT: Duration = Duration::from_secs(40);
/// ... but not for ever: a kernel may also be unable to start.
const BOOTS: usize = 3;

/// A machine's life.
pub struct Run {
    /// What it wrote to its serial console, without carriage returns and escape sequences.
    pub console: String,
    /// From power on until its first own process ran; none if it never did.
    pub booted: Option<Duration>,
    /// From power on to power off.
    pub took: Duration,
    /// Whether it ended by itself.
    pub in_time: bool,
}

/// Boots a kernel with its files and returns when the machine is off.
pub fn run(kernel: &Path, image: &Path) -> Result<Run> {
    for _ in 1..BOOTS {
        let run = once(kernel, image)?;
        if run.in_time || run.booted.is_some() {
            return Ok(run);
        }
        style::warn(&format!("nothing had started after {}: once more", style::spoken(run.took)));
    }
    once(kernel, image)
}

fn once(kernel: &Path, image: &Path) -> Result<Run> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot"])
        .args(["-monitor", "none", "-nic", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        // A panic reboots at once, which ends the machine.
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let began = Instant::now();
    let mut machine = Machine(command::spawn(&mut qemu, "is qemu-system-x86 installed?")?);
    let lines = lines_of(machine.0.stdout.take().context("the emulator has no standard output")?);
    let mut run = Run { console: String::new(), booted: None, took: Duration::ZERO, in_time: false };
    loop {
        let limit = if run.booted.is_some() { LIMIT } else { BOOT_LIMIT };
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        match lines.recv_timeout(left) {
            Ok(line) => {
                if run.booted.is_none() && console::tells_release(&line).is_some() {
                    run.booted = Some(began.elapsed());
                }
                run.console.push_str(&line);
                run.console.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => {
                machine.0.wait().context("can't wait for the emulator")?;
                run.in_time = true;
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    run.took = began.elapsed();
    Ok(run)
}

/// The emulator as a child, which doesn't outlive this.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) && self.0.kill().is_ok() {
            // Nothing is lost with its status.
            let _ = self.0.wait();
        }
    }
}

/// The lines as they come. The channel closes when the writer is gone.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        while output.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
            if sender.send(console::clean(&String::from_utf8_lossy(&bytes))).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_clean_and_end_with_their_writer() {
        let lines = lines_of(&b"\x1b[2Jone\r\ntwo\xff\r\nthree"[..]);
        assert_eq!(lines.iter().collect::<Vec<_>>(), ["one", "two\u{fffd}", "three"]);
    }
}
