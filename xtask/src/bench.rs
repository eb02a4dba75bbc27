//! `cargo xtask bench NAME`: what profiling costs, measured on this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{self, Sudo};
use crate::{build, debian, go_toolchains, workspace};

/// A benchmark: its name here, the profiler's example that is it, and what it tells.
struct Bench {
    name: &'static str,
    example: &'static str,
    /// What the example is told.
    arguments: &'static [&'static str],
    /// A program that it compares with or measures with.
    needs: Option<Program>,
    /// Whether it needs root's rights.
    root: bool,
    about: &'static str,
}

/// A program that isn't ours.
struct Program {
    name: &'static str,
    /// The package of Debian that has it.
    package: &'static str,
}

const BENCHES: [Bench; 4] = [
    Bench {
        name: "pair",
        example: "bench_pair",
        arguments: &[],
        needs: None,
        root: true,
        about: "what one malloc and free cost with the profiler attached, beside the same pair without it",
    },
    Bench {
        name: "leaks",
        example: "bench_pair",
        arguments: &["--leaks"],
        needs: Some(Program { name: "bpftrace", package: "bpftrace" }),
        root: true,
        about: "the same with sampling for a leak hunt, beside counting alone and a script that works as memleak does",
    },
    Bench {
        name: PUSH,
        example: "bench_push",
        arguments: &[],
        needs: Some(Program { name: "influxd", package: "influxdb" }),
        root: false,
        about: "what it costs to get points to InfluxDB, beside a request per line, and how a backlog is drained",
    },
    Bench {
        name: GO,
        example: "bench_go",
        arguments: &[],
        // It makes its program by a Go that is no package of Debian.
        needs: None,
        root: true,
        about: "what a reading of a Go runtime's figures costs, beside the program's own, which stops its world",
    },
];

/// The one that takes a backlog.
const PUSH: &str = "push";

/// The one that needs a Go which counts its stops, and where that is, if the one meant isn't the tests' newest.
const GO: &str = "go";
const GO_PROGRAM: &str = "PROFILER_GO";

#[derive(clap::Args)]
pub struct Args {
    /// Which benchmark; without it, they are listed
    name: Option<String>,
    /// How long each measurement takes
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// For push: how many points wait at the beginning, 1,000,000 unless told otherwise
    #[arg(long, value_name = "N")]
    backlog: Option<u64>,
}

/// Builds and becomes the benchmark, or lists them all.
pub fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.name else {
        for bench in &BENCHES {
            println!("{:8} {}", bench.name, bench.about);
        }
        return Ok(());
    };
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        bail!("no benchmark is named {name}: `cargo xtask bench` lists them");
    };
    if args.backlog.is_some() && bench.name != PUSH {
        bail!("{name} has no backlog: --backlog is for `cargo xtask bench {PUSH}`");
    }
    if let Some(Program { name, package }) =
        bench.needs.as_ref().filter(|program| command::find(program.name).is_none())
        && (!debian::is_here() || !debian::install(&[package])?.is_empty())
    {
        bail!("it needs {name}, which isn't here: install it (Debian's package {package})");
    }
    build::release()?;
    build::release_example(bench.example)?;
    let program = workspace::example(bench.example);
    let mut command = if bench.root { command::as_root(program, Sudo::Ask) } else { Command::new(program) };
    command.args(bench.arguments);
    if bench.name == GO {
        let go = match std::env::var_os(GO_PROGRAM) {
            Some(go) => PathBuf::from(go),
            None => go_toolchains::toolchain(go_toolchains::NEW)?.join("bin/go"),
        };
        command.arg("--go").arg(go);
    }
    if let Some(seconds) = args.seconds {
        command.args(["--seconds", &seconds.to_string()]);
    }
    if let Some(backlog) = args.backlog {
        command.args(["--backlog", &backlog.to_string()]);
    }
    let way_out = match bench.root {
        true => "this benchmark needs root: run this as root or with sudo",
        false => build::WAY_OUT,
    };
    command::become_command(&mut command, way_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_benchmark_has_a_name_of_its_own_and_a_program_in_the_tree() {
        for (at, bench) in BENCHES.iter().enumerate() {
            assert!(BENCHES[..at].iter().all(|other| other.name != bench.name), "{} twice", bench.name);
            let source = format!("{}/../profiler/examples/{}.rs", env!("CARGO_MANIFEST_DIR"), bench.example);
            assert!(std::path::Path::new(&source).is_file(), "{}: no {source}", bench.name);
        }
    }

    #[test]
    fn a_backlog_is_refused_where_there_is_none() {
        let args = Args { name: Some("pair".to_owned()), seconds: None, backlog: Some(1) };
        let refused = run(&args).unwrap_err().to_string();
        assert!(refused.contains("--backlog is for `cargo xtask bench push`"), "{refused}");
    }
}
