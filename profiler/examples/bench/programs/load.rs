//! Whole programs at work, and what they have done.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::{
    child::{self, Scratch},
    own, servers,
    servers::postgres,
};

/// What was done in a turn.
pub struct Done {
    pub operations: f64,
    pub seconds: f64,
    /// Latency that one of a hundred operations exceeds, in microseconds.
    pub p99_us: f64,
}

/// A program and what drives it. A turn is [`begin`](Load::begin), [`work`](Load::work), [`end`](Load::end); profiler is attached behind
/// the first, and the meters are read around the second.
pub trait Load {
    /// The process that is observed; what it forks is observed and counted with it.
    fn pid(&self) -> u32;

    /// Gets ready what belongs to a turn.
    fn begin(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Works for about so long.
    fn work(&mut self, time: Duration) -> anyhow::Result<()>;

    /// Ends the turn: what was done while [`work`](Load::work) lasted.
    fn end(&mut self) -> anyhow::Result<Done>;

    /// Whether it works already before [`work`](Load::work) and goes on behind it, so that what was counted has to be scaled to it.
    fn is_continuous(&self) -> bool {
        false
    }

    /// Whether it has children that have to be observed.
    fn forks(&self) -> bool {
        false
    }
}

/// What loads are made of.
pub struct Stage {
    pub scratch: Scratch,
    /// Where the programs run that are measured; clients and profiler are elsewhere if there is more than one CPU.
    pub target_cpu: Option<usize>,
    pub client_cpu: Option<usize>,
}

/// A program that is to be measured.
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    /// What has to be there, and Debian's package of it.
    needs: &'static [(&'static str, &'static str)],
    /// What an operation is called, in the plural.
    pub unit: &'static str,
    pub start: fn(&Stage) -> anyhow::Result<Box<dyn Load>>,
}

const REDIS: &[(&str, &str)] = &[("redis-server", "redis-server"), ("redis-benchmark", "redis-tools")];
const NGINX: &[(&str, &str)] = &[("nginx", "nginx"), ("wrk", "wrk")];
const POSTGRES: &[(&str, &str)] =
    &[("postgres", "postgresql"), ("initdb", "postgresql"), ("pgbench", "postgresql-contrib")];

/// All of them.
pub const WORKLOADS: [Workload; 9] = [
    Workload {
        name: "redis-set",
        about: "redis-server (jemalloc in Debian) under redis-benchmark: SET of 64 bytes, 16 clients, pipeline of 4",
        needs: REDIS,
        unit: "requests",
        start: |stage| servers::redis::start(stage, "set"),
    },
    Workload {
        name: "redis-get",
        about: "the same, GET",
        needs: REDIS,
        unit: "requests",
        start: |stage| servers::redis::start(stage, "get"),
    },
    Workload {
        name: "nginx",
        about: "nginx, one worker, under wrk: a static page of 4 KiB, 16 connections",
        needs: NGINX,
        unit: "requests",
        start: servers::nginx::start,
    },
    Workload {
        name: "pg-select",
        about: "PostgreSQL under pgbench -S: a row by its key, 4 clients",
        needs: POSTGRES,
        unit: "transactions",
        start: |stage| postgres::start(stage, &["-S"]),
    },
    Workload {
        name: "pg-tpcb",
        about: "PostgreSQL under pgbench's default: 3 updates, a select, an insert; 4 clients, fsync off",
        needs: POSTGRES,
        unit: "transactions",
        start: |stage| postgres::start(stage, &[]),
    },
    Workload {
        name: "cpython",
        about: "CPython: json.dumps and json.loads of a document of 36 KB",
        needs: &[("python3", "python3")],
        unit: "documents",
        start: own::python,
    },
    Workload {
        name: "rust",
        about: "Rust: maps of strings that come and go",
        needs: &[],
        unit: "operations",
        start: own::rust,
    },
    Workload {
        name: "c++",
        about: "C++: the same with std::map and std::string",
        needs: &[("g++", "g++")],
        unit: "operations",
        start: |stage| own::compiled(stage, "g++", "maps.cpp", own::MAPS),
    },
    Workload {
        name: "malloc-loop",
        about: "C: nothing but malloc and free, the worst case; an operation is 64 pairs",
        needs: &[("gcc", "g++")],
        unit: "operations",
        start: |stage| own::compiled(stage, "gcc", "pairs.c", own::PAIRS),
    },
];

impl Workload {
    /// Packages that are missing for it.
    pub fn missing(&self) -> Vec<&'static str> {
        let lacking = self.needs.iter().filter(|(program, _)| child::find(program).is_none());
        lacking.map(|(_, package)| *package).collect()
    }
}

/// Where a program is that was found before.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    child::find(name).with_context(|| format!("{name} isn't here"))
}

/// A path for people and configurations.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} isn't UTF-8", path.display()))
}
