//! What is to be done, validated; the only place with defaults. Knows neither the command line nor the config file.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::target::{GroupBy, Selection};

/// A complete, valid wish.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What to look at.
    pub what: What,
    /// Time between two samples.
    pub interval: Duration,
    /// End after this long; `None`: until the targets end or somebody ends us.
    pub duration: Option<Duration>,
    /// Where `/metrics` is served; empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// Count allocator calls.
    pub alloc: bool,
    /// Keep the ledger of thread time.
    pub stalls: bool,
    /// An interval at least this long is a stall.
    pub stall_threshold: Duration,
    /// Processes observed at a time, at most.
    pub max_targets: u32,
    /// Series at `/metrics`, at most; targets that would go beyond are left out.
    pub max_series: usize,
    /// Where debug information may be fetched (a debuginfod server).
    pub debuginfod: Option<String>,
    /// Account for memory that the processes map themselves.
    pub mappings: bool,
    /// Count the calls of Python's own layers. Slows Python code down 40 to 110 fold: each object costs two traps.
    pub python: bool,
    /// One window, then the end.
    pub once: bool,
    /// Print JSON instead of a summary for people.
    pub json: bool,
    /// Write the last snapshot to this file, as JSON.
    pub report: Option<PathBuf>,
    /// Ask the kernel side for its debug lines.
    pub trace: bool,
}

/// What to look at.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Processes that run already or will.
    Processes(Choice),
    /// A program of our own to start.
    Command {
        /// Program and arguments.
        argv: Vec<std::ffi::OsString>,
        /// Value of the `target` label, if given.
        name: Option<String>,
        /// Observe the processes that it forks, too.
        children: bool,
    },
}

/// Which processes are observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Those with these ids.
    pub pids: Vec<ChosenPid>,
    /// Those that match.
    pub selection: Option<Selection>,
    /// Matching processes that exist already are meant.
    pub existing: bool,
    /// Matching processes that come later are meant.
    pub newcomers: bool,
    /// Observe the processes that they fork, too.
    pub children: bool,
    /// What the processes of one target have in common; `None`: the children of a process belong to its target, and what
    /// matches is grouped by name.
    pub group_by: Option<GroupBy>,
}

/// A process chosen by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenPid {
    /// Its id.
    pub pid: u32,
    /// Value of the `target` label, if given.
    pub name: Option<String>,
}

impl Config {
    /// For how many processes at a time there must be places.
    pub fn places(&self) -> u32 {
        match &self.what {
            What::Processes(choice) if choice.selection.is_none() && !choice.children => {
                u32::try_from(choice.pids.len()).unwrap_or(self.max_targets)
            }
            What::Command { children: false, .. } => 1,
            _ => self.max_targets,
        }
    }
}

/// Time between two samples.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// Shorter intervals would cost more than they show.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Loopback, on a port outside the range of Prometheus' public list.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7667";
/// An interval at least this long is a stall.
pub const DEFAULT_STALL_THRESHOLD: Duration = Duration::from_millis(1);
/// Processes observed at a time.
pub const DEFAULT_MAX_TARGETS: u32 = 256;
/// More than that can't be asked for.
pub const HIGHEST_MAX_TARGETS: u32 = 4096;
/// Series at `/metrics`; a target has about 150.
pub const DEFAULT_MAX_SERIES: usize = 50_000;
