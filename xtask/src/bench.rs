//! `cargo xtask bench NAME`: what profiling costs, measured on this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{self, Sudo};
use crate::{build, debian, go_toolchains, style, workspace};

/// A benchmark: its name here, the profiler's example that is it, and what it tells.
struct Bench {
    name: &'static str,
    example: &'static str,
    /// What the example is told.
    arguments: &'static [&'static str],
    /// Programs that it compares with or measures.
    needs: &'static [Program],
    /// Whether it leaves out what it has no program for, and says so.
    leaves_out: bool,
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

impl Program {
    fn is_here(&self) -> bool {
        // Servers lie where PATH doesn't lead everybody.
        let server = std::path::Path::new("/usr/sbin").join(self.name);
        command::find(self.name).is_some() || command::is_executable(&server)
    }
}

const BENCHES: [Bench; 6] = [
    Bench {
        name: "pair",
        example: "bench_pair",
        arguments: &[],
        needs: &[],
        leaves_out: false,
        root: true,
        about: "what one malloc and free cost with the profiler attached, beside the same pair without it",
    },
    Bench {
        name: "leaks",
        example: "bench_pair",
        arguments: &["--leaks"],
        needs: &[Program { name: "bpftrace", package: "bpftrace" }],
        leaves_out: false,
        root: true,
        about: "the same with sampling for a leak hunt, beside counting alone and a script that works as memleak does",
    },
    Bench {
        name: PUSH,
        example: "bench_push",
        arguments: &[],
        needs: &[Program { name: "influxd", package: "influxdb" }],
        leaves_out: false,
        root: false,
        about: "what it costs to get points to InfluxDB, beside a request per line, and how a backlog is drained",
    },
    Bench {
        name: GO,
        example: "bench_go",
        arguments: &[],
        // It makes its program by a Go that is no package of Debian.
        needs: &[],
        leaves_out: false,
        root: true,
        about: "what a reading of a Go runtime's figures costs, beside the program's own, which stops its world",
    },
    Bench {
        name: "programs",
        example: "bench_programs",
        arguments: &[],
        needs: &PROGRAMS,
        leaves_out: true,
        root: true,
        about: "what whole programs lose while profiler observes them: redis, nginx, PostgreSQL, CPython, Rust, C++",
    },
    Bench {
        name: "switches",
        example: "bench_programs",
        arguments: &["--switches"],
        needs: &[],
        leaves_out: false,
        root: true,
        about: "what a context switch costs more, of the processes that are observed and of all others",
    },
];

/// Servers, what drives them, and what other programs are made with.
const PROGRAMS: [Program; 8] = [
    Program { name: "redis-server", package: "redis-server" },
    Program { name: "redis-benchmark", package: "redis-tools" },
    Program { name: "nginx", package: "nginx" },
    Program { name: "wrk", package: "wrk" },
    // What lies in PATH of the server, which has a directory of its own for each version.
    Program { name: "pg_lsclusters", package: "postgresql" },
    Program { name: "pgbench", package: "postgresql-contrib" },
    Program { name: "python3", package: "python3" },
    Program { name: "g++", package: "g++" },
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
    install(bench)?;
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

/// Gets what a benchmark needs.
fn install(bench: &Bench) -> Result<()> {
    let packages: Vec<&str> =
        bench.needs.iter().filter(|program| !program.is_here()).map(|program| program.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let tried = match debian::is_here() {
        true => debian::install(&packages).map(|unavailable| unavailable.join(", ")),
        false => Ok(packages.join(", ")),
    };
    match tried {
        Ok(lacking) if lacking.is_empty() => Ok(()),
        Ok(lacking) if bench.leaves_out => {
            style::say(&format!(
                "{} not to be had here: {lacking}; what needs it is left out",
                style::mark(false)
            ));
            Ok(())
        }
        Ok(lacking) => {
            bail!("it needs programs that aren't here: install them (Debian's packages {lacking})")
        }
        Err(error) if bench.leaves_out => {
            style::say(&format!("{} {error:#}; what needs it is left out", style::mark(false)));
            Ok(())
        }
        Err(error) => Err(error),
    }
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
