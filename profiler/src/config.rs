//! What is to be done, validated; the only place with defaults. Knows neither the command line nor the config file.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// A complete, valid wish.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Processes that run already.
    Pids(Vec<Chosen>),
    /// A program of our own to start.
    Command {
        /// Program and arguments.
        argv: Vec<std::ffi::OsString>,
        /// Value of the `target` label, if given.
        name: Option<String>,
    },
}

/// A chosen process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its id.
    pub pid: u32,
    /// Value of the `target` label, if given.
    pub name: Option<String>,
}

/// Time between two samples.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// Shorter intervals would cost more than they show.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Loopback, on a port outside the range of Prometheus' public list.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7667";
/// An interval at least this long is a stall.
pub const DEFAULT_STALL_THRESHOLD: Duration = Duration::from_millis(1);
/// More processes at once are not followed.
pub const MAX_TARGETS: usize = 64;
