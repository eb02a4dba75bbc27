//! The project's chores, one verb per file: `cargo xtask setup` makes the machine able to build, the other verbs
//! build, run, show, check and measure. Each prints the commands it runs, so that anything it does can be done by hand.

mod bench;
mod build;
mod command;
mod dashboards;
mod debian;
mod demo;
mod docs;
mod esbuild;
mod go_layouts;
mod go_matrix;
mod go_toolchains;
mod install;
mod lint;
mod run;
mod setup;
mod style;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The project's chores",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make this machine able to build: a toolchain for the eBPF programs, and their linker
    Setup,
    /// Set up, then build the profiler
    Build(build::Args),
    /// Build, then run the profiler as root with the arguments after `--`
    Run(run::Args),
    /// Build, then copy the profiler to PREFIX/bin
    Install(install::Args),
    /// Profile a workload which counts for itself, and compare what both say
    Demo(demo::Args),
    /// Everything a change must pass: format, clippy, lint, documents, tests
    Test(test::Args),
    /// Check the rules of the architecture which the compiler can't
    Lint,
    /// Write (or check) the documents which are made from the program itself
    Docs(docs::Args),
    /// Write (or check) dashboards, alerts and recording rules
    Dashboards(dashboards::Args),
    /// Make (or check) the tables by which Go's runtime is read, from real toolchains
    GoLayouts(go_layouts::Args),
    /// Run a benchmark; without a name, list them
    Bench(bench::Args),
    /// Boot other kernels in an emulator and check that the profiler works on them
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Setup => setup::run(),
        Verb::Build(args) => build::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Install(args) => install::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Lint => lint::run(),
        Verb::Docs(args) => docs::run(&args),
        Verb::Dashboards(args) => dashboards::run(&args),
        Verb::GoLayouts(args) => go_layouts::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Vm(args) => vm::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", style::red("error:"));
            ExitCode::FAILURE
        }
    }
}
