//! What tells one process from another, read when it is asked for: a choice by name alone must not read the program's
//! path or the control groups of every process on the machine.

use std::{
    fs::File,
    io::{self, Read as _},
    sync::LazyLock,
};

use procfs::process::Stat;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::{
    Process, TargetError,
    cgroup::Cgroups,
    identity::{PF_KTHREAD, read_stat, read_text},
    maps::{self, MappedObject},
};

/// What the kernel puts behind the name of a file that isn't there any more. A file can also be called that; then it
/// loses these letters here.
const DELETED: &str = " (deleted)";

/// Our own id as `/proc` counts, which may belong to another pid namespace than `getpid` does.
static OURSELVES: LazyLock<u32> = LazyLock::new(|| {
    let link = std::fs::read_link("/proc/self").ok();
    link.and_then(|link| link.to_str()?.parse().ok()).unwrap_or_else(std::process::id)
});

/// A process as it was at one moment. What isn't public is read at the first question, from the same process: its
/// id together with its start time is never taken for another's. It may replace its program at any time (`execve`):
/// then everything but the identity has to be read anew.
#[derive(Debug)]
pub struct ProcessFacts {
    /// Its id.
    pub pid: u32,
    /// Its parent's id; 0 if that is out of sight.
    pub parent: u32,
    /// When it started: clock ticks since boot.
    pub start_ticks: u64,
    /// The name of its main thread, at most 15 bytes; not cleaned.
    pub comm: String,
    /// Resident set, bytes. The kernel keeps this figure loosely: some pages per thread may be missing.
    pub resident_bytes: u64,
    /// It has no user memory.
    pub kernel_thread: bool,
    /// It has ended, or its main thread has: such a process can't be observed.
    pub zombie: bool,
    directory: Option<procfs::process::Process>,
    forbidden: bool,
    exe: Option<Option<String>>,
    cgroups: Option<Option<Cgroups>>,
}

impl ProcessFacts {
    /// Reads the cheap facts of a process: one file.
    ///
    /// # Errors
    ///
    /// If there is no such process, or we may not see it.
    pub fn read(pid: u32) -> Result<Self, TargetError> {
        let raw = i32::try_from(pid).map_err(|_| TargetError::NoSuchProcess(pid))?;
        let directory = procfs::process::Process::new(raw)
            .map_err(|error| TargetError::from_proc(pid, "its directory in /proc", error))?;
        Self::of(directory)
    }

    pub(super) fn of(directory: procfs::process::Process) -> Result<Self, TargetError> {
        let pid = directory.pid.unsigned_abs();
        let stat = read_stat(&directory, pid)?;
        Ok(Self {
            pid,
            parent: stat.ppid.unsigned_abs(),
            start_ticks: stat.starttime,
            resident_bytes: stat.rss.saturating_mul(procfs::page_size()),
            kernel_thread: stat.flags & PF_KTHREAD != 0,
            zombie: is_over(&stat),
            comm: stat.comm,
            directory: Some(directory),
            forbidden: false,
            exe: None,
            cgroups: None,
        })
    }

    /// When it started, by the kernel's clock (`CLOCK_MONOTONIC`), in nanoseconds; to a hundredth of a second.
    pub fn started_ns(&self) -> Option<u64> {
        let clock = |id| {
            let now = rustix::time::clock_gettime(id);
            now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
        };
        // Start times go on while the machine sleeps (since Linux 5.5), that clock doesn't.
        let slept =
            clock(rustix::time::ClockId::Boottime).saturating_sub(clock(rustix::time::ClockId::Monotonic));
        self.start_ticks.checked_mul(1_000_000_000 / procfs::ticks_per_second())?.checked_sub(slept)
    }

    /// Opens it to be observed: this process, or none.
    ///
    /// # Errors
    ///
    /// As [`Process::open`]; also if the id belongs to another process by now.
    pub fn open(&self) -> Result<Process, TargetError> {
        let process = Process::open(self.pid)?;
        if process.stat()?.starttime == self.start_ticks {
            Ok(process)
        } else {
            Err(TargetError::Gone(self.pid))
        }
    }

    /// Whether it is this very process.
    pub fn is_ourselves(&self) -> bool {
        self.pid == *OURSELVES
    }

    /// Whether something that was asked for is kept from us.
    pub const fn is_forbidden(&self) -> bool {
        self.forbidden
    }

    /// The path of its program as it sees it itself: in its own mount namespace and below its own root directory,
    /// without the mark of deleted files; not cleaned. `None` if it has none or we may not know.
    pub fn exe(&mut self) -> Option<&str> {
        if self.exe.is_none() {
            self.exe = Some(self.ask(|process, pid| {
                let link = |what, link: procfs::ProcResult<std::path::PathBuf>| {
                    let path = link.map_err(|error| TargetError::from_proc(pid, what, error))?;
                    Ok::<_, TargetError>(path.to_string_lossy().into_owned())
                };
                Ok(as_it_sees(&link("exe", process.exe())?, &link("root", process.root())?))
            }));
        }
        self.exe.as_ref()?.as_deref()
    }

    /// Its control groups. `None` if it has ended or the kernel has no such thing.
    pub fn cgroups(&mut self) -> Option<&Cgroups> {
        if self.cgroups.is_none() {
            let text = self.ask(|process, pid| read_text(process, pid, "cgroup"));
            self.cgroups = Some(text.and_then(|text| Cgroups::parse(&text)));
        }
        self.cgroups.as_ref()?.as_ref()
    }

    /// See [`Cgroups::unit`].
    pub fn unit(&mut self) -> Option<&str> {
        self.cgroups()?.unit()
    }

    /// See [`Cgroups::container`].
    pub fn container(&mut self) -> Option<&str> {
        self.cgroups()?.container()
    }

    /// The files of which something is mapped executable. `None` if it has ended or we may not know; not kept.
    pub fn mapped_objects(&mut self) -> Option<Vec<MappedObject>> {
        self.ask(|process, pid| Ok(maps::objects_of(&read_text(process, pid, "maps")?)))
    }

    /// The program that it runs, opened for reading.
    pub(super) fn open_exe(&mut self) -> Option<File> {
        self.ask(|process, pid| {
            process.open_relative("exe").map_err(|error| TargetError::from_proc(pid, "exe", error))
        })
    }

    /// The first `limit` bytes of a regular file below its root directory. Its links lead nowhere outside; what isn't a
    /// regular file is never opened for reading, which could block or do something.
    pub(super) fn read_below_root(&mut self, path: &str, limit: u64) -> Option<Vec<u8>> {
        self.ask(|process, pid| {
            let root = process
                .open_relative("root")
                .map_err(|error| TargetError::from_proc(pid, "its root directory", error))?;
            let path = path.trim_start_matches('/');
            read_below(&root, path, limit).map_err(|error| TargetError::from_io(pid, path, error))
        })
    }

    /// Lets go of the open directory; the next question opens it again, if it still is the same process's.
    pub(super) fn release(&mut self) {
        self.directory = None;
    }

    fn ask<T>(
        &mut self,
        question: impl FnOnce(&procfs::process::Process, u32) -> Result<T, TargetError>,
    ) -> Option<T> {
        let answer = self.reopen().and_then(|process| question(process, process.pid.unsigned_abs()));
        if let Err(TargetError::Forbidden { .. }) = &answer {
            self.forbidden = true;
        }
        answer.ok()
    }

    fn reopen(&mut self) -> Result<&procfs::process::Process, TargetError> {
        if self.directory.is_none() {
            let again = Self::read(self.pid)?;
            if again.start_ticks != self.start_ticks {
                return Err(TargetError::Gone(self.pid));
            }
            self.directory = again.directory;
        }
        self.directory.as_ref().ok_or(TargetError::Gone(self.pid))
    }
}

const fn is_over(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X')
}

/// A path from /proc/PID/exe, which begins where the mount namespace does, for a process with this root directory.
fn as_it_sees(exe: &str, root: &str) -> String {
    let exe = exe.strip_suffix(DELETED).unwrap_or(exe);
    let root = root.strip_suffix(DELETED).unwrap_or(root);
    let below = exe.strip_prefix(root.trim_end_matches('/')).filter(|rest| rest.starts_with('/'));
    below.unwrap_or(exe).to_owned()
}

fn read_below(root: &File, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let place = File::from(openat2(root, path, flags, Mode::empty(), resolve)?);
    if !place.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // The link leads to exactly the file that was looked at.
    let file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A process that there isn't.
#[cfg(test)]
pub(super) fn example(comm: &str, exe: Option<&str>, cgroup: &str) -> ProcessFacts {
    ProcessFacts {
        pid: 4242,
        parent: 1,
        start_ticks: 0,
        comm: comm.to_owned(),
        resident_bytes: 0,
        kernel_thread: false,
        zombie: false,
        directory: None,
        forbidden: false,
        exe: Some(exe.map(str::to_owned)),
        cgroups: Some(Cgroups::parse(cgroup)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_as_the_process_sees_them() {
        for (exe, root, seen) in [
            ("/usr/bin/x", "/", "/usr/bin/x"),
            ("/usr/bin/x (deleted)", "/", "/usr/bin/x"),
            ("/srv/box/bin/x", "/srv/box", "/bin/x"),
            ("/srv/box/bin/x (deleted)", "/srv/box (deleted)", "/bin/x"),
            // Not below it: the name only begins alike.
            ("/srv/boxes/bin/x", "/srv/box", "/srv/boxes/bin/x"),
            ("/memfd:tool (deleted)", "/", "/memfd:tool"),
        ] {
            assert_eq!(as_it_sees(exe, root), seen);
        }
    }

    #[test]
    fn nothing_is_read_before_it_is_asked_for_and_the_answers_are_those_of_the_kernel() {
        let mut me = ProcessFacts::read(std::process::id()).unwrap();
        assert!(me.exe.is_none() && me.cgroups.is_none());
        assert!(me.is_ourselves() && !me.kernel_thread && !me.zombie);
        assert_eq!(me.parent, std::os::unix::process::parent_id());
        assert_eq!(me.exe().map(str::to_owned), std::env::current_exe().unwrap().to_str().map(str::to_owned));
        me.release();
        assert!(me.mapped_objects().unwrap().iter().any(|object| me.exe().unwrap() == object.path));
        assert!(me.resident_bytes > 100_000);
    }

    #[test]
    fn an_id_used_again_is_not_the_old_process() {
        let mut me = ProcessFacts::read(std::process::id()).unwrap();
        assert!(me.open().is_ok());
        me.release();
        me.start_ticks += 1;
        assert!(me.open().is_err_and(|error| error.is_gone()));
        assert_eq!(me.exe(), None);
        assert_eq!(me.cgroups(), None);
    }

    #[test]
    fn links_of_a_target_lead_nowhere_outside_its_root_and_pipes_are_not_opened() {
        let directory = std::env::temp_dir().join(format!("profiler-facts-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("inside")).unwrap();
        std::fs::write(directory.join("inside/file"), "0123456789").unwrap();
        std::os::unix::fs::symlink("/inside/file", directory.join("link")).unwrap();
        std::os::unix::fs::symlink("/proc/self/maps", directory.join("out")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let root = File::open(&directory).unwrap();
        let read = |path| read_below(&root, path, 4).ok();
        let found = (read("link"), read("../../inside/file"), read("out"), read("pipe"), read("inside"));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found, (Some(b"0123".to_vec()), Some(b"0123".to_vec()), None, None, None));
    }
}
