//! CPU time of other processes.

use std::{collections::BTreeMap, fs};

/// CPU seconds of a process and of all that it has started, user and system, by process.
pub struct Cpu(BTreeMap<u32, f64>);

impl Cpu {
    /// Of a process and what has come of it, now.
    pub fn of(root: u32) -> Self {
        Self(family(root).into_iter().filter_map(|pid| Some((pid, seconds(pid)?))).collect())
    }

    /// What was used since an earlier moment. What a process that has ended meanwhile had used is missing.
    pub fn since(&self, earlier: &Self) -> f64 {
        self.0.iter().map(|(pid, seconds)| seconds - earlier.0.get(pid).copied().unwrap_or(0.0)).sum()
    }
}

/// The clock of a process's CPU time (clock_getcpuclockid(3)): all its threads, those that have ended, too, to the nanosecond, where
/// /proc/PID/stat tells hundredths of a second.
fn seconds(pid: u32) -> Option<f64> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write into what they are given, which outlives them.
    let told = unsafe {
        libc::clock_getcpuclockid(i32::try_from(pid).ok()?, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    told.then(|| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// A process and its children and theirs.
pub fn family(root: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Its name, in brackets, may hold blanks; the parent is the second field behind.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest);
        if let Some(parent) = fields.and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut members = vec![root];
    let mut at = 0;
    while let Some(&one) = members.get(at) {
        members.extend(parents.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        at += 1;
    }
    members
}
