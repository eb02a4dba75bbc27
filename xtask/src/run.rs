//! `cargo xtask run -- ARGS`: the profiler of this checkout, as root.

use std::ffi::OsString;

use anyhow::Result;

use crate::command::{self, Sudo};
use crate::{build, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// What the profiler gets, for example `-- --pid 1234`
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Builds, then becomes the profiler.
pub fn run(args: &Args) -> Result<()> {
    build::release()?;
    let mut profiler = command::as_root(workspace::profiler_binary("release"), Sudo::Ask);
    command::become_command(
        profiler.args(&args.args),
        "the profiler needs root: run this as root or with sudo",
    )
}
