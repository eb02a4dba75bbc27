//! What the process gives up before it reads anything: descriptors, its user, capabilities, resources, system calls.

use std::{ffi::c_int, io};

/// `nobody`, of which nothing on the machine is.
const NOBODY: libc::uid_t = 65534;
/// Descriptors that it may have open: two for each file that a client watches.
const DESCRIPTORS: u64 = 16384;
/// Longest file that it may write: copies of files, in memory. It can open none for writing.
const FILE_BYTES: u64 = 8 << 30;

/// Gives up all that is not needed.
///
/// # Errors
///
/// If the system refuses a part that must not be left out.
pub fn enter(memory: u64) -> io::Result<()> {
    // SAFETY: closes descriptors above the socket's. Nothing of ours is open yet: this is the beginning of the program.
    check(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) })?;
    close_bounding_set();
    become_nobody();
    drop_capabilities()?;
    limit(libc::RLIMIT_AS, memory)?;
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_NPROC, 0)?;
    limit(libc::RLIMIT_FSIZE, FILE_BYTES)?;
    limit(libc::RLIMIT_NOFILE, DESCRIPTORS)?;
    // Nobody's processes may not look into ours either.
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    forbid_calls()
}

/// Ends the process in so many seconds; zero: never. That is the client's task; this is for the case that the client is gone
/// while we are busy with something endless. (`PR_SET_PDEATHSIG` would kill us when the *thread* that started us ends.)
pub fn alarm(seconds: u32) {
    // SAFETY: a plain number; the signal's default action is to end the process, and nothing here changes it.
    unsafe { libc::alarm(seconds) };
}

/// If it is allowed: a service without the capability for it isn't root in the first place.
fn become_nobody() {
    // SAFETY: no pointers but an empty list. The process has one thread.
    unsafe {
        if libc::setgroups(0, std::ptr::null()) == 0 && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0 {
            libc::setresuid(NOBODY, NOBODY, NOBODY);
        }
    }
}

/// Takes a capability itself. Without it this fails, and does no harm: no new privileges are gained from now on. Numbers that
/// the kernel doesn't know are refused, too.
fn close_bounding_set() {
    for capability in 0..64 {
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

fn drop_capabilities() -> io::Result<()> {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    // include/uapi/linux/capability.h: version 3 takes two sets of 32.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0_u32; 6];
    // SAFETY: both have the size that version 3 asks for, and are read only.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    check(done as c_int)
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours and as long as the call writes.
    check(unsafe { libc::getrlimit(resource, &raw mut old) })?;
    // Never more than we may have.
    let value = value.min(old.rlim_max);
    let new = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: as above, read only.
    check(unsafe { libc::setrlimit(resource, &raw const new) })
}

/// The only calls that are let through. Anything else fails with `EPERM`; what nobody calls by mistake kills.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_access,
    libc::SYS_fcntl,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_alarm,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls that only somebody who has taken over the process would make.
const DEADLY: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_bpf,
    libc::SYS_mount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
];

/// Flags that make an `openat` more than reading.
const WRITING: u32 = (libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_TRUNC
    | libc::O_APPEND
    | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// Where `struct seccomp_data` (include/uapi/linux/seccomp.h) has the call's number, the machine, and an argument's lower
/// half.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}
/// EM_X86_64 | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE.
const X86_64: u32 = 0xc000_003e;
/// Calls with 32-bit pointers have this bit (arch/x86/include/uapi/asm/unistd.h).
const X32: u32 = 0x4000_0000;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

const fn op(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn load(at: u32) -> libc::sock_filter {
    op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

const fn answer(action: u32) -> libc::sock_filter {
    op(libc::BPF_RET | libc::BPF_K, action)
}

/// Jumps over so many instructions if the loaded value doesn't compare.
const fn unless(comparison: u32, k: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt: 0, jf: skip, k }
}

fn filter() -> Vec<libc::sock_filter> {
    let kill = libc::SECCOMP_RET_KILL_PROCESS;
    let mut filter = vec![
        load(MACHINE),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 1,
            jf: 0,
            k: X86_64,
        },
        answer(kill),
        load(NUMBER),
        unless(libc::BPF_JGE, X32, 1),
        answer(kill),
        // openat: to read, and nothing else.
        unless(libc::BPF_JEQ, libc::SYS_openat as u32, 4),
        load(argument(2)),
        unless(libc::BPF_JSET, WRITING, 1),
        answer(REFUSE),
        answer(libc::SECCOMP_RET_ALLOW),
        // tgkill: to end itself, as abort(3) does. The process has one thread, whose id is its own.
        unless(libc::BPF_JEQ, libc::SYS_tgkill as u32, 4),
        load(argument(0)),
        unless(libc::BPF_JEQ, std::process::id(), 1),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(kill),
    ];
    for (calls, action) in [(ALLOWED, libc::SECCOMP_RET_ALLOW), (DEADLY, kill)] {
        for call in calls {
            filter.push(unless(libc::BPF_JEQ, *call as u32, 1));
            filter.push(answer(action));
        }
    }
    filter.push(answer(REFUSE));
    filter
}

fn forbid_calls() -> io::Result<()> {
    let mut filter = filter();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program points to so many instructions, which live through the call.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    /// How a process ends that does this in the sandbox: its status, as wait(2) gives it.
    fn inside(what: fn() -> bool) -> c_int {
        // SAFETY: the child makes plain system calls and allocates (which glibc allows after a fork), and leaves by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = match enter(1 << 30) {
                Ok(()) => c_int::from(!what()),
                Err(_) => 9,
            };
            // SAFETY: ends the child without running what belongs to the parent.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status
    }

    fn assert_deadly(what: fn() -> bool) {
        let status = inside(what);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "{status:#x}");
    }

    fn assert_true(what: fn() -> bool) {
        let status = inside(what);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
    }

    fn opens(path: &CStr, flags: c_int) -> bool {
        // SAFETY: a name that ends with a zero.
        unsafe { libc::open(path.as_ptr(), flags, 0o600) >= 0 }
    }

    #[test]
    fn what_only_an_intruder_would_do_is_the_end() {
        // SAFETY: plain numbers, here and below.
        assert_deadly(|| unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) } >= 0);
        // SAFETY: as above.
        assert_deadly(|| unsafe { libc::kill(1, 0) } == 0);
        // SAFETY: as above.
        assert_deadly(|| unsafe { libc::fork() } >= 0);
        // SAFETY: as above.
        assert_deadly(
            || unsafe { libc::syscall(libc::SYS_tgkill, libc::getppid(), libc::getppid(), 0) } == 0,
        );
        assert_deadly(|| {
            let program = c"/bin/true".as_ptr();
            // SAFETY: lists that end with a null.
            unsafe {
                libc::execve(program, [program, std::ptr::null()].as_ptr(), [std::ptr::null()].as_ptr()) == 0
            }
        });
        // A call by the 32-bit door has other numbers.
        // SAFETY: getpid by the numbers of x32.
        assert_deadly(|| unsafe { libc::syscall(0x4000_0000 + libc::SYS_getpid) } >= 0);
    }

    #[test]
    fn files_are_opened_for_reading_only_and_secrets_not_at_all() {
        assert_true(|| opens(c"/proc/self/statm", libc::O_RDONLY));
        assert_true(|| !opens(c"/tmp/profiler-sandbox", libc::O_WRONLY | libc::O_CREAT));
        assert_true(|| !opens(c"/dev/null", libc::O_RDWR));
        assert_true(|| !opens(c"/tmp", libc::O_TMPFILE | libc::O_RDWR));
        assert_true(|| !opens(c"/etc/shadow", libc::O_RDONLY));
    }

    #[test]
    fn memory_ends_at_its_limit_and_descriptors_are_closed() {
        assert_true(|| {
            let mut memory: Vec<u8> = Vec::new();
            memory.try_reserve_exact(2 << 30).is_err() && memory.try_reserve_exact(1 << 20).is_ok()
        });
        // SAFETY: asks for a descriptor's flags.
        assert_true(|| (3..1024).all(|descriptor| unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0));
    }
}
