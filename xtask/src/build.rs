//! `cargo xtask build`: the profiler with its eBPF programs inside, from a machine with nothing but Rust.

use anyhow::Result;

use crate::{command, setup, style, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Build without optimisation, which is quicker
    #[arg(long)]
    debug: bool,
}

/// What to do when cargo fails here.
pub const WAY_OUT: &str = "read the first error above";

/// Sets up, builds, and says where the binary is.
pub fn run(args: &Args) -> Result<()> {
    build(!args.debug)?;
    let profile = if args.debug { "debug" } else { "release" };
    style::say(&format!("{} {}", style::mark(true), workspace::profiler_binary(profile).display()));
    Ok(())
}

/// The release build the other verbs start from.
pub fn release() -> Result<()> {
    build(true)
}

/// A release build of one of the profiler's examples, beside the profiler itself.
pub fn release_example(name: &str) -> Result<()> {
    let mut cargo = workspace::cargo();
    command::run(cargo.args(["build", "--release", "-p", "profiler", "--example", name]), WAY_OUT)
}

fn build(release: bool) -> Result<()> {
    setup::run()?;
    let mut cargo = workspace::cargo();
    cargo.arg("build");
    if release {
        cargo.arg("--release");
    }
    command::run(cargo.args(["-p", "profiler"]), WAY_OUT)
}
