//! The decision: from facts and wishes to what will be loaded. Pure.

use super::{Capability, Facts, KernelError, SyscallTracepoints};

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Count allocator calls.
    pub alloc: bool,
    /// Keep the ledger of thread time.
    pub stalls: bool,
    /// Count calls that map memory. Makes every system call of the machine dearer.
    pub mappings: bool,
    /// Be ready to sample pages that are touched for the first time, one in so many bytes on average
    /// ([`super::Kernel::sample_pages`]).
    pub growth: Option<u64>,
    /// Sample allocations, if they are counted. Without this, counting costs nothing more than counting.
    pub samples: bool,
    /// Measure each stop of the world of Go programs.
    pub go_stops: bool,
}

impl Wanted {
    /// No kernel side.
    pub const NOTHING: Self =
        Self { alloc: false, stalls: false, mappings: false, samples: false, growth: None, go_stops: false };
}

/// What will be loaded. None of them means that the kernel side isn't needed at all.
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
    /// Load the probes of system calls that map memory.
    pub mappings: bool,
    /// Load the probes of first touches of pages: one sample in so many bytes on average. They are attached when a target's
    /// are wanted.
    pub growth: Option<u64>,
    /// Load the probe that tells of targets that are killed for memory.
    pub victims: bool,
    /// Load the programs that sample allocations, if returns can be taken here; tried when loading.
    pub samples: bool,
    /// Let the programs choose the returns that they want, if that works here; tried when loading.
    pub sessions: bool,
    /// Load the probes of stops of the world of Go programs.
    pub go_stops: bool,
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unsupported`] with the reason and the way out, if a wish can't be fulfilled here. Nothing is left
    /// out silently: whoever wants less says so.
    pub fn decide(wanted: Wanted, facts: &Facts) -> Result<Self, KernelError> {
        let kernel_side =
            wanted.alloc || wanted.stalls || wanted.mappings || wanted.growth.is_some() || wanted.go_stops;
        let events = kernel_side && facts.btf && facts.initial_pid_namespace;
        let plan = Self {
            alloc: wanted.alloc,
            stalls: wanted.stalls,
            mappings: wanted.mappings,
            events,
            growth: wanted.growth,
            victims: events && (wanted.growth.is_some() || (wanted.alloc && wanted.samples)),
            multi: kernel_side,
            samples: wanted.alloc && wanted.samples,
            sessions: wanted.alloc && wanted.samples,
            go_stops: wanted.go_stops,
        };
        match plan.obstacle(facts) {
            Some(obstacle) => Err(KernelError::Unsupported(obstacle)),
            None => Ok(plan),
        }
    }

    /// Why pages can't be sampled here, if so.
    pub fn obstacle_to_growth(facts: &Facts) -> Option<String> {
        let alone = Wanted { growth: Some(profiler_common::sample::LARGEST_MEAN), ..Wanted::NOTHING };
        Self::decide(alone, facts).err().map(|error| error.to_string())
    }

    /// Whether anything of it is in the kernel.
    pub const fn needs_kernel(self) -> bool {
        self.alloc || self.stalls || self.mappings || self.growth.is_some() || self.go_stops
    }

    /// Whether anything comes through the ring of samples.
    pub(super) const fn tells_samples(self) -> bool {
        self.samples || self.growth.is_some()
    }

    /// The first thing that stands in the way.
    fn obstacle(self, facts: &Facts) -> Option<String> {
        if !self.needs_kernel() {
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
        if self.mappings
            && let Some(obstacle) = self.obstacle_to_mappings(facts)
        {
            return Some(obstacle);
        }
        if self.go_stops
            && let Some(obstacle) = obstacle_to_go_stops(facts)
        {
            return Some(obstacle);
        }
        self.growth.and_then(|_| obstacle_to_growth(facts))
    }

    fn obstacle_to_mappings(self, facts: &Facts) -> Option<String> {
        if facts.machine != "x86_64" {
            return Some(format!(
                "calls that map memory can't be counted on {} yet: use --mappings off",
                facts.machine
            ));
        }
        if facts.version() < (5, 15) {
            return Some(format!(
                "kernel {} is too old to count calls that map memory (5.15 shows their arguments): use --mappings off",
                facts.release
            ));
        }
        if !facts.btf {
            return Some(format!(
                "kernel {} has no type information ({}; CONFIG_DEBUG_INFO_BTF), so calls that map memory can't be counted: \
                 use --mappings off",
                facts.release,
                Facts::BTF_PATH
            ));
        }
        if !facts.initial_pid_namespace {
            return Some(
                "calls that map memory can't be counted from inside a pid namespace (a container): run on the host, with \
                 hostPID, or use --mappings off"
                    .to_owned(),
            );
        }
        match facts.syscall_tracepoints {
            SyscallTracepoints::Present => None,
            SyscallTracepoints::Absent => Some(format!(
                "kernel {} has no events for system calls (CONFIG_FTRACE_SYSCALLS), so calls that map memory can't be \
                 counted: use --mappings off",
                facts.release
            )),
            SyscallTracepoints::OutOfReach => Some(
                "the kernel's events (tracefs) are out of reach, so calls that map memory can't be counted: run as root, \
                 mount -t tracefs tracefs /sys/kernel/tracing, or use --mappings off"
                    .to_owned(),
            ),
        }
    }
}

fn obstacle_to_go_stops(facts: &Facts) -> Option<String> {
    let reason = if facts.machine != "x86_64" {
        format!("on {} yet", facts.machine)
    } else if !facts.uprobes {
        format!("by kernel {}, which has no uprobes (CONFIG_UPROBE_EVENTS)", facts.release)
    } else if facts.version() < (5, 15) {
        format!("by kernel {} (5.15 brought probe cookies)", facts.release)
    } else {
        return None;
    };
    Some(format!("stops of the world of Go programs can't be measured {reason}: use --go-stops off"))
}

fn obstacle_to_growth(facts: &Facts) -> Option<String> {
    let reason = if facts.machine != "x86_64" {
        format!("can't be seen on {} yet", facts.machine)
    } else if facts.version() < (5, 15) {
        format!(
            "can't be seen by kernel {} (5.15 shows the registers of whoever touches a page)",
            facts.release
        )
    } else if !facts.btf {
        format!(
            "can't be seen: kernel {} has no type information ({}; CONFIG_DEBUG_INFO_BTF)",
            facts.release,
            Facts::BTF_PATH
        )
    } else if !facts.initial_pid_namespace {
        "can't be seen from inside a pid namespace (a container): run on the host, with hostPID".to_owned()
    } else {
        return None;
    };
    Some(format!("what makes a process grow {reason}; or use --leaks allocator"))
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
            syscall_tracepoints: SyscallTracepoints::Present,
            initial_pid_namespace: true,
            lockdown: "none".to_owned(),
        }
    }

    const ALL: Wanted = Wanted {
        alloc: true,
        stalls: true,
        mappings: true,
        samples: true,
        growth: Some(1 << 19),
        go_stops: true,
    };

    #[test]
    fn a_good_machine_gets_everything() {
        assert_eq!(
            Plan::decide(ALL, &able()).unwrap(),
            Plan {
                alloc: true,
                stalls: true,
                mappings: true,
                events: true,
                multi: true,
                growth: Some(1 << 19),
                victims: true,
                samples: true,
                sessions: true,
                go_stops: true
            }
        );
    }

    #[test]
    fn counting_alone_does_without_process_events_where_they_cannot_be_had() {
        let wanted = Wanted { alloc: true, ..Wanted::NOTHING };
        for facts in [Facts { btf: false, ..able() }, Facts { initial_pid_namespace: false, ..able() }] {
            assert!(!Plan::decide(wanted, &facts).unwrap().events);
        }
        assert!(Plan::decide(wanted, &able()).unwrap().events);
    }

    #[test]
    fn only_what_is_counted_is_sampled() {
        let wanted = Wanted { alloc: false, ..ALL };
        let plan = Plan::decide(wanted, &able()).unwrap();
        assert!(!plan.samples && !plan.sessions);
        let plan = Plan::decide(Wanted { samples: false, ..ALL }, &able()).unwrap();
        assert!(plan.alloc && !plan.samples && !plan.sessions);
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
    fn obstacles_to_mappings_stand_in_the_way_of_those_only_who_want_them() {
        let cases = [
            (Facts { machine: "aarch64".to_owned(), ..able() }, "aarch64"),
            (Facts { release: "5.14.0".to_owned(), ..able() }, "5.14.0"),
            (Facts { btf: false, ..able() }, Facts::BTF_PATH),
            (Facts { initial_pid_namespace: false, ..able() }, "pid namespace"),
            (Facts { syscall_tracepoints: SyscallTracepoints::Absent, ..able() }, "CONFIG_FTRACE_SYSCALLS"),
            (Facts { syscall_tracepoints: SyscallTracepoints::OutOfReach, ..able() }, "tracefs"),
        ];
        for (facts, reason) in cases {
            let wanted = Wanted { mappings: true, ..Wanted::NOTHING };
            let error = Plan::decide(wanted, &facts).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("--mappings off"), "{error}");
            assert!(!error.contains('\n') && !error.contains("  "), "one line: {error}");
        }
        let facts = Facts { syscall_tracepoints: SyscallTracepoints::Absent, ..able() };
        assert!(Plan::decide(Wanted { mappings: false, ..ALL }, &facts).is_ok());
    }

    #[test]
    fn obstacles_to_growth_stand_in_the_way_of_those_only_who_want_it() {
        let cases = [
            (Facts { machine: "aarch64".to_owned(), ..able() }, "aarch64"),
            (Facts { release: "5.14.0".to_owned(), ..able() }, "5.14.0"),
            (Facts { btf: false, ..able() }, Facts::BTF_PATH),
            (Facts { initial_pid_namespace: false, ..able() }, "pid namespace"),
        ];
        for (facts, reason) in cases {
            let wanted = Wanted { growth: Some(1 << 19), ..Wanted::NOTHING };
            let error = Plan::decide(wanted, &facts).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("--leaks allocator"), "{error}");
            assert!(!error.contains('\n') && !error.contains("  "), "one line: {error}");
            assert!(Plan::decide(Wanted::NOTHING, &facts).is_ok());
        }
    }

    #[test]
    fn obstacles_to_stops_stand_in_the_way_of_those_only_who_want_them() {
        let cases = [
            (Facts { machine: "aarch64".to_owned(), ..able() }, "aarch64"),
            (Facts { uprobes: false, ..able() }, "CONFIG_UPROBE_EVENTS"),
            (Facts { release: "5.14.0".to_owned(), ..able() }, "5.14.0"),
        ];
        for (facts, reason) in cases {
            let wanted = Wanted { go_stops: true, ..Wanted::NOTHING };
            let error = Plan::decide(wanted, &facts).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("--go-stops off"), "{error}");
            assert!(!error.contains('\n') && !error.contains("  "), "one line: {error}");
            assert!(Plan::decide(Wanted::NOTHING, &facts).is_ok());
        }
        let alone = Plan::decide(Wanted { go_stops: true, ..Wanted::NOTHING }, &able()).unwrap();
        assert!(alone.go_stops && alone.needs_kernel() && alone.multi && alone.events && !alone.alloc);
    }

    #[test]
    fn proc_alone_needs_nothing() {
        assert!(Plan::decide(Wanted::NOTHING, &Facts::default()).is_ok());
    }
}
