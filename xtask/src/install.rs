//! `cargo xtask install`: the profiler where the shell finds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{self, Sudo};
use crate::{build, style, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// The binary goes to PREFIX/bin/profiler
    #[arg(long, value_name = "PREFIX", default_value = "/usr/local")]
    prefix: PathBuf,
}

/// Builds, then copies the binary, through sudo where this user may not write.
pub fn run(args: &Args) -> Result<()> {
    let prefix = std::path::absolute(&args.prefix).context("the prefix is no path")?;
    build::release()?;
    let destination = prefix.join("bin/profiler");
    let writable = destination.parent().is_some_and(is_writable);
    let mut install =
        if writable { std::process::Command::new("install") } else { command::as_root("install", Sudo::Ask) };
    install.args(["-D", "-m", "0755"]).arg(workspace::profiler_binary("release")).arg(&destination);
    command::run(&mut install, "choose a directory you may write to with --prefix")?;
    let size = destination.metadata().map(|file| file.len()).unwrap_or_default();
    style::say(&format!(
        "{} installed {} ({:.1} MB); try `sudo profiler --pid N`",
        style::mark(true),
        destination.display(),
        size as f64 / 1e6
    ));
    Ok(())
}

/// Whether this user may create files in the directory, or create the directory.
fn is_writable(dir: &Path) -> bool {
    let Some(existing) = dir.ancestors().find(|dir| dir.is_dir()) else { return false };
    let probe = existing.join(format!(".profiler-install-{}", std::process::id()));
    let writable = std::fs::File::create_new(&probe).is_ok();
    if writable {
        // Nothing depends on it, and a file left behind would be empty.
        let _ = std::fs::remove_file(&probe);
    }
    writable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_yet_to_be_made_is_writable_if_its_parent_is() {
        assert!(is_writable(&std::env::temp_dir().join("not-there-yet/bin")));
        assert!(!is_writable(Path::new("/proc/self/bin")));
    }
}
