//! The command: parse, do, print the error chain, exit code.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use profiler::{
    app, ask,
    cli::{self, Cli, Command, LogConfig, LogFormat, LogLevel, UsageError},
    doctor, explain, export, lookback, ps,
    screen::MakeLogWriter,
    session::Images,
    version, worker,
};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == worker::ARGUMENT) {
        return worker::serve();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help is not an error.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            app::say(&cli::one_line(&error));
            return ExitCode::from(2);
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let usage = error.is::<UsageError>();
            app::say(&chain(&error));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// The chain of causes on one line: the outermost says what failed, the innermost why; nothing twice.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if cli.version {
        print_text(&version::text(cli.verbose));
        return Ok(ExitCode::SUCCESS);
    }
    let (options, command, leaks) = match cli.command {
        Some(Command::Doctor { json }) => return doctor::run(json),
        Some(Command::Ps { json }) => return ps::run(json),
        Some(Command::Stats(of)) => return ask::stats(of.process, of.json),
        Some(Command::Memstats { of, go_view }) => {
            return ask::memstats(of.process, go_view.into(), of.json);
        }
        Some(Command::Version(of)) => return ask::version(of.process, of.json),
        Some(Command::Modules(of)) => return ask::modules(of.process, of.json),
        Some(Command::Stack { of, group, system }) => {
            return ask::stack(of.process, ask::Wish { group, system, json: of.json });
        }
        Some(Command::Explain { pid, json, all, debuginfod }) => {
            let images = Images::new(debuginfod.as_deref(), true)?.with_python(true);
            return explain::run(pid, json, all, images);
        }
        Some(Command::Metrics { markdown, json }) => {
            print_text(&match (markdown, json) {
                (true, _) => export::catalogue::markdown(),
                (_, true) => format!("{}\n", export::catalogue::json()?),
                _ => export::catalogue::list(),
            });
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Memstatexport { process, server, database, options }) => {
            (cli::memstatexport(process, &server, database, options)?, None, None)
        }
        Some(Command::Run { options, command }) => (options, Some(command), None),
        Some(Command::Leaks { options, leaks }) => {
            if let Some(look) = cli::looks(&options, &leaks) {
                return lookback::run(&look);
            }
            (options, None, Some(leaks))
        }
        None => (cli.options, None, None),
    };
    let file = cli::read_file(options.config.as_deref())?;
    start_log(cli::log_config(&options, &file));
    app::run(cli::resolve(options, command, leaks.as_ref(), file)?)
}

/// Prints; whoever closes the pipe early has read enough.
fn print_text(text: &str) {
    let _written = std::io::stdout().write_all(text.as_bytes());
}

fn start_log(config: LogConfig) {
    let level = match config.level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(colour).with_writer(MakeLogWriter);
    match config.format {
        LogFormat::Text => log.with_target(false).finish().with(targets(level)).init(),
        LogFormat::Json => log.json().finish().with(targets(level)).init(),
    }
}

/// Who may log how much. What speaks HTTP for us would log requests whole, with the token in them.
fn targets(level: tracing::Level) -> Targets {
    const SPEAK_HTTP: [&str; 4] = ["ureq", "ureq_proto", "rustls", "hyper"];
    let quiet = level.min(tracing::Level::INFO);
    Targets::new().with_default(level).with_targets(SPEAK_HTTP.map(|target| (target, quiet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_sees_a_token_logs_no_details_at_any_level() {
        use tracing::Level;
        for (level, target, of, logged) in [
            (Level::TRACE, "ureq::unversioned::transport", Level::TRACE, false),
            (Level::TRACE, "ureq_proto::util", Level::DEBUG, false),
            (Level::DEBUG, "rustls::client", Level::DEBUG, false),
            (Level::TRACE, "hyper::proto", Level::DEBUG, false),
            (Level::TRACE, "ureq", Level::INFO, true),
            (Level::WARN, "ureq", Level::INFO, false),
            (Level::ERROR, "rustls", Level::WARN, false),
            (Level::TRACE, "profiler::push", Level::TRACE, true),
            (Level::DEBUG, "profiler::push", Level::TRACE, false),
        ] {
            assert_eq!(targets(level).would_enable(target, &of), logged, "{target} {of} at {level}");
        }
    }
}
