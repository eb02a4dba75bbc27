//! Facts: what this kernel can do and what we may do. No decisions here.

use std::{fs, path::Path};

use super::tracefs::Tracefs;

/// A right that a thread can have (include/uapi/linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Follow another process's links in /proc, read its memory.
    SysPtrace = 19,
    /// Most of what root may; includes the others on old kernels.
    SysAdmin = 21,
    /// Performance events.
    Perfmon = 38,
    /// Load BPF programs.
    Bpf = 39,
}

impl Capability {
    /// As in capabilities(7).
    pub const fn name(self) -> &'static str {
        match self {
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// Whether system calls have events of their own (CONFIG_FTRACE_SYSCALLS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyscallTracepoints {
    /// They have.
    Present,
    /// This kernel was built without.
    Absent,
    /// We can't tell: tracefs isn't mounted, or not for us, and we have no right to mount it ourselves.
    #[default]
    OutOfReach,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// `uname -m`.
    pub machine: String,
    /// Effective capabilities as a bit set.
    pub capabilities: u64,
    /// The `uprobe` performance monitoring unit exists (CONFIG_UPROBE_EVENTS, Linux 4.17).
    pub uprobes: bool,
    /// `/sys/kernel/btf/vmlinux` exists (CONFIG_DEBUG_INFO_BTF).
    pub btf: bool,
    /// Whether single system calls can be counted.
    pub syscall_tracepoints: SyscallTracepoints,
    /// We see process ids as the kernel does.
    pub initial_pid_namespace: bool,
    /// The mode of the lockdown security module: `none` where there is none.
    pub lockdown: String,
}

/// Inode of the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

impl Facts {
    /// Looks at this machine.
    pub fn gather() -> Self {
        let uname = rustix::system::uname();
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        let capabilities = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        Self {
            release: uname.release().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
            capabilities,
            uprobes: Path::new("/sys/bus/event_source/devices/uprobe/type").exists(),
            btf: Path::new(Self::BTF_PATH).exists(),
            syscall_tracepoints: Tracefs::syscalls(),
            initial_pid_namespace: fs::read_link("/proc/self/ns/pid")
                .is_ok_and(|link| link.as_os_str() == INITIAL_PID_NAMESPACE),
            // "none [integrity] confidentiality"
            lockdown: text("/sys/kernel/security/lockdown")
                .split(['[', ']'])
                .nth(1)
                .unwrap_or("none")
                .to_owned(),
        }
    }

    /// Where the kernel's type information is.
    pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

    /// Whether we have a right. `CAP_SYS_ADMIN` includes BPF and performance events (capabilities(7)).
    pub const fn may(&self, capability: Capability) -> bool {
        let included = matches!(capability, Capability::Bpf | Capability::Perfmon);
        self.has(capability) || (included && self.has(Capability::SysAdmin))
    }

    const fn has(&self, capability: Capability) -> bool {
        self.capabilities & (1 << capability as u32) != 0
    }

    /// Major and minor version of the kernel.
    pub fn version(&self) -> (u32, u32) {
        let mut parts = self.release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}
