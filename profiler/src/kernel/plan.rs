//! The decision: from facts and wishes to what will be loaded. Pure.

use super::{Capability, Facts, KernelError};

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Count allocator calls.
    pub alloc: bool,
    /// Keep the ledger of thread time.
    pub stalls: bool,
}

/// What will be loaded. Neither means that the kernel side isn't needed at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Load the allocator probes.
    pub alloc: bool,
    /// Load the scheduler probes.
    pub stalls: bool,
    /// Load the programs that tell what happens to whole processes. Without them (no type information, or a pid namespace in
    /// which process ids mean something else) forks, replaced programs and ends are seen when somebody looks.
    pub events: bool,
    /// Place many probes at once if that works here; tried when loading.
    pub multi: bool,
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unsupported`] with the reason and the way out, if a wish can't be fulfilled here. Nothing is left
    /// out silently: whoever wants less says so.
    pub fn decide(wanted: Wanted, facts: &Facts) -> Result<Self, KernelError> {
        let kernel_side = wanted.alloc || wanted.stalls;
        let plan = Self {
            alloc: wanted.alloc,
            stalls: wanted.stalls,
            events: kernel_side && facts.btf && facts.initial_pid_namespace,
            multi: kernel_side,
        };
        match plan.obstacle(facts) {
            Some(obstacle) => Err(KernelError::Unsupported(obstacle)),
            None => Ok(plan),
        }
    }

    /// The first thing that stands in the way.
    fn obstacle(self, facts: &Facts) -> Option<String> {
        if !self.alloc && !self.stalls {
            return None;
        }
        let missing: Vec<_> = [Capability::Bpf, Capability::Perfmon, Capability::SysPtrace]
            .into_iter()
            .filter(|capability| !facts.may(*capability))
            .map(Capability::name)
            .collect();
        if !missing.is_empty() {
            return Some(format!(
                "missing rights ({}): run as root (sudo), or use --alloc off --stalls off for what /proc alone tells",
                missing.join(", ")
            ));
        }
        if facts.lockdown == "confidentiality" {
            return Some(
                "the kernel is locked down (confidentiality) and forbids BPF to read memory: boot with lockdown=integrity, \
                 or use --alloc off --stalls off"
                    .to_owned(),
            );
        }
        if self.alloc && facts.machine != "x86_64" {
            return Some(format!(
                "allocator probes are not available on {} yet: use --alloc off",
                facts.machine
            ));
        }
        if self.alloc && !facts.uprobes {
            return Some(format!(
                "kernel {} has no uprobes (CONFIG_UPROBE_EVENTS), so allocations can't be counted: use --alloc off",
                facts.release
            ));
        }
        if self.alloc && facts.version() < (5, 15) {
            return Some(format!(
                "kernel {} is too old to count allocations (5.15 brought probe cookies): use --alloc off",
                facts.release
            ));
        }
        if self.stalls && !facts.btf {
            return Some(format!(
                "kernel {} has no type information ({}; CONFIG_DEBUG_INFO_BTF), so stalls can't be measured: use --stalls off",
                facts.release,
                Facts::BTF_PATH
            ));
        }
        if self.stalls && facts.version() < (5, 18) {
            return Some(format!(
                "kernel {} is too old to measure stalls (5.18 tells the state of a thread that is switched out): use \
                 --stalls off",
                facts.release
            ));
        }
        if self.stalls && !facts.initial_pid_namespace {
            return Some(
                "stalls can't be measured from inside a pid namespace (a container): run on the host, with hostPID, or use \
                 --stalls off"
                    .to_owned(),
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Facts {
        Facts {
            release: "6.12.3-amd64".to_owned(),
            machine: "x86_64".to_owned(),
            capabilities: u64::MAX,
            uprobes: true,
            btf: true,
            initial_pid_namespace: true,
            lockdown: "none".to_owned(),
        }
    }

    const ALL: Wanted = Wanted { alloc: true, stalls: true };

    #[test]
    fn a_good_machine_gets_everything() {
        assert_eq!(
            Plan::decide(ALL, &able()).unwrap(),
            Plan { alloc: true, stalls: true, events: true, multi: true }
        );
    }

    #[test]
    fn counting_alone_does_without_process_events_where_they_cannot_be_had() {
        let wanted = Wanted { alloc: true, stalls: false };
        for facts in [Facts { btf: false, ..able() }, Facts { initial_pid_namespace: false, ..able() }] {
            assert!(!Plan::decide(wanted, &facts).unwrap().events);
        }
        assert!(Plan::decide(wanted, &able()).unwrap().events);
    }

    #[test]
    fn sys_admin_stands_in_for_bpf_and_perfmon() {
        let capabilities = 1 << Capability::SysAdmin as u64 | 1 << Capability::SysPtrace as u64;
        assert!(Plan::decide(ALL, &Facts { capabilities, ..able() }).is_ok());
    }

    #[test]
    fn every_obstacle_names_itself_and_the_way_out() {
        let cases = [
            (Facts { capabilities: 0, ..able() }, "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE", "sudo"),
            (Facts { uprobes: false, ..able() }, "no uprobes", "--alloc off"),
            (Facts { btf: false, ..able() }, "/sys/kernel/btf/vmlinux", "--stalls off"),
            (Facts { release: "5.10.0".to_owned(), ..able() }, "5.10.0", "--alloc off"),
            (Facts { release: "5.15.1".to_owned(), ..able() }, "5.15.1", "--stalls off"),
            (Facts { machine: "riscv64".to_owned(), ..able() }, "riscv64", "--alloc off"),
            (Facts { initial_pid_namespace: false, ..able() }, "pid namespace", "--stalls off"),
            (
                Facts { lockdown: "confidentiality".to_owned(), ..able() },
                "locked down",
                "--alloc off --stalls off",
            ),
        ];
        for (facts, reason, way_out) in cases {
            let error = Plan::decide(ALL, &facts).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(way_out), "{error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn proc_alone_needs_nothing() {
        let nothing = Wanted { alloc: false, stalls: false };
        assert!(Plan::decide(nothing, &Facts::default()).is_ok());
    }
}
