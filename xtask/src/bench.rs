//! `cargo xtask bench NAME`: what profiling costs, measured on this machine.

use anyhow::{Result, bail};

use crate::command::{self, Sudo};
use crate::{build, debian, workspace};

/// A benchmark: its name here, the profiler's example that is it, and what it tells.
struct Bench {
    name: &'static str,
    example: &'static str,
    /// What the example is told.
    arguments: &'static [&'static str],
    /// A program that it compares with, which has a package of its name.
    needs: Option<&'static str>,
    about: &'static str,
}

const BENCHES: [Bench; 2] = [
    Bench {
        name: "pair",
        example: "bench_pair",
        arguments: &[],
        needs: None,
        about: "what one malloc and free cost with the profiler attached, beside the same pair without it",
    },
    Bench {
        name: "leaks",
        example: "bench_pair",
        arguments: &["--leaks"],
        needs: Some("bpftrace"),
        about: "the same with sampling for a leak hunt, beside counting alone and a script that works as memleak does",
    },
];

#[derive(clap::Args)]
pub struct Args {
    /// Which benchmark; without it, they are listed
    name: Option<String>,
    /// How long each measurement takes
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
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
    if let Some(program) = bench.needs.filter(|program| command::find(program).is_none())
        && (!debian::is_here() || !debian::install(&[program])?.is_empty())
    {
        bail!("it compares with {program}, which isn't here: install it");
    }
    build::release()?;
    build::release_example(bench.example)?;
    let mut command = command::as_root(workspace::example(bench.example), Sudo::Ask);
    command.args(bench.arguments);
    if let Some(seconds) = args.seconds {
        command.args(["--seconds", &seconds.to_string()]);
    }
    command::become_command(&mut command, "a benchmark needs root: run this as root or with sudo")
}
