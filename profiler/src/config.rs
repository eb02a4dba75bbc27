//! What is to be done, validated; the only place with defaults. Knows neither the command line nor the config file.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use serde::Deserialize;

use crate::{
    push::client::Server,
    runtime::go::figures,
    target::{GroupBy, Selection},
};

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
    /// What is told of Go programs.
    pub go: Go,
    /// Looking for leaks.
    pub hunt: LeakHunt,
    /// Pushing to InfluxDB.
    pub push: Option<Push>,
    /// What is shown to people.
    pub view: View,
    /// One window, then the end.
    pub once: bool,
    /// Print JSON instead of a summary for people.
    pub json: bool,
    /// Write the last snapshot to this file, as JSON.
    pub report: Option<PathBuf>,
    /// Ask the kernel side for its debug lines.
    pub trace: bool,
}

/// What is told of Go programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Go {
    /// Read from their memory what their runtime says of itself.
    pub read: bool,
    /// Which of its answers.
    pub view: figures::View,
    /// Measure each stop of their world by probes.
    pub stops: bool,
}

/// What leaks are looked for by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Leaks {
    /// Allocator calls where they can be sampled, growth elsewhere.
    #[default]
    Auto,
    /// Allocator calls.
    On,
    /// What grows the process: pages touched for the first time.
    Growth,
    /// Nothing.
    Off,
}

impl FromStr for Leaks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "growth" => Ok(Self::Growth),
            "off" => Ok(Self::Off),
            _ => Err("it is one of auto, on, growth and off".to_owned()),
        }
    }
}

impl TryFrom<String> for Leaks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// How leaks are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakHunt {
    /// By what.
    pub mode: Leaks,
    /// One sample per so many bytes, on average.
    pub sample_bytes: u64,
    /// See `leaks::Circumstances::patience`.
    pub patience: Duration,
    /// Where what is found is kept.
    pub history: Option<PathBuf>,
    /// How large that file may get.
    pub history_bytes: u64,
    /// Name the functions of JIT compilers by the perf maps that they write.
    pub perf_map: bool,
    /// Look in the targets' memory whether anything still points to old blocks.
    pub references: bool,
}

impl Default for LeakHunt {
    fn default() -> Self {
        Self {
            mode: Leaks::default(),
            sample_bytes: DEFAULT_SAMPLE_BYTES,
            patience: DEFAULT_PATIENCE,
            history: None,
            history_bytes: DEFAULT_HISTORY_BYTES,
            perf_map: false,
            references: true,
        }
    }
}

/// What is pushed to InfluxDB, and where it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Where to and as whom.
    pub server: Server,
    /// Time between two points of a series.
    pub interval: Duration,
    /// Tags of every point.
    pub tags: Vec<(String, String)>,
    /// Put before the name of every measurement.
    pub prefix: String,
    /// Counters are unsigned integers.
    pub unsigned: bool,
    /// Where points wait; `None`: in memory only.
    pub spool: Option<PathBuf>,
    /// How large that directory may get.
    pub spool_bytes: u64,
    /// How old points may get there.
    pub spool_age: Duration,
}

/// What is shown to people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// The summary of everything.
    #[default]
    Summary,
    /// Leaks only (`profiler leaks`).
    Leaks {
        /// Sites that are shown, at most.
        top: usize,
        /// Exit code [`LEAKING_CODE`] if a target leaks.
        fail_on_leaking: bool,
    },
}

/// A number of bytes as people write it: `4096`, `64KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Bytes(pub u64);

/// In a config file, a number needs no quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl TryFrom<Written> for Bytes {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Number(number) => Ok(Self(number)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no number of bytes: write 4096, 64KiB or 1MiB");
        let at = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(at);
        let shift = match unit.trim_start() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
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
/// One sample per so many bytes, on average.
pub const DEFAULT_SAMPLE_BYTES: u64 = 512 << 10;
/// How long growth that doesn't slow down is called growth only.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(6 * 3600);
/// Weeks of a hunt.
pub const DEFAULT_HISTORY_BYTES: u64 = 64 << 20;
/// Time between two points of a series.
pub const DEFAULT_PUSH_INTERVAL: Duration = Duration::from_secs(10);
/// Shorter intervals fill disks faster than they show anything.
pub const SHORTEST_PUSH_INTERVAL: Duration = Duration::from_millis(100);
/// Two weeks of one target at the default interval, while nobody takes its points.
pub const DEFAULT_SPOOL_BYTES: u64 = 512 << 20;
/// Less than that has no room for a window of many targets.
pub const LOWEST_SPOOL_BYTES: u64 = 1 << 20;
/// How old points may get.
pub const DEFAULT_SPOOL_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long `profiler leaks` watches.
pub const DEFAULT_LEAKS_DURATION: Duration = Duration::from_secs(600);
/// The exit code of `leaks --fail-on leaking` if something leaks.
pub const LEAKING_CODE: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("4096", 4096), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2GiB", 1 << 31), ("7B", 7)]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in
            ["", "KiB", "-1", "1.5MiB", "1MB", "1kib", "99999999999999999999", "18446744073709551615KiB"]
        {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
