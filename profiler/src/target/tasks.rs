//! A process's threads by the ids that it gives them itself: in a container those are others than ours.

use std::collections::BTreeMap;

use super::{Process, TargetError};

/// Threads that are looked at, at most: each costs the reading of a file. Go's runtime itself stops at 10,000.
const MOST: usize = 10_000;

impl Process {
    /// Our ids of some of its threads, by the ids that it knows them by (`gettid` in its own pid namespace). An id that isn't
    /// that of one of its threads isn't in the answer: so what a process says of its threads can't lead to another's.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn threads_by_own_ids(&self, wanted: &[u32]) -> Result<BTreeMap<u32, u32>, TargetError> {
        let threads = self.threads()?;
        let own_id = |ours: u32| -> Option<u32> {
            let status = self.read_text(&format!("task/{ours}/status")).ok()?;
            own_id(&status)
        };
        let pairs = threads.into_iter().take(MOST).filter_map(|ours| Some((own_id(ours)?, ours)));
        Ok(pairs.filter(|(own, _)| wanted.contains(own)).collect())
    }
}

/// `NSpid` in /proc/PID/task/TID/status has the thread's id in every pid namespace, ours first and its own last
/// (proc_pid_status(5), since Linux 4.1).
fn own_id(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_ascii_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_its_own_threads_are_answered() {
        let me = Process::open(std::process::id()).unwrap();
        let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
        let own = own_id(&status).unwrap();
        let parent = std::os::unix::process::parent_id();
        let found = me.threads_by_own_ids(&[own, parent, 0, u32::MAX]).unwrap();
        assert_eq!(found, BTreeMap::from([(own, tid)]));
    }

    #[test]
    fn of_a_threads_ids_the_innermost_is_its_own() {
        assert_eq!(own_id("Name:\tNSpid: 7\nPid:\t4711\nNSpid:\t4711\t812\t9\n"), Some(9));
        assert_eq!(own_id("NSpid:\t4711\n"), Some(4711));
        for hostile in ["", "NSpid:\n", "NSpid:\t1 x\n", "NSpid:\t-1\n"] {
            assert_eq!(own_id(hostile), None);
        }
    }
}
