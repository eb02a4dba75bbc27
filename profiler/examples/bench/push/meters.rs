//! What a process has used: CPU time and memory.

use std::{fs, path::Path};

use anyhow::Context as _;

/// Clock ticks per second in `/proc/PID/stat`: `USER_HZ`, which is 100 wherever we run (proc_pid_stat(5), time(7)).
const TICKS: f64 = 100.0;

/// CPU seconds of this process, user and system, all threads: what getrusage tells, to the nanosecond.
pub fn own_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU seconds of another process, user and system, to a hundredth.
pub fn cpu_of(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    // Its name, in brackets, may hold blanks; what follows begins with the third field, and utime is the fourteenth.
    let rest = stat.rsplit_once(')').context("no name")?.1;
    let ticks: Vec<f64> =
        rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// Resident memory of this process now, in bytes, after freed memory was given back.
pub fn resident() -> anyhow::Result<u64> {
    // SAFETY: it only gives back memory that malloc has and nobody uses.
    unsafe { libc::malloc_trim(0) };
    status("VmRSS:")
}

/// The most resident memory since [`reset_peak`], in bytes.
pub fn peak() -> anyhow::Result<u64> {
    status("VmHWM:")
}

/// Begins a new peak (proc_pid_clear_refs(5)).
pub fn reset_peak() -> anyhow::Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("can't reset the peak of memory")
}

fn status(line: &str) -> anyhow::Result<u64> {
    let status =
        fs::read_to_string(Path::new("/proc/self/status")).context("can't read /proc/self/status")?;
    let kib =
        status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse().ok());
    kib.map(|kib: u64| kib << 10).with_context(|| format!("no {line} in /proc/self/status"))
}

/// Bytes for people.
pub fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
