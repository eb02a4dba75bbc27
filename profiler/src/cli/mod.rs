//! The command line: as typed (`args`), as written in a file (`file`), and as meant ([`resolve`]).

pub mod args;
mod file;
mod hunt;
pub mod influx;

use std::{collections::HashSet, path::Path, time::Duration};

use thiserror::Error;

pub use args::{Cli, Command, LeaksOptions, LogFormat, LogLevel};
use args::{Options, Switch};
use file::File;
pub use hunt::{Look, looks};
pub use influx::memstatexport;

use crate::{
    config::{
        Choice, ChosenPid, Config, DEFAULT_INTERVAL, DEFAULT_LISTEN, DEFAULT_MAX_SERIES, DEFAULT_MAX_TARGETS,
        DEFAULT_STALL_THRESHOLD, Go, HIGHEST_MAX_TARGETS, SHORTEST_INTERVAL, What,
    },
    runtime::go::figures::View,
    symbols::{Limits, Server},
    target::{Criterion, Selection, SelectionError},
};

/// What is wrong with the wish. Exit code 2.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct UsageError(String);

/// What the log should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// What is shown.
    pub level: LogLevel,
    /// How.
    pub format: LogFormat,
}

/// Reads the config file, if one is named, and says what the log should be like.
///
/// # Errors
///
/// If the file can't be read or understood.
pub fn read_file(path: Option<&Path>) -> Result<File, UsageError> {
    let Some(path) = path else { return Ok(File::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| UsageError(format!("can't read the config file {}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(""));
        let line = before.matches('\n').count() + 1;
        UsageError(format!(
            "config file {}, line {line}: {}",
            path.display(),
            error.message().replace('\n', " ")
        ))
    })
}

/// The log's settings: command line before file before default.
pub fn log_config(options: &Options, file: &File) -> LogConfig {
    LogConfig {
        level: options.log_level.or(file.log_level).unwrap_or(LogLevel::Warn),
        format: options.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
    }
}

/// Puts command line and file together into a valid wish.
///
/// # Errors
///
/// If something is missing, contradictory or out of range: what, and the way out.
pub fn resolve(
    options: Options,
    command: Option<Vec<std::ffi::OsString>>,
    leaks: Option<&LeaksOptions>,
    file: File,
) -> Result<Config, UsageError> {
    let log = log_config(&options, &file);
    let hunt = hunt::resolve(&options, &file, leaks.is_some())?;
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let push = influx::resolve(&options.influx, &file, options.config.as_deref(), &environment)?;
    let config_path = options.config.clone();
    let path = config_path.as_deref();
    let names = given(options.name, file.name);
    let children = options.children || file.children.unwrap_or(false);
    let what = match command {
        Some(argv) => {
            let mut names = names;
            if names.len() > 1 {
                return Err(UsageError("run starts one program: give --name once".to_owned()));
            }
            names.iter().try_for_each(|name| check_name(name))?;
            What::Command { argv, name: names.pop(), children }
        }
        None => {
            let criteria = [
                (given(options.comm, file.comm), Criterion::comm as fn(&str) -> _),
                (given(options.exe, file.exe), Criterion::exe),
                (given(options.cgroup, file.cgroup), Criterion::cgroup),
                (given(options.container, file.container), Criterion::container),
                (given(options.unit, file.unit), Criterion::unit),
            ];
            let selection = select(criteria)?;
            let only_new = options.new || (file.new.unwrap_or(false) && !options.existing);
            let only_existing = options.existing || (file.existing.unwrap_or(false) && !options.new);
            if only_new && only_existing {
                return Err(UsageError(
                    "new and existing exclude each other: give one, or neither for both".to_owned(),
                ));
            }
            What::Processes(Choice {
                pids: choose(given(options.pid, file.pid), names, selection.is_some())?,
                selection,
                existing: !only_new,
                newcomers: !only_existing,
                children,
                group_by: options.group_by.or(file.group_by),
            })
        }
    };
    let max_targets = options.max_targets.or(file.max_targets).unwrap_or(DEFAULT_MAX_TARGETS);
    if !(1..=HIGHEST_MAX_TARGETS).contains(&max_targets) {
        return Err(UsageError(format!("--max-targets {max_targets}: give 1 to {HIGHEST_MAX_TARGETS}")));
    }
    if let What::Processes(Choice { pids, .. }) = &what
        && pids.len() > max_targets as usize
    {
        return Err(UsageError(format!(
            "{} processes are too many: at most {max_targets} at once (--max-targets)",
            pids.len()
        )));
    }
    let debuginfod = options.debuginfod.or(file.debuginfod);
    if let Some(url) = &debuginfod {
        let wrong = |error| UsageError(format!("--debuginfod: {error}"));
        Server::new(url, Limits::default()).map_err(wrong)?;
    }
    let interval =
        options.interval.or(duration(file.interval, "interval", path)?).unwrap_or(DEFAULT_INTERVAL);
    if interval < SHORTEST_INTERVAL {
        return Err(UsageError(format!(
            "--interval {} is too short: the shortest is {}",
            humantime::format_duration(interval),
            humantime::format_duration(SHORTEST_INTERVAL)
        )));
    }
    let once = options.once;
    let lasting = hunt::lasting(leaks, options.duration.or(duration(file.duration, "duration", path)?));
    let listen = given(options.listen, file.listen.or(file.web.listen_address));
    let listen = match listen.as_slice() {
        // One window and the end: nobody would come to read.
        [] if once || leaks.is_some() => Vec::new(),
        [] => vec![address(DEFAULT_LISTEN)?],
        [none] if none == "none" => Vec::new(),
        addresses => addresses.iter().map(|text| address(text)).collect::<Result<_, _>>()?,
    };
    let on = |switch: Option<Switch>, default: bool| switch.map_or(default, |switch| switch.0);
    let alloc = on(options.alloc.or(file.alloc), true);
    let python = on(options.python.or(file.python), false);
    if python && !alloc {
        return Err(UsageError(
            "--python on counts calls, which --alloc off forbids: give one of them".to_owned(),
        ));
    }
    let go = Go {
        read: on(options.go.or(file.go), true),
        view: options.go_view.or(file.go_view).map(View::from).unwrap_or_default(),
        stops: on(options.go_stops.or(file.go_stops), false),
    };
    if go.stops && !go.read {
        return Err(UsageError(
            "--go-stops on is about Go programs, which --go off leaves alone: give one of them".to_owned(),
        ));
    }
    Ok(Config {
        what,
        interval,
        duration: if once { Some(interval) } else { lasting },
        listen,
        alloc,
        stalls: on(options.stalls.or(file.stalls), leaks.is_none()),
        stall_threshold: options
            .stall_threshold
            .or(duration(file.stall_threshold, "stall-threshold", path)?)
            .unwrap_or(DEFAULT_STALL_THRESHOLD),
        max_targets,
        max_series: options.max_series.or(file.max_series).unwrap_or(DEFAULT_MAX_SERIES),
        mappings: on(options.mappings.or(file.mappings), false),
        python,
        go,
        debuginfod,
        hunt,
        push,
        view: hunt::view(leaks),
        once,
        json: options.json,
        report: options.report.or(file.report),
        trace: log.level == LogLevel::Trace,
    })
}

/// What the command line says, else what the file says.
fn given<T>(options: Vec<T>, file: Option<file::OneOrMany<T>>) -> Vec<T> {
    if options.is_empty() { file.map(file::OneOrMany::into_vec).unwrap_or_default() } else { options }
}

/// A list of words, and what makes a criterion of each.
type Words = (Vec<String>, fn(&str) -> Result<Criterion, SelectionError>);

fn select(words: [Words; 5]) -> Result<Option<Selection>, UsageError> {
    let mut criteria = Vec::new();
    for (words, criterion) in words {
        for word in words {
            criteria.push(criterion(&word).map_err(|error| UsageError(error.to_string()))?);
        }
    }
    Ok(if criteria.is_empty() { None } else { Some(Selection { criteria }) })
}

fn choose(pids: Vec<u32>, names: Vec<String>, selecting: bool) -> Result<Vec<ChosenPid>, UsageError> {
    if pids.is_empty() && !selecting {
        return Err(UsageError(
            "which process? Give --pid N or --comm NAME (`profiler ps` lists what there is), or start one with \
             `profiler run -- COMMAND`"
                .to_owned(),
        ));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = pids.iter().find(|pid| !seen.insert(**pid)) {
        return Err(UsageError(format!("--pid {twice} is given twice")));
    }
    if !names.is_empty() && names.len() != pids.len() {
        return Err(UsageError(format!(
            "{} names for {} processes: give --name once per --pid, in the same order, or not at all",
            names.len(),
            pids.len()
        )));
    }
    let mut seen = HashSet::new();
    for name in &names {
        check_name(name)?;
        if !seen.insert(name) {
            return Err(UsageError(format!("two targets can't both be named {name:?}")));
        }
    }
    let mut names = names.into_iter().map(Some);
    Ok(pids.into_iter().map(|pid| ChosenPid { pid, name: names.next().flatten() }).collect())
}

fn check_name(name: &str) -> Result<(), UsageError> {
    if name.is_empty() || name != crate::text::clean(name) {
        return Err(UsageError(format!(
            "the name {name:?} can't be used: a label has 1 to {} bytes and no control characters",
            crate::text::NAME_LIMIT
        )));
    }
    Ok(())
}

fn address(text: &str) -> Result<std::net::SocketAddr, UsageError> {
    // As in other exporters, `:7667` means every address of this machine.
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|_| {
        UsageError(format!("--listen {text:?} is no address: give IP:PORT as in {DEFAULT_LISTEN}, or none"))
    })
}

/// A time in the config file.
fn duration(text: Option<String>, key: &str, path: Option<&Path>) -> Result<Option<Duration>, UsageError> {
    let refused = |error| {
        let path = path.map_or_else(String::new, |path| format!(" {}", path.display()));
        UsageError(format!("config file{path}, {key}: {error}"))
    };
    text.map(|text| args::parse_duration(&text).map_err(refused)).transpose()
}

/// What clap says of a wrong command line, in one line.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let parts: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .map(|line| line.trim_start_matches("error: ").trim_start_matches("tip: "))
        .collect();
    format!("{} (see profiler --help)", parts.join("; ").replace(":; ", ": "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser as _};

    fn config(arguments: &[&str]) -> Result<Config, UsageError> {
        with_file(arguments, "")
    }

    fn with_file(arguments: &[&str], file: &str) -> Result<Config, UsageError> {
        let cli = Cli::try_parse_from([&["profiler"], arguments].concat()).unwrap();
        let file = toml::from_str(file).unwrap();
        match cli.command {
            Some(Command::Run { options, command }) => resolve(options, Some(command), None, file),
            _ => resolve(cli.options, None, None, file),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_pid_is_enough() {
        let config = config(&["--pid", "12"]).unwrap();
        let What::Processes(choice) = config.what else { panic!("processes") };
        assert_eq!(choice.pids, [ChosenPid { pid: 12, name: None }]);
        assert!(choice.selection.is_none() && !choice.children);
        assert_eq!(config.interval, DEFAULT_INTERVAL);
        assert_eq!(config.listen, vec![DEFAULT_LISTEN.parse().unwrap()]);
        assert!(config.alloc && config.stalls && !config.once);
        assert!(!config.python && !config.mappings, "what is dear is off");
    }

    #[test]
    fn once_is_one_interval_and_serves_nobody() {
        let config = config(&["--pid", "1", "--once", "--interval", "300ms"]).unwrap();
        assert_eq!(config.duration, Some(Duration::from_millis(300)));
        assert!(config.listen.is_empty());
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_the_file_before_the_defaults() {
        let file = "pid = [3, 4]\ninterval = '5s'\nalloc = 'off'\n[web]\nlisten-address = '127.0.0.1:1'";
        let config = with_file(&["--interval", "2s"], file).unwrap();
        assert_eq!(config.interval, Duration::from_secs(2));
        assert!(!config.alloc && config.stalls);
        assert_eq!(config.listen, vec!["127.0.0.1:1".parse().unwrap()]);
        assert!(matches!(config.what, What::Processes(choice) if choice.pids.len() == 2));
    }

    #[test]
    fn bad_wishes_are_told_in_one_line() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "--pid N"),
            (&["--pid", "1", "--pid", "1"], "given twice"),
            (&["--comm", "("], "--comm"),
            (&["--pid", "1", "--python", "on", "--alloc", "off"], "--alloc off"),
            (&["--pid", "1", "--go", "off", "--go-stops", "on"], "--go off"),
            (&["--pid", "1", "--debuginfod", "here"], "--debuginfod"),
            (&["--comm", "a", "--max-targets", "0"], "1 to 4096"),
            (&["--pid", "1", "--pid", "2", "--max-targets", "1"], "too many"),
            (&["--pid", "1", "--interval", "1ms"], "shortest"),
            (&["--pid", "1", "--listen", "nowhere"], "IP:PORT"),
            (&["--pid", "1", "--name", "a", "--name", "b"], "once per --pid"),
            (&["--pid", "1", "--name", "a\nb"], "control characters"),
            (&["--pid", "1", "--pid", "2", "--name", "a", "--name", "a"], "both be named"),
        ];
        for (arguments, part) in cases {
            let error = config(arguments).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn run_takes_everything_behind_the_dashes() {
        let config = config(&["run", "--name", "x", "--", "ls", "--pid", "7"]).unwrap();
        let What::Command { argv, name, .. } = config.what else { panic!("a command") };
        assert_eq!(argv, ["ls", "--pid", "7"]);
        assert_eq!(name.as_deref(), Some("x"));
    }
}
