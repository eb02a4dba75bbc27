//! Events of the kernel's tracing system, found and opened without mounting anything that others would see.
//!
//! aya attaches to an event by name only, and only where tracefs is mounted; its links can't be made from an event of
//! one's own. So the number is read here, through a mount that has no place in the tree and ends with its descriptor, and
//! the event is opened with perf_event_open(2).

use std::{
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::SyscallTracepoints;

/// Where the kernel makes a place for it. The older place, below debugfs, is left alone: looking there mounts it.
const PLACE: &str = "/sys/kernel/tracing";
/// `TRACEFS_MAGIC`, include/uapi/linux/magic.h
const MAGIC: u64 = 0x7472_6163;
/// `PERF_TYPE_TRACEPOINT`, `PERF_ATTR_SIZE_VER0`, `PERF_FLAG_FD_CLOEXEC`, `PERF_EVENT_IOC_SET_BPF`: include/uapi/linux/perf_event.h
const TYPE_TRACEPOINT: u64 = 2;
const ATTRIBUTES_SIZE: u64 = 64;
const CLOSE_ON_EXEC: libc::c_ulong = 8;
const SET_BPF: libc::c_ulong = 0x4004_2408;

/// An open tracefs.
pub struct Tracefs(OwnedFd);

impl Tracefs {
    /// Opens it where it is mounted, or else a mount of our own that nobody sees.
    ///
    /// # Errors
    ///
    /// If the kernel has none, or we have no right to mount (`CAP_SYS_ADMIN`).
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        if let Ok(there) = rustix::fs::open(PLACE, flags, Mode::empty())
            && rustix::fs::fstatfs(&there).is_ok_and(|found| found.f_type as u64 == MAGIC)
        {
            return Ok(Self(there));
        }
        let filesystem = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&filesystem)?;
        Ok(Self(fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?))
    }

    /// Whether system calls have events here.
    pub fn syscalls() -> SyscallTracepoints {
        let Ok(tracefs) = Self::open() else { return SyscallTracepoints::OutOfReach };
        match openat(&tracefs.0, "events/syscalls", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(_) => SyscallTracepoints::Present,
            Err(Errno::NOENT) => SyscallTracepoints::Absent,
            Err(_) => SyscallTracepoints::OutOfReach,
        }
    }

    /// The number of an event, named like `syscalls/sys_exit_brk`.
    ///
    /// # Errors
    ///
    /// If there is no such event, or it can't be read.
    pub fn event(&self, name: &str) -> io::Result<u64> {
        let path = format!("events/{name}/id");
        let file = openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        std::fs::File::from(file).take(32).read_to_string(&mut text)?;
        text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// Runs a program at an event, whoever triggers it and on whatever CPU, until the descriptor is closed.
///
/// # Errors
///
/// What the kernel says.
pub fn attach(event: u64, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // struct perf_event_attr: type and size, then the event's number; the rest is zero.
    let attributes: [u64; 8] = [TYPE_TRACEPOINT | ATTRIBUTES_SIZE << 32, event, 0, 0, 0, 0, 0, 0];
    // Of every process, on the first CPU: the kernel keeps the programs with the event, not with its buffers.
    let (every_process, cpu, no_group) = (-1, 0, -1);
    // SAFETY: the kernel reads as many bytes as the attributes say, and the array has them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            every_process,
            cpu,
            no_group,
            CLOSE_ON_EXEC,
        )
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor was just made, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the request takes a descriptor by value.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), SET_BPF, program.as_raw_fd()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts() -> String {
        std::fs::read_to_string("/proc/self/mountinfo").unwrap()
    }

    #[test]
    fn an_event_is_found_and_no_mount_is_seen() {
        let before = mounts();
        let Ok(tracefs) = Tracefs::open() else {
            crate::test_support::skip("no right to look at tracefs");
            return;
        };
        let number = tracefs.event("sched/sched_switch").unwrap();
        assert!(number > 0);
        assert_eq!(mounts(), before);
        let missing = tracefs.event("sched/no_such_event").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
