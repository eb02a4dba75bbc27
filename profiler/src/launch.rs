//! Starting a program of our own (`run`) so that its very first allocation is counted.
//!
//! The only place that traces a process, and only this child, only until its allocator is mapped: the child stops at
//! its system calls; once an allocator's code is mapped, and before any of it has run, the probes are placed and the
//! child is let go.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus},
};

use thiserror::Error;

use crate::{
    config::Push,
    push::client::{Credentials, Secret},
};

/// More system calls than any dynamic linker makes before the C library is mapped.
const STEPS: usize = 4000;

/// Why a program couldn't be started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The system refused to start it.
    #[error("can't start {program:?}: {source}")]
    Start {
        /// As given.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// It ended before it could be observed.
    #[error("{program:?} ended before it could be observed ({status})")]
    Ended {
        /// As given.
        program: OsString,
        /// How.
        status: ExitStatus,
    },
    /// The system refused to trace it.
    #[error("can't hold {program:?} until its allocator is mapped: {source}")]
    Trace {
        /// As given.
        program: OsString,
        /// Why.
        source: io::Error,
    },
}

/// Variables that a program which we start doesn't get: secrets of ours, which it could read and print. A secret that we have
/// from a file isn't in the environment because of us; the program gets what is there then, for it may need it itself.
pub fn withheld(push: Option<&Push>) -> Vec<&'static str> {
    let Some(Credentials { token, password, user: _ }) = push.map(|push| &push.server.credentials) else {
        return Vec::new();
    };
    let secrets = [(token, "INFLUX_TOKEN"), (password, "INFLUX_PASSWORD")];
    let ours = secrets.into_iter().filter(|(secret, _)| matches!(secret, Some(Secret::Value(_))));
    ours.map(|(_, variable)| variable).collect()
}

/// A child that is held at its start. Dropping it ends it: it was started to be observed.
pub struct Launched {
    /// Taken when the child is let go or has ended.
    child: Option<std::process::Child>,
    pid: u32,
    program: OsString,
}

/// A child that runs.
pub struct Child(std::process::Child);

impl Child {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }
}

impl Launched {
    /// Starts a program without these variables of our environment; it is stopped before its first instruction.
    ///
    /// # Errors
    ///
    /// If there is no such program, or it can't be started.
    pub fn start(argv: &[OsString], withheld: &[&str]) -> Result<Self, LaunchError> {
        let (program, arguments) = argv
            .split_first()
            .map_or((OsString::new(), [].as_slice()), |(program, rest)| (program.clone(), rest));
        let mut command = Command::new(&program);
        command.args(arguments);
        for variable in withheld {
            command.env_remove(variable);
        }
        // SAFETY: ptrace(PTRACE_TRACEME) is a plain system call; it touches no memory of ours.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let child =
            command.spawn().map_err(|source| LaunchError::Start { program: program.clone(), source })?;
        let mut launched = Self { pid: child.id(), child: Some(child), program };
        launched.wait_for_stop()?;
        // Marks the stops of system calls, so that they can't be taken for a SIGTRAP of the program's own.
        launched.ptrace(libc::PTRACE_SETOPTIONS, libc::PTRACE_O_TRACESYSGOOD as usize)?;
        Ok(launched)
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets the child run from system call to system call until an allocator is mapped, or it is clear that none comes
    /// (a static program; more steps than a dynamic linker needs). `mapped` tells whether one is, and how many files are.
    ///
    /// # Errors
    ///
    /// If the child ends, or can't be traced.
    pub fn step_until(&mut self, mut mapped: impl FnMut() -> (bool, usize)) -> Result<(), LaunchError> {
        let (there, files) = mapped();
        if there || files < 2 {
            // A program without a dynamic linker maps nothing more.
            return Ok(());
        }
        let mut signal = 0;
        for _ in 0..STEPS {
            self.ptrace(libc::PTRACE_SYSCALL, signal)?;
            signal = 0;
            match self.wait_for_stop()? {
                // 0x80 marks a system call's stop (ptrace(2), PTRACE_O_TRACESYSGOOD).
                stop if stop == libc::SIGTRAP | 0x80 => {
                    if self.maps_code() && mapped().0 {
                        return Ok(());
                    }
                }
                libc::SIGTRAP => {}
                other => signal = usize::try_from(other).unwrap_or(0),
            }
        }
        Ok(())
    }

    /// Whether the child is at an `mmap` or `mprotect` that makes something executable.
    fn maps_code(&self) -> bool {
        // SAFETY: a structure of integers; all zeroes is a value of it.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills in a structure of the size it knows for this architecture.
        let result = unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.raw_pid(), 0, &raw mut registers) };
        let call = registers.orig_rax as i64;
        result == 0
            && (call == libc::SYS_mmap || call == libc::SYS_mprotect)
            && registers.rdx & libc::PROT_EXEC as u64 != 0
    }

    /// Lets the child go.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn release(mut self) -> Result<Child, LaunchError> {
        self.ptrace(libc::PTRACE_DETACH, 0)?;
        match self.child.take() {
            Some(child) => Ok(Child(child)),
            None => Err(self.trace_error(io::ErrorKind::NotFound.into())),
        }
    }

    fn wait_for_stop(&mut self) -> Result<i32, LaunchError> {
        let mut status = 0;
        // SAFETY: waits for our own child and writes one integer.
        let result = unsafe { libc::waitpid(self.raw_pid(), &raw mut status, libc::__WALL) };
        if result < 0 {
            return Err(self.trace_error(io::Error::last_os_error()));
        }
        if libc::WIFSTOPPED(status) {
            return Ok(libc::WSTOPSIG(status));
        }
        self.child = None;
        let status = std::os::unix::process::ExitStatusExt::from_raw(status);
        Err(LaunchError::Ended { program: self.program.clone(), status })
    }

    fn ptrace(&self, request: libc::c_uint, data: usize) -> Result<(), LaunchError> {
        // SAFETY: none of the requests used here reads or writes memory of ours.
        match unsafe { libc::ptrace(request, self.raw_pid(), 0, data) } {
            -1 => Err(self.trace_error(io::Error::last_os_error())),
            _ => Ok(()),
        }
    }

    fn trace_error(&self, source: io::Error) -> LaunchError {
        LaunchError::Trace { program: self.program.clone(), source }
    }

    fn raw_pid(&self) -> libc::pid_t {
        self.pid.cast_signed()
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::push::client::Server;

    #[test]
    fn a_secret_is_withheld_if_it_was_ours_and_from_the_environment() {
        let value = || Some(Secret::Value("s".to_owned()));
        let file = || Some(Secret::File("/token".into()));
        let cases: [(_, _, &[&str]); 4] = [
            (value(), value(), &["INFLUX_TOKEN", "INFLUX_PASSWORD"]),
            (file(), value(), &["INFLUX_PASSWORD"]),
            (value(), None, &["INFLUX_TOKEN"]),
            (file(), None, &[]),
        ];
        for (token, password, expected) in cases {
            let credentials = Credentials { user: Some("me".to_owned()), password, token };
            let push = Push {
                server: Server {
                    url: "http://db:1".to_owned(),
                    api: None,
                    database: "x".to_owned(),
                    org: None,
                    credentials,
                },
                interval: Duration::from_secs(10),
                tags: Vec::new(),
                prefix: String::new(),
                unsigned: false,
                spool: None,
                spool_bytes: 0,
                spool_age: Duration::MAX,
            };
            assert_eq!(withheld(Some(&push)), expected);
        }
        assert_eq!(withheld(None), [""; 0], "nothing is pushed, so nothing in there is ours");
    }

    #[test]
    fn a_program_gets_our_environment_but_for_what_is_withheld() {
        let variables = |withheld: &[&str]| {
            let launched = Launched::start(&["/bin/true".into()], withheld).unwrap();
            let environment = std::fs::read(format!("/proc/{}/environ", launched.pid())).unwrap();
            let names = environment.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
            names.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect::<Vec<_>>()
        };
        let all = variables(&[]);
        assert!(all.iter().any(|entry| entry.starts_with("PATH=")), "{all:?}");
        let rest: Vec<_> = all.into_iter().filter(|entry| !entry.starts_with("PATH=")).collect();
        assert_eq!(variables(&["PATH", "INFLUX_TOKEN_THAT_NOBODY_HAS"]), rest);
    }
}
