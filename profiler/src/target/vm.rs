//! A process's memory, read while it runs: `process_vm_readv(2)`. No ptrace stop happens; the target's `mmap_lock` is taken
//! for reading, for each part.
//!
//! A page whose content comes from a server that doesn't answer (FUSE, `userfaultfd`) makes the call wait, without end: call
//! from a thread that may be lost.

use std::{io, sync::Arc};

use super::Process;
use crate::runtime::Memory;

/// Parts that the kernel takes at once (`UIO_MAXIOV`, include/uapi/linux/uio.h).
const PARTS: usize = 1024;
/// Bytes that are read at most in one go: what counts and lengths in the target could make of us.
const BYTES: usize = 64 << 20;

/// The memory of a running process.
#[derive(Clone, Debug)]
pub struct ProcessMemory {
    process: Arc<Process>,
    pid: libc::pid_t,
}

impl From<Arc<Process>> for ProcessMemory {
    /// Memory of that process, and never of another that got its id afterwards.
    fn from(process: Arc<Process>) -> Self {
        // What was opened is at most PID_MAX_LIMIT, 2^22; zero is no process at all.
        let pid = libc::pid_t::try_from(process.pid()).unwrap_or(0);
        Self { process, pid }
    }
}

impl Memory for ProcessMemory {
    fn read(&self, parts: &[(u64, usize)]) -> io::Result<Vec<u8>> {
        let bytes = parts.iter().fold(0usize, |sum, (_, length)| sum.saturating_add(*length));
        if bytes > BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{bytes} bytes are more than are read at once ({BYTES})"),
            ));
        }
        let mut into = vec![0; bytes];
        let mut rest = into.as_mut_slice();
        for batch in parts.chunks(PARTS) {
            let length: usize = batch.iter().map(|(_, length)| length).sum();
            let (now, later) = rest.split_at_mut(length);
            read_batch(self.pid, batch, now).map_err(|failure| self.explain(&failure))?;
            rest = later;
        }
        // The call goes by the number. It can have been used again only if the process has ended, which its pidfd tells.
        if self.process.is_alive() { Ok(into) } else { Err(self.ended()) }
    }
}

/// Where reading failed, and why.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    address: u64,
    /// The system's number; `None` if it read less than asked for.
    number: Option<i32>,
}

/// One system call.
fn read_batch(pid: libc::pid_t, parts: &[(u64, usize)], into: &mut [u8]) -> Result<(), Failure> {
    if into.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote: Vec<_> = parts
        .iter()
        .map(|(address, length)| libc::iovec { iov_base: *address as *mut _, iov_len: *length })
        .collect();
    let failed_at = |read: usize| {
        let mut before = 0;
        let part = parts.iter().find(|(_, length)| {
            before += length;
            before > read
        });
        part.map_or(0, |(address, length)| address.wrapping_add((read + length - before) as u64))
    };
    // SAFETY: the kernel writes at most `iov_len` bytes to `into`, which we hold alone. The remote addresses are those of
    // another process and only looked up there; `remote` has as many entries as are told.
    let read = unsafe {
        libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
    };
    match usize::try_from(read) {
        Ok(read) if read == into.len() => Ok(()),
        Ok(read) => Err(Failure { address: failed_at(read), number: None }),
        Err(_) => Err(Failure { address: failed_at(0), number: io::Error::last_os_error().raw_os_error() }),
    }
}

impl ProcessMemory {
    fn ended(&self) -> io::Error {
        io::Error::new(io::ErrorKind::NotFound, format!("process {} has ended", self.pid))
    }

    /// What to tell, and the way out where there is one.
    fn explain(&self, failure: &Failure) -> io::Error {
        let pid = self.pid;
        if failure.number == Some(libc::ESRCH) || !self.process.is_alive() {
            return self.ended();
        }
        let address = failure.address;
        let nothing_there =
            || io::Error::other(format!("nothing can be read at {address:#x} of process {pid}"));
        match failure.number {
            None | Some(libc::EFAULT) => nothing_there(),
            Some(libc::EPERM | libc::EACCES) => io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "not allowed to read the memory of process {pid}: run as root (sudo), or with CAP_SYS_PTRACE"
                ),
            ),
            Some(libc::ENOSYS) => io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel was built without process_vm_readv (CONFIG_CROSS_MEMORY_ATTACH)",
            ),
            Some(number) => {
                let reason = io::Error::from_raw_os_error(number);
                io::Error::new(
                    reason.kind(),
                    format!("can't read the memory of process {pid} at {address:#x}: {reason}"),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn ourselves() -> ProcessMemory {
        ProcessMemory::from(Arc::new(Process::open(std::process::id()).unwrap()))
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn parts_come_one_behind_the_other_however_many() {
        let words: Vec<u64> = (0..3000).map(|number| number * 0x0101_0101).collect();
        let parts: Vec<_> =
            words.iter().rev().map(|word| (std::ptr::from_ref(word) as u64, size_of::<u64>())).collect();
        let expected: Vec<u8> = words.iter().rev().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(ourselves().read(&parts).unwrap(), expected);
        assert_eq!(ourselves().read(&[]).unwrap(), Vec::<u8>::new());
        assert_eq!(ourselves().read(&[(0, 0)]).unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn what_cant_be_read_is_named_by_its_address() {
        let word = 7u64;
        let here = std::ptr::from_ref(&word) as u64;
        let error = ourselves().read(&[(here, 8), (0x10, 8)]).unwrap_err();
        let pid = std::process::id();
        assert_eq!(error.to_string(), format!("nothing can be read at 0x10 of process {pid}"));
        let error = ourselves().read(&[(0x20, 8), (here, 8)]).unwrap_err();
        assert_eq!(error.to_string(), format!("nothing can be read at 0x20 of process {pid}"));
        assert!(ourselves().read(&[(u64::MAX - 3, 8)]).is_err(), "the end of the addresses is no way around");
    }

    #[test]
    fn lengths_without_measure_are_refused_before_anything_is_allocated() {
        for parts in [
            vec![(0x1000, usize::MAX)],
            vec![(0x1000, usize::MAX); 3],
            vec![(0x1000, BYTES / 1000 + 1); 1000],
        ] {
            let error = ourselves().read(&parts).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        }
    }

    #[test]
    fn a_process_that_ended_has_no_memory() {
        let mut child = sleeper();
        let process = Arc::new(Process::open(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        let error = ProcessMemory::from(process).read(&[(0x1000, 8)]).unwrap_err();
        assert_eq!(error.to_string(), format!("process {} has ended", child.id()));
    }

    #[test]
    fn bytes_of_another_process_that_got_the_number_are_nobodys() {
        // The number of a process that lives, with the descriptor of one that has ended: as if the number were used again.
        let mut ended = sleeper();
        let process = Arc::new(Process::open(ended.id()).unwrap());
        ended.kill().unwrap();
        ended.wait().unwrap();
        let word = 7u64;
        let parts = [(std::ptr::from_ref(&word) as u64, 8)];
        let own = libc::pid_t::try_from(std::process::id()).unwrap();
        let error = ProcessMemory { process, pid: own }.read(&parts).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(ourselves().read(&parts).unwrap(), 7u64.to_ne_bytes());
    }

    #[test]
    fn missing_rights_come_with_the_way_out() {
        let failure = Failure { address: 0x1000, number: Some(libc::EPERM) };
        let error = ourselves().explain(&failure).to_string();
        assert!(error.contains("not allowed") && error.contains("CAP_SYS_PTRACE"), "{error}");
    }
}
