//! Which process it is, for as long as we look at it.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use procfs::{FromBufRead as _, FromRead as _, process::Stat, process::Status};
use profiler_common::sched::ThreadState;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::TargetError;

/// `PF_KTHREAD` in include/linux/sched.h; field `flags` of /proc/PID/stat.
pub(super) const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_FORKNOEXEC` there: forked, and no `execve` since.
const PF_FORKNOEXEC: u32 = 0x0000_0040;
/// `PF_EXITING` there.
const PF_EXITING: u32 = 0x0000_0004;
/// No file of `/proc` that we read is larger; `maps` of a process with 65,530 mappings is about 6 MB.
const PROC_FILE_LIMIT: u64 = 64 << 20;

/// A process that was alive when it was opened, and can't be mistaken for another one afterwards.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    /// Holds /proc/PID open: reads fail once the process is gone, also when its id is used again.
    proc: procfs::process::Process,
}

/// What `/proc` said of a thread at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadSighting {
    /// How it was blocked, or `None` if it was running or runnable (which `/proc` doesn't tell apart).
    pub blocked: Option<ThreadState>,
    /// User and system time, in clock ticks.
    pub cpu_ticks: u64,
}

impl Process {
    /// Opens a process.
    ///
    /// # Errors
    ///
    /// If there is none, it is a kernel thread or only a thread's id, or we may not read it.
    pub fn open(pid: u32) -> Result<Self, TargetError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(TargetError::NoSuchProcess(pid))?;
        let proc = procfs::process::Process::new(raw.as_raw_nonzero().get()).map_err(|error| {
            match TargetError::from_proc(pid, "its directory in /proc", error) {
                TargetError::Gone(pid) => TargetError::NoSuchProcess(pid),
                other => other,
            }
        })?;
        let stat = read_stat(&proc, pid)?;
        if stat.flags & PF_KTHREAD != 0 {
            return Err(TargetError::KernelThread { pid, name: crate::text::clean(&stat.comm) });
        }
        let status = read_status(&proc, pid)?;
        if status.tgid != status.pid {
            return Err(TargetError::IsThread { tid: pid, pid: status.tgid.unsigned_abs() });
        }
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH => TargetError::Gone(pid),
            error => TargetError::from_io(pid, "its pidfd (needs Linux 5.3)", error.into()),
        })?;
        // The directory was opened before the pidfd: only if it still answers do both mean the same process.
        let again = read_stat(&proc, pid)?;
        let process = Self { pid, pidfd, proc };
        if !process.is_alive() {
            return Err(TargetError::Gone(pid));
        }
        if matches!(again.state, 'Z' | 'X') {
            let lives_on = process.lives_on_without_its_main_thread();
            return Err(if lives_on { TargetError::NoMainThread(pid) } else { TargetError::Gone(pid) });
        }
        Ok(process)
    }

    /// Whether it still runs the program that its parent ran when it was forked.
    pub fn runs_its_parents_program(&self) -> bool {
        self.stat().is_ok_and(|stat| stat.flags & PF_FORKNOEXEC != 0)
    }

    /// The process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // A pidfd becomes readable when the process ends.
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// The process's name (`comm`), cleaned of anything that could disturb a terminal or a protocol.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn comm(&self) -> Result<String, TargetError> {
        Ok(crate::text::clean(&self.stat()?.comm))
    }

    /// The path of its program as the kernel shows it, cleaned; `None` where that is hidden from us.
    pub fn exe(&self) -> Option<String> {
        self.proc.exe().ok().map(|path| crate::text::clean(&path.to_string_lossy()))
    }

    /// Ids of its threads.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn threads(&self) -> Result<Vec<u32>, TargetError> {
        let tasks = self.proc.tasks().map_err(|error| TargetError::from_proc(self.pid, "task", error))?;
        Ok(tasks.filter_map(|task| task.ok()).map(|task| task.tid.unsigned_abs()).collect())
    }

    /// Whether any thread but the main one is neither dead nor on its way out.
    pub fn lives_on_without_its_main_thread(&self) -> bool {
        let others = self.threads().unwrap_or_default().into_iter().filter(|tid| *tid != self.pid);
        others.into_iter().any(|tid| {
            let stat = self.read_text(&format!("task/{tid}/stat")).ok();
            let stat = stat.and_then(|text| Stat::from_read(text.as_bytes()).ok());
            stat.is_some_and(|stat| !matches!(stat.state, 'Z' | 'X') && stat.flags & PF_EXITING == 0)
        })
    }

    /// What a thread is doing just now; `None` once it has ended.
    pub fn sight_thread(&self, tid: u32) -> Option<ThreadSighting> {
        let text = self.read_text(&format!("task/{tid}/stat")).ok()?;
        let stat = Stat::from_read(text.as_bytes()).ok()?;
        let blocked = match stat.state {
            'R' => None,
            'Z' | 'X' => return None,
            // /proc doesn't say what it waits for.
            'D' => Some(ThreadState::Uninterruptible),
            'T' | 't' => Some(ThreadState::Stopped),
            _ if self.in_futex(tid) => Some(ThreadState::Futex),
            _ => Some(ThreadState::Sleeping),
        };
        Some(ThreadSighting { blocked, cpu_ticks: stat.utime + stat.stime })
    }

    /// Whether the thread sleeps in a futex call: the first word of /proc/PID/task/TID/syscall is the call's number.
    fn in_futex(&self, tid: u32) -> bool {
        let text = self.read_text(&format!("task/{tid}/syscall")).unwrap_or_default();
        let number = text.split_whitespace().next().and_then(|word| word.parse::<i64>().ok());
        // SYS_futex, futex_waitv, futex_wait, futex_requeue
        number.is_some_and(|n| n == libc::SYS_futex || matches!(n, 449 | 455 | 456))
    }

    /// Follows a link of the process's directory and opens what it leads to, for reading.
    pub(super) fn open_file(&self, name: &str) -> Result<File, TargetError> {
        self.proc.open_relative(name).map_err(|error| TargetError::from_proc(self.pid, name, error))
    }

    pub(super) fn stat(&self) -> Result<Stat, TargetError> {
        read_stat(&self.proc, self.pid)
    }

    pub(super) fn status(&self) -> Result<Status, TargetError> {
        read_status(&self.proc, self.pid)
    }

    /// Whether its main thread runs with a shadow stack (`x86_Thread_features` in /proc/PID/status).
    pub fn has_shadow_stack(&self) -> Option<bool> {
        let status = self.read_text("status").ok()?;
        let features = status.lines().find_map(|line| line.strip_prefix("x86_Thread_features:"));
        Some(features.is_some_and(|features| features.split_whitespace().any(|feature| feature == "shstk")))
    }

    pub(super) const fn proc(&self) -> &procfs::process::Process {
        &self.proc
    }

    pub(super) fn read_text(&self, name: &str) -> Result<String, TargetError> {
        read_text(&self.proc, self.pid, name)
    }

    /// Its id as it sees it itself, and the user that its files belong to (as we see it).
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn inner_id_and_user(&self) -> Result<(u32, u32), TargetError> {
        let status = self.read_text("status")?;
        // NSpid: in every pid namespace, ours first. Uid: real, effective, saved, of the file system (proc_pid_status(5)).
        let word = |label: &str, number: Option<usize>| {
            let mut words =
                status.lines().find_map(|line| line.strip_prefix(label))?.split_ascii_whitespace();
            let word = match number {
                Some(number) => words.nth(number),
                None => words.next_back(),
            };
            word?.parse().ok()
        };
        Ok((word("NSpid:", None).unwrap_or(self.pid), word("Uid:", Some(3)).unwrap_or(0)))
    }

    /// The process's own root directory, as a path that leads there from anywhere.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Reads a file of the process's directory whole, in one go; bytes that aren't UTF-8 become U+FFFD.
pub(super) fn read_text(
    proc: &procfs::process::Process,
    pid: u32,
    name: &str,
) -> Result<String, TargetError> {
    let file = proc.open_relative(name).map_err(|error| TargetError::from_proc(pid, name, error))?;
    let mut bytes = Vec::with_capacity(4096);
    file.take(PROC_FILE_LIMIT)
        .read_to_end(&mut bytes)
        .map_err(|error| TargetError::from_io(pid, name, error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn read_stat(proc: &procfs::process::Process, pid: u32) -> Result<Stat, TargetError> {
    let text = read_text(proc, pid, "stat")?;
    Stat::from_read(text.as_bytes()).map_err(|error| TargetError::from_proc(pid, "stat", error))
}

fn read_status(proc: &procfs::process::Process, pid: u32) -> Result<Status, TargetError> {
    let text = read_text(proc, pid, "status")?;
    Status::from_buf_read(text.as_bytes()).map_err(|error| TargetError::from_proc(pid, "status", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_find_ourselves() {
        let me = Process::open(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(me.threads().unwrap().contains(&std::process::id()));
        assert!(me.exe().is_some());
    }

    #[test]
    fn a_number_that_is_no_process_is_refused() {
        assert!(matches!(Process::open(u32::MAX), Err(TargetError::NoSuchProcess(_))));
        assert!(matches!(Process::open(0), Err(TargetError::NoSuchProcess(0))));
        // Larger than the largest pid_max (PID_MAX_LIMIT, 4,194,304).
        assert!(matches!(Process::open(4_194_305), Err(TargetError::NoSuchProcess(_))));
    }

    #[test]
    fn kthreadd_is_a_kernel_thread() {
        let error = Process::open(2);
        assert!(
            matches!(error, Err(TargetError::KernelThread { .. } | TargetError::NoSuchProcess(_))),
            "pid 2 is kthreadd, or hidden in a container: {error:?}"
        );
    }

    #[test]
    fn a_threads_id_names_its_process() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
            let _ended = wait.recv();
        });
        let tid = receive.recv().unwrap();
        let error = Process::open(tid).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{tid} is a thread of process {0}: use --pid {0}", std::process::id())
        );
        drop(done);
        thread.join().unwrap();
    }

    #[test]
    fn a_process_that_ended_is_gone_and_stays_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(process.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert!(process.stat().unwrap_err().is_gone());
    }
}
