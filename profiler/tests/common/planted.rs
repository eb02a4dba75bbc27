//! Every kind of planted leak: how the program is started, which of its call sites leak, and who calls whom there. And
//! how a picture compares with what is true.

use std::time::Duration;

use profiler::leaks::{Picture, TargetReport, Verdict};

use super::hunt::{Deeds, Planted, distance, has_callers, moment, names, names_function, report};

/// A kind of leak.
pub struct Kind {
    pub name: &'static str,
    start: fn(Scale) -> Option<Planted>,
    pub sites: &'static [Site],
    /// What it takes to see it at full scale. At the small one, all are seen within [`SMALL`].
    full: Duration,
}

/// How large the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// For every day: a leak stands out as much, but among fewer calls, so that there are enough samples in less time.
    Small,
    /// As somebody has met them.
    Full,
}

/// Long enough for three searches of the memory, and a dozen samples of every leak.
pub const SMALL: Duration = Duration::from_secs(45);

/// A call site that leaks.
pub struct Site {
    /// How the program calls it where it tells the truth.
    pub name: &'static str,
    /// A function that only its stacks have.
    pub function: &'static str,
    /// Who calls whom there, innermost first. Of what isn't the program's own (`operator new`), the name as the library
    /// has it.
    pub callers: &'static [&'static str],
}

impl Kind {
    /// A program with this leak, idle. `None` (and the test is skipped) if it can't be built here.
    pub fn start(&self, scale: Scale) -> Option<Planted> {
        (self.start)(scale)
    }

    /// How long a hunt needs.
    pub fn length(&self, scale: Scale) -> Duration {
        if scale == Scale::Small { SMALL } else { self.full }
    }
}

fn c(arguments: &[&str]) -> Option<Planted> {
    Planted::start("leaks.c", arguments)
}

/// All of them.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "C, inlined",
        full: SMALL,
        start: |_| c(&["leak", "rate=500000"]),
        sites: &[Site {
            name: "leak_records",
            function: "leak_record",
            callers: &["new_record", "leak_record", "leak_step", "converse", "main"],
        }],
    },
    Kind {
        name: "1 in 10,000",
        full: Duration::from_secs(300),
        start: |scale| match scale {
            Scale::Small => c(&["rare", "rate=2000", "odds=200", "size=1024"]),
            Scale::Full => c(&["rare", "rate=50000", "odds=10000", "size=512"]),
        },
        sites: &[Site {
            name: "handle_request",
            function: "read_request",
            callers: &["read_request", "rare_step", "converse", "main"],
        }],
    },
    Kind {
        name: "64 B at 10 KB/s under 50 MB/s",
        full: Duration::from_secs(600),
        start: |scale| match scale {
            Scale::Small => c(&["drizzle", "rate=10240", "churn=4e6"]),
            Scale::Full => c(&["drizzle", "rate=10240", "churn=50e6"]),
        },
        sites: &[Site {
            name: "drop_cookie",
            function: "drop_one_cookie",
            callers: &["drop_one_cookie", "drizzle_step", "converse", "main"],
        }],
    },
    Kind {
        name: "slow, under a sawtooth",
        full: Duration::from_secs(300),
        start: |scale| match scale {
            Scale::Small => c(&["sawtooth", "rate=20000", "pool=1e6", "period=4"]),
            Scale::Full => c(&["sawtooth", "rate=20000", "pool=2e6", "period=60"]),
        },
        sites: &[Site {
            name: "lose_job",
            function: "lose_one_job",
            callers: &["lose_one_job", "sawtooth_step", "converse", "main"],
        }],
    },
    Kind {
        name: "C++",
        full: SMALL,
        start: |_| Planted::start("objects.cpp", &["rate=600000"]),
        sites: &[
            Site {
                name: "leak_object",
                function: "leak_one_object",
                callers: &["operator new", "leak_one_object", "objects_step", "main"],
            },
            Site {
                name: "leak_string",
                function: "leak_one_string",
                callers: &["operator new", "string", "leak_one_string", "objects_step", "main"],
            },
            Site {
                name: "leak_vector",
                function: "leak_one_vector",
                callers: &["operator new", "vector", "leak_one_vector", "objects_step", "main"],
            },
        ],
    },
    Kind {
        name: "Rust",
        full: SMALL,
        start: |_| Planted::start("forgotten.rs", &["rate=400000"]),
        sites: &[
            Site {
                name: "forget_vector",
                function: "forget_vector",
                callers: &["alloc", "forget_vector", "forgotten_step", "main"],
            },
            Site {
                name: "leak_box",
                function: "leak_box",
                callers: &["alloc", "leak_box", "forgotten_step", "main"],
            },
        ],
    },
    Kind {
        name: "Python extension",
        full: SMALL,
        start: |_| Planted::python(&["rate=400000"]),
        sites: &[
            Site {
                name: "leak_buffer",
                function: "leak_buffer",
                callers: &["leak_buffer", "parse", "_PyEval_EvalFrameDefault"],
            },
            Site {
                name: "leak_reference",
                function: "leak_reference",
                callers: &["PyBytes_From", "leak_reference", "encode", "_PyEval_EvalFrameDefault"],
            },
        ],
    },
];

/// How a picture compares with the truth, for one planted site.
pub struct Compared {
    pub function: &'static str,
    /// It is called leaking.
    pub found: bool,
    /// Nothing but planted sites is ranked before it.
    pub first: bool,
    /// Its stack is whole and has the callers that it really has.
    pub stack: bool,
    /// See [`distance`]; infinite if nothing is told.
    pub rate: f64,
    pub live: f64,
    /// What live bytes are told, by what they really are.
    pub live_ratio: f64,
    /// What to look at if something is wrong.
    pub told: String,
}

/// Compares what is told of a program with its own truth.
pub fn compare(picture: &Picture, kind: &Kind, program: &Planted) -> Vec<Compared> {
    let report = report(picture, program);
    let losses: Vec<_> = report.losses.iter().filter(|(_, count)| *count > 0).collect();
    let of_site = |site: &Site| {
        let at = report.sites.iter().position(|found| names_function(found, site.function));
        let Some(at) = at else {
            return Compared {
                function: site.function,
                found: false,
                first: false,
                stack: false,
                rate: f64::INFINITY,
                live: f64::INFINITY,
                live_ratio: 0.0,
                told: "no such site".to_owned(),
            };
        };
        let found = &report.sites[at];
        let planted = |found| kind.sites.iter().any(|site| names_function(found, site.function));
        let live = program.value_at(site.name, moment(report), Deeds::live_bytes);
        let rate = program.rate_lost(site.name, report.since, moment(report));
        let judgement = &found.judgement;
        Compared {
            function: site.function,
            found: judgement.verdict == Verdict::Leaking,
            first: report.sites[..at].iter().all(planted),
            stack: has_callers(&found.stack, site.callers),
            rate: judgement.rate.map_or(f64::INFINITY, |told| distance(&told, rate)),
            live: distance(&found.live_bytes, live),
            live_ratio: found.live_bytes.value / live,
            told: format!(
                "{live:.0} bytes live, told {:?}; lost {rate:.0} per second, told {judgement:?}; {:?}; {} sites, {losses:?}",
                found.live_bytes,
                names(&found.stack),
                report.sites.len()
            ),
        }
    };
    kind.sites.iter().map(of_site).collect()
}

/// What to look at if something is wrong with a target.
pub fn told(report: &TargetReport) -> String {
    let mut text = format!("{:?}; losses {:?}\n", report.judgement, report.losses);
    for site in &report.sites {
        text += &format!("{:?} live {:?} {:?}\n", names(&site.stack), site.live_bytes, site.judgement);
    }
    text
}
