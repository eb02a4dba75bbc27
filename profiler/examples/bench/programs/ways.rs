//! The ways of observing that are compared. A new one, or a new option, is a line here.

/// A way.
pub struct Way {
    pub name: &'static str,
    /// What profiler is told.
    pub options: &'static [&'static str],
    /// With [`GOVERNOR`] as it comes; in all others it is off, where there is one.
    pub governed: bool,
    /// Whether calls of the allocator are counted, so that there must be hits.
    pub counts: bool,
    /// The most that a whole program may lose of its CPU time, as a share.
    pub limit: Option<f64>,
    pub about: &'static str,
}

/// The option that bounds the cost, if this profiler has it, and how it is taken away.
pub const GOVERNOR: &str = "--max-overhead";
const UNGOVERNED: [&str; 2] = [GOVERNOR, "off"];

/// In the order of a round, which begins and ends without profiler.
pub const WAYS: [Way; 5] = [
    Way {
        name: "counting",
        options: &["--stalls", "off", "--leaks", "off", "--python", "off"],
        governed: false,
        counts: true,
        limit: None,
        about: "--stalls off --leaks off --python off",
    },
    Way {
        name: "default",
        options: &[],
        governed: false,
        counts: true,
        limit: None,
        about: "no option: counting, stalls, and samples for leaks where the kernel lets it",
    },
    Way {
        name: "leaks",
        options: &["--leaks", "on"],
        governed: false,
        counts: true,
        limit: None,
        about: "--leaks on: the same, every allocator sampled",
    },
    Way {
        name: "growth",
        options: &["--alloc", "off", "--leaks", "growth"],
        governed: false,
        counts: false,
        limit: Some(0.005),
        about: "--alloc off --leaks growth: no probe in the allocator, but the stalls",
    },
    Way {
        name: "governed",
        options: &[],
        governed: true,
        counts: true,
        limit: None,
        about: "no option: the governor as it comes; all others have --max-overhead off",
    },
];

impl Way {
    /// What profiler is told besides the processes; `governor`: whether it has one.
    pub fn arguments(&self, governor: bool) -> Vec<&'static str> {
        let mut arguments = self.options.to_vec();
        if governor && !self.governed {
            arguments.extend(UNGOVERNED);
        }
        arguments
    }
}
