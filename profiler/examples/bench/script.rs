//! What others do: a bpftrace script with the probe structure of bcc's `memleak` - entry and return of `malloc`, its
//! stack, a map by address, entry of `free` - at the symbols.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, bail};

/// `memleak` keeps size, time and stack of every block that lives, and sums by stack (libbpf-tools/memleak.bpf.c: `sizes`,
/// `allocs`, `stack_traces`, `combined_allocs`). The interval tells that everything before it is in place; the count is
/// there to be checked.
const SCRIPT: &str = r#"
uprobe:LIBRARY:malloc { @sizes[tid] = arg0; }
uretprobe:LIBRARY:malloc /@sizes[tid]/ {
    $size = @sizes[tid];
    $stack = ustack;
    @blocks[retval] = ($size, nsecs, $stack);
    @combined[$stack] += $size;
    delete(@sizes[tid]);
    @seen = count();
}
uprobe:LIBRARY:free {
    $block = @blocks[arg0];
    if ($block.0) {
        @combined[$block.2] -= $block.0;
        delete(@blocks[arg0]);
    }
}
interval:ms:20 { printf("in place\n"); }
END { clear(@sizes); clear(@blocks); clear(@combined); }
"#;

/// A script at work. It doesn't outlive this value.
pub struct Script {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// Probes a process; returns when all probes are in place.
    ///
    /// # Errors
    ///
    /// If there is no bpftrace, or it fails.
    pub fn start(pid: u32, library: &str) -> anyhow::Result<Self> {
        let mut child = Command::new("bpftrace")
            .args(["-B", "line", "-p", &pid.to_string(), "-e", &SCRIPT.replace("LIBRARY", library)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It complains of what doesn't matter, too: shown if it fails.
            .stderr(Stdio::piped())
            .spawn()
            .context("can't start bpftrace: install it (Debian: `apt-get install bpftrace`)")?;
        let Some(output) = child.stdout.take() else { bail!("bpftrace has no pipe") };
        let mut script = Self { child, output: BufReader::new(output) };
        let mut line = String::new();
        while line.trim() != "in place" {
            line.clear();
            if script.output.read_line(&mut line).context("bpftrace")? == 0 {
                let mut why = String::new();
                if let Some(mut stderr) = script.child.stderr.take() {
                    stderr.read_to_string(&mut why).context("bpftrace")?;
                }
                bail!("bpftrace ended at its start: {}", why.trim());
            }
        }
        Ok(script)
    }

    /// Takes the probes away. Returns how many allocations the script has seen.
    ///
    /// # Errors
    ///
    /// If bpftrace fails, or doesn't tell.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        let pid = i32::try_from(self.child.id()).context("no such process id")?;
        // SAFETY: a signal to our own child, which wasn't waited for, so that the id is its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).context("bpftrace")?;
        let seen = rest.lines().find_map(|line| line.strip_prefix("@seen: ")?.trim().parse().ok());
        seen.context("bpftrace doesn't tell what it has seen")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Gone already, or ours to end.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
