//! Whether the returns of functions can be taken here, and how: found out at start, on a child of our own.
//!
//! To take a return, the kernel puts an address of its own in place of the return address; behind that stands a breakpoint, or
//! since Linux 6.11 a system call (`sys_uretprobe`). Up to 6.13 that call goes through seccomp filters, which know nothing of
//! it: a process under a strict one is killed (systemd#34615). Hence the trial: a child of ours that is as strict.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData};

use super::{
    Kernel,
    place::{PAIRS, Probes, SESSIONS, TRIED, Unfit, trial_function, trial_place},
};

/// How returns are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returns {
    /// By a program that says at each call whether it wants the return (uprobe session, Linux 6.13).
    Session,
    /// All returns of a function are taken.
    Probe,
    /// Not at all, for this reason: nothing is sampled.
    None(String),
}

impl Returns {
    /// One word, for people and labels.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Session => "uprobe_session",
            Self::Probe => "uretprobe",
            Self::None(_) => "none",
        }
    }
}

/// How long the child may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Indices of the map `TRIALS`.
const ENTRIES: u32 = 0;
const RETURNS: u32 = 1;
/// The calls that the child makes.
const CALLS: u64 = 2;

/// The confinements that a target may live under (seccomp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confinement {
    /// A filter that allows nothing but to end.
    Filter,
    /// The strict mode: read, write, exit, sigreturn.
    Strict,
}

impl Kernel {
    /// How returns are taken here.
    pub const fn returns(&self) -> &Returns {
        &self.returns
    }

    /// Where the kernel can take all returns of a function or none (before Linux 6.13), it takes none from now on: those of a
    /// program that a process will replace itself with (`execve`) would be taken before anybody has looked at it.
    pub(super) fn take_no_returns_unasked(&mut self) {
        if self.returns == Returns::Probe {
            self.returns = Returns::None(
                "this kernel takes all returns of a function or none (Linux 6.13 leaves it to the program), which makes \
                 allocations some 40 % dearer and can end programs of Go's that call C: --leaks on does it"
                    .to_owned(),
            );
        }
    }

    /// Finds it out, loading the programs that are needed.
    pub(super) fn find_returns(&mut self, sessions: bool, trials: &Array<MapData, u64>) {
        let asked = Instant::now();
        self.returns = match self.try_sessions(sessions, trials) {
            Ok(()) => Returns::Session,
            Err(reason) => {
                tracing::debug!("no choice of returns: {reason}");
                match self.try_pairs(trials) {
                    Ok(()) => Returns::Probe,
                    Err(reason) => Returns::None(reason.to_string()),
                }
            }
        };
        tracing::debug!("returns: {:?}, found out in {:?}", self.returns, asked.elapsed());
    }

    fn try_sessions(&mut self, sessions: bool, trials: &Array<MapData, u64>) -> Result<(), Unfit> {
        let multi = self.multi.as_mut().filter(|_| sessions);
        multi.ok_or_else(|| Unfit("not to be tried".to_owned()))?.add(&SESSIONS)?;
        // The first return is taken, the second isn't.
        self.try_both(&["trial_session"], trials, 1)
    }

    fn try_pairs(&mut self, trials: &Array<MapData, u64>) -> Result<(), Unfit> {
        if let Some(multi) = &mut self.multi {
            multi.add(&PAIRS)?;
        }
        self.try_both(&["trial_return", "trial"], trials, CALLS)
    }

    fn try_both(
        &mut self,
        programs: &[&'static str],
        trials: &Array<MapData, u64>,
        returns: u64,
    ) -> Result<(), Unfit> {
        for confinement in [Confinement::Filter, Confinement::Strict] {
            let seen = |index| trials.get(&index, 0).map_err(|error| Unfit(error.to_string()));
            let before = [seen(ENTRIES)?, seen(RETURNS)?];
            self.try_on_child(programs, confinement)?;
            let now = [seen(ENTRIES)? - before[0], seen(RETURNS)? - before[1]];
            if now != [CALLS, returns] {
                return Err(Unfit(format!("of {CALLS} calls, entries and returns seen: {now:?}")));
            }
        }
        Ok(())
    }

    /// Whether a confined child survives calls of a function that is probed like this.
    fn try_on_child(&mut self, programs: &[&'static str], confinement: Confinement) -> Result<(), Unfit> {
        let place = trial_place()?;
        let error = |what: &'static str| move |error: io::Error| Unfit(format!("{what}: {error}"));
        let mut child = Child::fork(confinement).map_err(error("a child to try with"))?;
        let mut links: Vec<Probes> = Vec::new();
        for program in programs {
            let link = self.place(program, child.pid.cast_unsigned(), Path::new("/proc/self/exe"), &[place]);
            links.push(link.map_err(|error| Unfit(format!("a link to a child: {error}")))?);
        }
        let status = child.go().map_err(error("a child to try with"));
        // It takes tens of milliseconds, and nobody has to wait. Without a thread to spare, here and now.
        let _thread = std::thread::Builder::new().spawn(move || drop(links));
        let status = status?;
        if libc::WIFSIGNALED(status) {
            return Err(Unfit(
                "this kernel kills processes under a seccomp filter when a function returns that is observed (Linux 6.11 \
                 to 6.13)"
                    .to_owned(),
            ));
        }
        match libc::WEXITSTATUS(status) {
            0 => Ok(()),
            code => Err(Unfit(format!("a call under observation has gone wrong in a child ({code})"))),
        }
    }
}

/// A child of ours that waits to be confined and to make its calls.
struct Child {
    pid: libc::pid_t,
    /// Written to let it go.
    start: Option<OwnedFd>,
}

impl Child {
    fn fork(confinement: Confinement) -> io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: new descriptors that nobody else knows.
        let (wait, start) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let call = trial_function();
        // SAFETY: the child makes system calls and calls a function of ours that computes; it takes no lock and asks for no
        // memory, which other threads might have held when it was forked.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the descriptors are open in the child as well.
            0 => unsafe { be_tried(wait.as_raw_fd(), start.as_raw_fd(), confinement, call) },
            pid => Ok(Self { pid, start: Some(start) }),
        }
    }

    /// Lets it make its calls; how it has ended.
    fn go(&mut self) -> io::Result<libc::c_int> {
        if let Some(start) = self.start.take() {
            rustix::io::write(&start, &[1])?;
        }
        let end = Instant::now() + PATIENCE;
        let mut status = 0;
        loop {
            // SAFETY: a child of ours that wasn't reaped, and room for its status.
            match unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) } {
                0 if Instant::now() < end => std::thread::sleep(Duration::from_micros(200)),
                0 => return Err(io::ErrorKind::TimedOut.into()),
                -1 => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        self.pid = 0;
                        return Err(error);
                    }
                }
                _ => {
                    self.pid = 0;
                    return Ok(status);
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: a child of ours that wasn't reaped, so that the id is its own.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// The child's whole life.
///
/// # Safety
///
/// To be called in a forked child only.
unsafe fn be_tried(wait: libc::c_int, start: libc::c_int, confinement: Confinement, call: fn() -> u32) -> ! {
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // If the number of the system call (the first member of `struct seccomp_data`) is that of exit, go on, else skip one.
    let is_exit = libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: 1,
        k: libc::SYS_exit as u32,
    };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        is_exit,
        statement(libc::BPF_RET | libc::BPF_K, ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, KILL),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: system calls with arguments that live through them; the last one doesn't return.
    unsafe {
        libc::close(start);
        let mut byte = 0_u8;
        if libc::read(wait, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(2);
        }
        match confinement {
            Confinement::Filter => {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                // What wasn't tried isn't known to be safe.
                if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) != 0
                {
                    libc::_exit(3);
                }
            }
            Confinement::Strict => {
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0, 0, 0);
            }
        }
        let good = (0..CALLS).all(|_| call() == TRIED);
        libc::syscall(libc::SYS_exit, if good { 0 } else { 1 });
    }
    // The kernel has not let it end: by a fault, then.
    std::process::abort()
}
