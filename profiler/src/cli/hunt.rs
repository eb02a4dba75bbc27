//! What is meant by the options of leak hunts.

use std::path::PathBuf;

use profiler_common::sample::LARGEST_MEAN;

use super::{
    LeaksOptions, UsageError,
    args::{By, FailOn, Options, Switch},
    duration,
    file::File,
};
use crate::{
    config::{
        DEFAULT_HISTORY_BYTES, DEFAULT_LEAKS_DURATION, DEFAULT_PATIENCE, DEFAULT_SAMPLE_BYTES, LeakHunt,
        Leaks, View,
    },
    history::{HIGHEST_BYTES, Identity, LOWEST_BYTES, Moment},
};

/// A look at what a history has kept; no process is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The history.
    pub history: PathBuf,
    /// Two moments to be compared; `None`: the last picture is shown.
    pub compared: Option<Compared>,
    /// Sites that are shown, at most.
    pub top: usize,
    /// Print JSON.
    pub json: bool,
}

/// Two moments to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The first.
    pub from: Moment,
    /// The second.
    pub to: Moment,
    /// Where the second is; `None`: in the same history.
    pub against: Option<PathBuf>,
    /// What makes two sites the same.
    pub by: Identity,
}

/// Whether `leaks` is to look at a history: one is named, and no process.
pub fn looks(options: &Options, leaks: &LeaksOptions) -> Option<Look> {
    let selects = !options.pid.is_empty()
        || [&options.comm, &options.exe, &options.cgroup, &options.container, &options.unit]
            .into_iter()
            .any(|words| !words.is_empty());
    let history = options.history.clone().filter(|_| !selects && options.config.is_none())?;
    let asked = leaks.from.is_some() || leaks.to.is_some() || leaks.against.is_some() || leaks.by.is_some();
    let compared = asked.then(|| Compared {
        // Two builds: how the one ended up, and how the other did.
        from: leaks.from.unwrap_or(if leaks.against.is_some() { Moment::Last } else { Moment::First }),
        to: leaks.to.unwrap_or(Moment::Last),
        against: leaks.against.clone(),
        by: match leaks.by {
            Some(By::Site) => Identity::Site,
            Some(By::Name) => Identity::Name,
            None if leaks.against.is_some() => Identity::Name,
            None => Identity::Site,
        },
    });
    Some(Look { history, compared, top: leaks.top, json: options.json })
}

/// What is shown.
pub fn view(leaks: Option<&LeaksOptions>) -> View {
    leaks.map_or(View::Summary, |leaks| View::Leaks {
        top: leaks.top,
        fail_on_leaking: leaks.fail_on == Some(FailOn::Leaking),
    })
}

/// How long it is watched if nothing is said.
pub fn lasting(
    leaks: Option<&LeaksOptions>,
    said: Option<std::time::Duration>,
) -> Option<std::time::Duration> {
    leaks.map_or(said, |leaks| Some(leaks.lasting.or(said).unwrap_or(DEFAULT_LEAKS_DURATION)))
}

/// Command line before file before default. `only`: leaks are all that is asked for.
pub fn resolve(options: &Options, file: &File, only: bool) -> Result<LeakHunt, UsageError> {
    let mode = options.leaks.or(file.leaks).unwrap_or_default();
    let history = options.history.clone().or_else(|| file.history.clone());
    let alloc = options.alloc.or(file.alloc).is_none_or(|switch| switch.0);
    if mode == Leaks::Off && only {
        return Err(UsageError("--leaks off leaves nothing to do: give auto, on or growth".to_owned()));
    }
    if mode == Leaks::Off && history.is_some() {
        return Err(UsageError(
            "--history keeps what --leaks finds, which is off: give one of them".to_owned(),
        ));
    }
    if mode == Leaks::On && !alloc {
        return Err(UsageError(
            "--leaks on samples allocator calls, which --alloc off forbids: give --leaks growth, or leave one out".to_owned(),
        ));
    }
    let sample_bytes =
        options.sample_bytes.or(file.sample_bytes).map_or(DEFAULT_SAMPLE_BYTES, |bytes| bytes.0);
    if !(1..=LARGEST_MEAN).contains(&sample_bytes) {
        return Err(UsageError(format!("--sample-bytes {sample_bytes}: give 1 to 1GiB")));
    }
    let history_bytes =
        options.history_size.or(file.history_size).map_or(DEFAULT_HISTORY_BYTES, |bytes| bytes.0);
    if !(LOWEST_BYTES..=HIGHEST_BYTES).contains(&history_bytes) {
        return Err(UsageError(format!("--history-size {history_bytes}: give 2MiB to 1GiB")));
    }
    let on = |switch: Option<Switch>, default: bool| switch.map_or(default, |switch| switch.0);
    Ok(LeakHunt {
        mode,
        sample_bytes,
        patience: options
            .patience
            .or(duration(file.patience.clone(), "patience", options.config.as_deref())?)
            .unwrap_or(DEFAULT_PATIENCE),
        history,
        history_bytes,
        perf_map: on(options.perf_map.or(file.perf_map), false),
        references: on(options.references.or(file.references), true),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command, resolve},
        config::Config,
    };

    fn parsed(arguments: &[&str]) -> Result<(Options, LeaksOptions), String> {
        let cli = Cli::try_parse_from([&["profiler", "leaks"], arguments].concat());
        match cli.map_err(|error| error.to_string())?.command {
            Some(Command::Leaks { options, leaks }) => Ok((options, leaks)),
            _ => Err("another command".to_owned()),
        }
    }

    fn config(arguments: &[&str], file: &str) -> Result<Config, String> {
        let (options, leaks) = parsed(arguments)?;
        let file = toml::from_str(file).map_err(|error| error.to_string())?;
        resolve(options, None, Some(&leaks), file).map_err(|error| error.to_string())
    }

    #[test]
    fn leaks_watches_for_ten_minutes_and_serves_and_keeps_nothing_else() {
        let config = config(&["--pid", "7"], "").unwrap();
        assert_eq!(config.duration, Some(Duration::from_secs(600)));
        assert_eq!(config.view, View::Leaks { top: 10, fail_on_leaking: false });
        assert_eq!(config.hunt, LeakHunt::default());
        assert!(config.listen.is_empty() && config.alloc && !config.stalls && !config.mappings);
    }

    #[test]
    fn the_options_of_a_hunt_come_from_the_command_line_the_file_and_the_defaults() {
        let file = "sample-bytes = 4096\nhistory = 'hunt.db'\npatience = '1h'\nperf-map = 'on'\nreferences = 'off'\n\
                    leaks = 'growth'\nhistory-size = '16MiB'\nstalls = 'on'";
        let arguments =
            ["--pid", "7", "--for", "30s", "--sample-bytes", "64KiB", "--fail-on", "leaking", "--top", "3"];
        let config = config(&[&arguments[..], &["--listen", "127.0.0.1:0"]].concat(), file).unwrap();
        assert_eq!(config.duration, Some(Duration::from_secs(30)));
        assert_eq!(config.view, View::Leaks { top: 3, fail_on_leaking: true });
        assert_eq!((config.listen.len(), config.stalls), (1, true));
        let hunt = LeakHunt {
            mode: Leaks::Growth,
            sample_bytes: 65_536,
            patience: Duration::from_secs(3600),
            history: Some("hunt.db".into()),
            history_bytes: 16 << 20,
            perf_map: true,
            references: false,
        };
        assert_eq!(config.hunt, hunt);
    }

    #[test]
    fn wishes_that_contradict_each_other_are_told() {
        let cases: &[(&[&str], &str)] = &[
            (&["--pid", "1", "--leaks", "off"], "--leaks off"),
            (&["--pid", "1", "--leaks", "on", "--alloc", "off"], "--leaks growth"),
            (&["--pid", "1", "--leaks", "perhaps"], "auto, on, growth and off"),
            (&["--pid", "1", "--sample-bytes", "2GiB"], "1GiB"),
            (&["--pid", "1", "--sample-bytes", "0"], "--sample-bytes"),
            (&["--pid", "1", "--sample-bytes", "5MB"], "64KiB"),
            (&["--pid", "1", "--history", "f", "--history-size", "1KiB"], "2MiB"),
            (&["--pid", "1", "--for", "1m", "--duration", "1m"], "--duration"),
            (&["--pid", "1", "--history", "f", "--from", "-2h"], "--from"),
            (&["--from", "-2h"], "--history"),
            (&["--history", "f", "--from", "yesterday"], "first or last"),
            (&[], "--pid"),
        ];
        for (arguments, part) in cases {
            let error = config(arguments, "").unwrap_err();
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_history_without_a_process_is_looked_at() {
        let look = |arguments: &[&str]| {
            let (options, leaks) = parsed(arguments).unwrap();
            looks(&options, &leaks)
        };
        assert_eq!(look(&["--pid", "1", "--history", "a"]), None);
        assert_eq!(look(&["--comm", "x", "--history", "a"]), None);
        let last = look(&["--history", "a", "--json"]).unwrap();
        assert!(last.json && last.compared.is_none());
        let compared = look(&["--history", "a", "--from", "-2h"]).unwrap().compared.unwrap();
        let expected = Compared {
            from: Moment::Ago(Duration::from_secs(7200)),
            to: Moment::Last,
            against: None,
            by: Identity::Site,
        };
        assert_eq!(compared, expected);
        let builds = look(&["--history", "a", "--against", "b"]).unwrap().compared.unwrap();
        assert_eq!((builds.from, builds.to, builds.by), (Moment::Last, Moment::Last, Identity::Name));
    }
}
