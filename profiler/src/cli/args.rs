//! The command line as typed. What isn't given stays `None`: the config file may say it.

use std::{ffi::OsString, path::PathBuf, str::FromStr, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use super::influx::InfluxOptions;
use crate::{
    config::{Bytes, Leaks},
    history::Moment,
    runtime::go::figures::View,
    target::GroupBy,
};

const EXAMPLES: &str = "\
Examples:
  sudo profiler --pid 1234                 live summary here, Prometheus at http://127.0.0.1:7667/metrics
  sudo profiler --pid 1234 --once --json   one window, printed as JSON
  sudo profiler --comm nginx --children    every nginx and its workers, one set of series
  sudo profiler leaks --pid 1234           which call site leaks, how fast, and how sure; ten minutes
  sudo profiler run -- ./server --port 1   start a program and count from its first allocation
  sudo profiler --pid 1234 --influx http://db:8086 --influx-db leakhunt
                                           push everything to InfluxDB, for hunts of weeks; loses nothing
  profiler ps                              the processes of this machine, and what can be told of each
  profiler doctor                          what this machine can do, and what to do about the rest

Exit codes: 0 ended as asked, 1 something failed (one line says what), 2 the command line or config file is wrong,
3 something leaks (leaks --fail-on leaking).";

const LEAKS_EXAMPLES: &str = "\
Examples:
  sudo profiler leaks --pid 1234 --for 30m            watch, then tell
  sudo profiler leaks --comm api --fail-on leaking    for CI: exit code 3 if anything leaks
  profiler leaks --history hunt.db                    the last picture of a hunt, of a running one, too
  profiler leaks --history hunt.db --from -2h         what has changed since two hours ago
  profiler leaks --history old.db --against new.db    two builds, matched by the names of functions";

/// Where a running process's memory goes and why it stalls - without touching it.
///
/// Counts the allocator calls of chosen processes with eBPF, keeps a ledger of what their threads spend their time on,
/// and serves both to Prometheus. The processes are not changed, stopped or restarted.
#[derive(Debug, Parser)]
#[command(name = "profiler", after_help = EXAMPLES, disable_version_flag = true, args_conflicts_with_subcommands = true, max_term_width = 110)]
pub struct Cli {
    /// See [`Options`].
    #[command(flatten)]
    pub options: Options,
    /// Print the version; with --verbose the build and every library in it.
    #[arg(short = 'V', long)]
    pub version: bool,
    /// With --version: tell everything.
    #[arg(long, requires = "version")]
    pub verbose: bool,
    /// What else than looking at running processes.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else than looking at running processes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a program and count from its first allocation; report at its end.
    #[command(max_term_width = 110)]
    Run {
        /// See [`Options`].
        #[command(flatten)]
        options: Options,
        /// The program and its arguments.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Watch for leaks: which call site leaks, how fast, and how sure. Or look at what a --history has kept.
    #[command(max_term_width = 110, after_help = LEAKS_EXAMPLES)]
    Leaks {
        /// See [`Options`].
        #[command(flatten)]
        options: Options,
        /// See [`LeaksOptions`].
        #[command(flatten)]
        leaks: LeaksOptions,
    },
    /// Push what can be told of one process to an InfluxDB, as gops' verb of this name does for programs with its agent.
    #[command(name = "memstatexport", max_term_width = 110)]
    Memstatexport {
        /// The process.
        #[arg(value_name = "PID")]
        process: u32,
        /// Where the InfluxDB is.
        #[arg(value_name = "HOST:PORT")]
        server: String,
        /// The database.
        #[arg(value_name = "DBNAME")]
        database: String,
        /// See [`Options`].
        #[command(flatten)]
        options: Options,
    },
    /// What was found in every file that a process has mapped: which functions are probed where and why, which not and why.
    #[command(max_term_width = 110)]
    Explain {
        /// The process.
        #[arg(short, long, value_name = "PID")]
        pid: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Files without any allocator function, too.
        #[arg(long)]
        all: bool,
        /// Fetch symbols of stripped programs from this debuginfod server [default: none].
        #[arg(long, value_name = "URL")]
        debuginfod: Option<String>,
    },
    /// What this kernel, these rights and this build can do, and what to do about the rest.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the processes of this machine: what runs in them, and what can be told of each.
    Ps {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// How many goroutines and threads a Go program has; as gops' verb, without its agent.
    Stats(OneProcess),
    /// What Go's memory allocator and garbage collector say of themselves (runtime.MemStats); as gops' verb, without its agent.
    Memstats {
        /// See [`OneProcess`].
        #[command(flatten)]
        of: OneProcess,
        /// As runtime.ReadMemStats has the figures, or as runtime/metrics.
        #[arg(long, value_name = "metrics|memstats", default_value = "memstats")]
        go_view: GoView,
    },
    /// With which version of Go, from what and how a program was built; of others, what runs in them.
    Version(OneProcess),
    /// What a program was built from: Go's modules, Rust's crates, Python's distributions, and the libraries that it has mapped.
    Modules(OneProcess),
    /// The stacks of a Go program's goroutines, as a panic prints them; as gops' verb, without its agent.
    Stack {
        /// See [`OneProcess`].
        #[command(flatten)]
        of: OneProcess,
        /// Equal stacks once, the most frequent first.
        #[arg(long, conflicts_with = "json")]
        group: bool,
        /// The runtime's own goroutines, too.
        #[arg(long)]
        system: bool,
    },
    /// List every metric that /metrics can show, and InfluxDB's measurements.
    Metrics {
        /// As Markdown tables.
        #[arg(long)]
        markdown: bool,
        /// Print JSON.
        #[arg(long, conflicts_with = "markdown")]
        json: bool,
    },
}

/// A process that is asked one question.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OneProcess {
    /// The process.
    #[arg(value_name = "PID")]
    pub process: u32,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which of Go's two answers to the same question is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GoView {
    /// What runtime/metrics says, and therefore Prometheus' client library.
    Metrics,
    /// What runtime.ReadMemStats says, which counts what the processors' caches hold back, too.
    Memstats,
}

impl From<GoView> for View {
    fn from(view: GoView) -> Self {
        match view {
            GoView::Metrics => Self::Metrics,
            GoView::Memstats => Self::MemStats,
        }
    }
}

/// What to look at, and how.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "What is told, and how")]
pub struct Options {
    /// A running process. May be given several times.
    #[arg(short, long, value_name = "PID", help_heading = "Which processes")]
    pub pid: Vec<u32>,
    /// Processes whose name matches, as grep matches: --comm nginx, --comm '^worker-'. The kernel keeps 15 letters of a name.
    #[arg(long, value_name = "REGEX", help_heading = "Which processes")]
    pub comm: Vec<String>,
    /// Processes whose program matches: a path as they see it, or a file name: --exe '/opt/*/bin/server', --exe redis-server.
    #[arg(long, value_name = "GLOB", help_heading = "Which processes")]
    pub exe: Vec<String>,
    /// Processes of this control group and those below it.
    #[arg(long, value_name = "PATH", help_heading = "Which processes")]
    pub cgroup: Vec<String>,
    /// Processes of this container: its id, or at least 8 digits of it.
    #[arg(long, value_name = "ID", help_heading = "Which processes")]
    pub container: Vec<String>,
    /// Processes of this unit of systemd.
    #[arg(long, value_name = "NAME.service", help_heading = "Which processes")]
    pub unit: Vec<String>,
    /// Observe the processes that they fork, too; a child is counted some milliseconds after its start, and the time is told.
    #[arg(long, help_heading = "Which processes")]
    pub children: bool,
    /// Of those that match, only processes that start from now on.
    #[arg(long, conflicts_with = "existing", help_heading = "Which processes")]
    pub new: bool,
    /// Of those that match, only processes that run already.
    #[arg(long, help_heading = "Which processes")]
    pub existing: bool,
    /// What the processes of one target have in common [default: what matches goes by name; children go with their parent].
    #[arg(long, value_name = "WHAT", help_heading = "Which processes")]
    pub group_by: Option<GroupBy>,
    /// Processes observed at a time, at most [default: 256].
    #[arg(long, value_name = "N", help_heading = "Which processes")]
    pub max_targets: Option<u32>,
    /// The value of the `target` label [default: the process's name]. Once per --pid, in the same order.
    #[arg(long, value_name = "NAME", help_heading = "Which processes")]
    pub name: Vec<String>,
    /// Time between two samples [default: 1s].
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration)]
    pub interval: Option<Duration>,
    /// End after this long [default: when the targets have ended].
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Watch for one --interval, print what there was, end.
    #[arg(long, conflicts_with = "duration")]
    pub once: bool,
    /// Print JSON instead of the summary.
    #[arg(long)]
    pub json: bool,
    /// Where HTTP is served, or `none` [default: 127.0.0.1:7667]. May be given several times.
    #[arg(long = "web.listen-address", alias = "listen", visible_alias = "listen", value_name = "IP:PORT")]
    pub listen: Vec<String>,
    /// Count allocator calls [default: counts].
    #[arg(long, value_name = "off|counts")]
    pub alloc: Option<Switch>,
    /// Keep the ledger of thread time [default: on].
    #[arg(long, value_name = "off|on")]
    pub stalls: Option<Switch>,
    /// An interval at least this long is a stall [default: 1ms].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub stall_threshold: Option<Duration>,
    /// Account for memory that the processes map themselves (mmap, munmap, mremap, brk). Makes every system call of every
    /// process on this machine about 90 ns slower [default: off].
    #[arg(long, value_name = "off|on")]
    pub mappings: Option<Switch>,
    /// Count the calls of Python's own layers (raw, mem and object domain), too. Traps at every object that Python makes or
    /// drops: its code runs 40 to 110 times slower meanwhile. Not for production [default: off].
    #[arg(long, value_name = "off|on")]
    pub python: Option<Switch>,
    /// Read from the memory of Go programs what their runtime says of itself: goroutines, memory, garbage collections [default: on].
    #[arg(long, value_name = "off|on")]
    pub go: Option<Switch>,
    /// Go's figures as runtime/metrics has them (as Prometheus' client library), or as runtime.ReadMemStats [default: metrics].
    #[arg(long, value_name = "metrics|memstats")]
    pub go_view: Option<GoView>,
    /// Measure every single stop of a Go program's world, by reason, with two probes that are hit twice for each stop [default: off].
    #[arg(long, value_name = "off|on")]
    pub go_stops: Option<Switch>,
    /// Look for leaks by sampling: of allocator calls (on), of what grows the process whoever allocates (growth), or whichever
    /// can be had (auto). Only with `on` are C++'s throwing operators of jemalloc, tcmalloc and mimalloc sampled: a program that
    /// catches std::bad_alloc may be ended then, instead of going on; and only with `on` is anything sampled before Linux 6.13, where
    /// it makes allocations 40 % dearer [default: auto].
    #[arg(long, value_name = "auto|on|growth|off", help_heading = LEAK_HUNTS)]
    pub leaks: Option<Leaks>,
    /// One sample per so many bytes, on average: 4096, 64KiB, 1MiB; 1 to 1GiB [default: 512KiB].
    #[arg(long, value_name = "BYTES", help_heading = LEAK_HUNTS)]
    pub sample_bytes: Option<Bytes>,
    /// Growth of blocks that the process still points to is called leaking once it has gone on, without slowing down, for this
    /// long [default: 6h].
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = LEAK_HUNTS)]
    pub patience: Option<Duration>,
    /// Keep what is found in this file, for weeks [default: none].
    #[arg(long, value_name = "FILE", help_heading = LEAK_HUNTS)]
    pub history: Option<PathBuf>,
    /// How large that file may get, 2MiB to 1GiB; what is old or small is left out first [default: 64MiB].
    #[arg(long, value_name = "BYTES", help_heading = LEAK_HUNTS)]
    pub history_size: Option<Bytes>,
    /// Name the functions of JIT compilers by the files that they write to /tmp (perf-PID.map) [default: off].
    #[arg(long, value_name = "off|on", help_heading = LEAK_HUNTS)]
    pub perf_map: Option<Switch>,
    /// Look in the process's memory whether anything still points to old blocks [default: on].
    #[arg(long, value_name = "off|on", help_heading = LEAK_HUNTS)]
    pub references: Option<Switch>,
    /// Fetch symbols of stripped programs from this debuginfod server [default: none].
    #[arg(long, value_name = "URL")]
    pub debuginfod: Option<String>,
    /// Series at /metrics, at most; targets that would go beyond are left out and counted [default: 50000].
    #[arg(long, value_name = "N")]
    pub max_series: Option<usize>,
    /// Write the last snapshot to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// A TOML file with the same names; the command line goes before it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the log shows on standard error [default: warn]. `trace` includes the kernel side.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// How the log looks [default: text].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// See [`InfluxOptions`].
    #[command(flatten)]
    pub influx: InfluxOptions,
}

/// Heading of what belongs to leak hunts.
const LEAK_HUNTS: &str = "Leak hunts";

/// What `leaks` has besides.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = LEAK_HUNTS)]
pub struct LeaksOptions {
    /// Watch for this long [default: 10m].
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, conflicts_with_all = ["duration", "once"])]
    pub lasting: Option<Duration>,
    /// Sites that are shown.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Exit code 3 if any target is found leaking.
    #[arg(long, value_name = "VERDICT")]
    pub fail_on: Option<FailOn>,
    /// Of a --history: compare this moment (2026-11-22T14:03:12Z, -2h, first, last) [default: first].
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true, requires = "history", conflicts_with_all = WATCHING)]
    pub from: Option<Moment>,
    /// With this one [default: last].
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true, requires = "history", conflicts_with_all = WATCHING)]
    pub to: Option<Moment>,
    /// Compare with the last picture of this other history, or with that of --to.
    #[arg(long, value_name = "FILE", requires = "history", conflicts_with_all = WATCHING)]
    pub against: Option<PathBuf>,
    /// What makes two sites the same: places in files, or names of functions [default: site; with --against: name].
    #[arg(long, value_name = "site|name", requires = "history", conflicts_with_all = WATCHING)]
    pub by: Option<By>,
}

/// What can't be asked of a history.
const WATCHING: [&str; 8] = ["pid", "comm", "exe", "cgroup", "container", "unit", "lasting", "fail_on"];

/// What ends with an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A leak.
    Leaking,
}

/// What makes two sites the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The same places in the same files.
    Site,
    /// The same names.
    Name,
}

/// What the log shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what to doubt.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
    /// And every line of the kernel side.
    Trace,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// On or off; `counts` is another word for on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "on" | "counts" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err("it is either off or on (for --alloc: off or counts)".to_owned()),
        }
    }
}

impl TryFrom<String> for Switch {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Longer times can't be meant, and can't be added to a clock.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A time like `500ms`, `10s`, `5m`; a bare number means seconds.
///
/// # Errors
///
/// If it isn't one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let no_time = || format!("{text:?} is no length of time: write 500ms, 10s or 5m");
    let time = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| no_time())?,
        Err(_) => humantime::parse_duration(text).map_err(|_| no_time())?,
    };
    if time > LONGEST { Err(format!("{text} is too long: at most ten years")) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h 2m"), Ok(Duration::from_secs(3720)));
        assert!(parse_duration("-1").is_err());
        assert!(parse_duration("9223372036854775807").is_err());
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("nan").is_err());
    }
}
