//! What the kernel accounts to a process: time, memory, descriptors.

use std::{collections::HashMap, io::Read as _};

use super::{Process, TargetError, limit::memory_limit};
use procfs::{FromBufRead as _, process::Limits};

/// Cheap figures, read at every sample. Semantics of client_golang's process collector where the name is the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// User and system time, seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// Soft limit of file descriptors; `None` if unlimited.
    pub max_fds: Option<u64>,
    /// Address space, bytes.
    pub virtual_memory_bytes: u64,
    /// Soft limit of the address space, bytes; `None` if unlimited.
    pub virtual_memory_max_bytes: Option<u64>,
    /// Resident set, bytes.
    pub resident_memory_bytes: u64,
    /// Start: seconds since the epoch.
    pub start_time_seconds: f64,
    /// Threads.
    pub threads: u64,
    /// Resident anonymous memory, bytes (`RssAnon`).
    pub anonymous_memory_bytes: u64,
    /// Swapped out anonymous memory, bytes (`VmSwap`).
    pub swap_bytes: u64,
    /// Page faults that needed no I/O.
    pub minor_faults: u64,
    /// Page faults that needed I/O.
    pub major_faults: u64,
    /// Where code and stack begin: the second changes when the process replaces its program (`execve`). Zero once the
    /// main thread has no memory any more.
    pub image: (u64, u64),
}

impl ProcessUsage {
    /// Adds another process's figures: sums, but for limits (the lowest) and the start (the earliest).
    pub fn add(&mut self, other: &Self) {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        self.cpu_seconds += other.cpu_seconds;
        self.open_fds = self.open_fds.zip(other.open_fds).map(|(a, b)| a + b);
        self.max_fds = least(self.max_fds, other.max_fds);
        self.virtual_memory_bytes += other.virtual_memory_bytes;
        self.virtual_memory_max_bytes = least(self.virtual_memory_max_bytes, other.virtual_memory_max_bytes);
        self.resident_memory_bytes += other.resident_memory_bytes;
        self.start_time_seconds = self.start_time_seconds.min(other.start_time_seconds);
        self.threads += other.threads;
        self.anonymous_memory_bytes += other.anonymous_memory_bytes;
        self.swap_bytes += other.swap_bytes;
        self.minor_faults += other.minor_faults;
        self.major_faults += other.major_faults;
    }
}

impl UsageDetail {
    /// Adds another process's figures.
    pub fn add(&mut self, other: &Self) {
        self.memory = self.memory.zip(other.memory).map(|(a, b)| MemoryDetail {
            proportional_bytes: a.proportional_bytes + b.proportional_bytes,
            unique_bytes: a.unique_bytes + b.unique_bytes,
        });
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
        self.memory_limit_bytes =
            [self.memory_limit_bytes, other.memory_limit_bytes].into_iter().flatten().min();
    }
}

/// Figures that take time in proportion to the process: read as seldom as keeps that cost small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageDetail {
    /// Memory by page, `None` where the kernel doesn't offer it.
    pub memory: Option<MemoryDetail>,
    /// Context switches by the threads' own wish since they started.
    pub voluntary_switches: u64,
    /// Context switches against their wish.
    pub involuntary_switches: u64,
    /// The smallest memory limit of the control groups around it, bytes; of several processes, the smallest.
    pub memory_limit_bytes: Option<u64>,
}

/// What the kernel finds by walking the page tables, holding the target's `mmap_lock` for reading meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryDetail {
    /// Resident memory with shared pages divided by their users, bytes (PSS).
    pub proportional_bytes: u64,
    /// Resident memory that nobody else has mapped, bytes (USS).
    pub unique_bytes: u64,
}

/// Adds up the context switches of all threads, and keeps those of threads that have ended (as last seen), so that
/// the sums never sink.
#[derive(Debug, Default)]
pub struct SwitchTally {
    living: HashMap<u32, Switches>,
    ended: Switches,
}

/// By own wish, against it.
type Switches = (u64, u64);

impl Process {
    /// Reads the cheap figures.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn usage(&self) -> Result<ProcessUsage, TargetError> {
        let stat = self.stat()?;
        let status = self.status()?;
        let limits = Limits::from_buf_read(self.read_text("limits")?.as_bytes())
            .map_err(|error| TargetError::from_proc(self.pid(), "limits", error))?;
        let ticks = procfs::ticks_per_second() as f64;
        Ok(ProcessUsage {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            open_fds: self.proc().fd_count().ok().map(|n| n as u64),
            max_fds: soft(&limits.max_open_files),
            virtual_memory_bytes: stat.vsize,
            virtual_memory_max_bytes: soft(&limits.max_address_space),
            resident_memory_bytes: stat.rss * procfs::page_size(),
            start_time_seconds: boot_time() + stat.starttime as f64 / ticks,
            threads: stat.num_threads.unsigned_abs(),
            anonymous_memory_bytes: status.rssanon.unwrap_or(0) * 1024,
            swap_bytes: status.vmswap.unwrap_or(0) * 1024,
            minor_faults: stat.minflt,
            major_faults: stat.majflt,
            image: (stat.startcode, stat.startstack),
        })
    }

    /// Reads the figures that take longer.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn usage_detail(&self, tally: &mut SwitchTally) -> Result<UsageDetail, TargetError> {
        let memory = self.memory_detail()?;
        let (voluntary_switches, involuntary_switches) = tally.update(self)?;
        let memory_limit_bytes =
            self.read_text("cgroup").ok().and_then(|text| memory_limit(&text, &read_group_file));
        Ok(UsageDetail { memory, voluntary_switches, involuntary_switches, memory_limit_bytes })
    }

    fn memory_detail(&self) -> Result<Option<MemoryDetail>, TargetError> {
        let text = self.read_text("smaps_rollup")?;
        let kilobytes = |key: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
            rest.trim_end_matches("kB").trim().parse::<u64>().ok()
        };
        let detail = || {
            Some(MemoryDetail {
                proportional_bytes: kilobytes("Pss:")? * 1024,
                unique_bytes: (kilobytes("Private_Clean:")? + kilobytes("Private_Dirty:")?) * 1024,
            })
        };
        Ok(detail())
    }
}

impl SwitchTally {
    /// The process's own status file counts the leader's switches only, so every thread's is read.
    fn update(&mut self, process: &Process) -> Result<Switches, TargetError> {
        let mut living = HashMap::with_capacity(self.living.len());
        for tid in process.threads()? {
            // A thread that has just ended keeps what it had when last seen.
            let Ok(text) = process.read_text(&format!("task/{tid}/status")) else { continue };
            let value = |key: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(key))
                    .and_then(|rest| rest.trim().parse::<u64>().ok())
            };
            let switches = (
                value("voluntary_ctxt_switches:").unwrap_or(0),
                value("nonvoluntary_ctxt_switches:").unwrap_or(0),
            );
            living.insert(tid, switches);
        }
        for (tid, last) in &self.living {
            // Less than before: the id belongs to a new thread.
            if living.get(tid).is_none_or(|now| now.0 < last.0 || now.1 < last.1) {
                self.ended.0 += last.0;
                self.ended.1 += last.1;
            }
        }
        self.living = living;
        Ok(self.living.values().fold(self.ended, |sum, one| (sum.0 + one.0, sum.1 + one.1)))
    }
}

/// A file of a control group: a number, or a word.
fn read_group_file(path: &str) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(format!("/sys/fs/cgroup{path}")).ok()?;
    file.take(64).read_to_string(&mut text).ok()?;
    Some(text)
}

fn soft(limit: &procfs::process::Limit) -> Option<u64> {
    match limit.soft_limit {
        procfs::process::LimitValue::Unlimited => None,
        procfs::process::LimitValue::Value(value) => Some(value),
    }
}

/// Seconds since the epoch at which the machine booted (`btime` of /proc/stat, read once).
fn boot_time() -> f64 {
    static BOOT: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *BOOT.get_or_init(|| procfs::boot_time_secs().map_or(0.0, |seconds| seconds as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_usage_makes_sense() {
        let me = Process::open(std::process::id()).unwrap();
        let usage = me.usage().unwrap();
        assert!(usage.resident_memory_bytes > 1 << 20);
        assert!(usage.virtual_memory_bytes > usage.resident_memory_bytes);
        assert!(usage.threads >= 1);
        assert!(usage.open_fds.unwrap() >= 3);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(usage.start_time_seconds > now - 3600.0 && usage.start_time_seconds <= now + 1.0);
        let mut tally = SwitchTally::default();
        let detail = me.usage_detail(&mut tally).unwrap();
        let memory = detail.memory.unwrap();
        assert!(memory.unique_bytes > 0 && memory.proportional_bytes >= memory.unique_bytes / 2);
        assert!(detail.voluntary_switches > 0);
    }

    #[test]
    fn switches_of_ended_threads_stay_in_the_sum() {
        let me = Process::open(std::process::id()).unwrap();
        let mut tally = SwitchTally::default();
        let (ready, started) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            for _ in 0..50 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            ready.send(()).unwrap();
            let _ended = wait.recv();
        });
        started.recv().unwrap();
        let before = me.usage_detail(&mut tally).unwrap().voluntary_switches;
        assert!(before >= 50);
        drop(done);
        thread.join().unwrap();
        assert!(me.usage_detail(&mut tally).unwrap().voluntary_switches >= before);
    }
}
