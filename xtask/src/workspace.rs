//! Where things are: the repository, what was built from it, and what `setup` keeps.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root. Asked of cargo at run time first, for a checkout may have been moved since xtask was built.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.filter(|dir| dir.ends_with("xtask") && dir.join("Cargo.toml").is_file());
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// Cargo's target directory. It is where xtask itself lies (`target/debug/xtask`), which holds for every way of moving
/// it: the environment, the command line, a configuration file.
pub fn target_dir() -> PathBuf {
    let own = std::env::current_exe().ok().and_then(|exe| {
        let profile = exe.parent()?;
        let known = ["debug", "release"].iter().any(|name| profile.ends_with(name));
        known.then(|| profile.parent().map(Path::to_path_buf))?
    });
    own.unwrap_or_else(|| root().join("target"))
}

/// The profiler, as cargo leaves it.
pub fn profiler_binary(profile: &str) -> PathBuf {
    target_dir().join(profile).join("profiler")
}

/// A release build of one of the profiler's examples.
pub fn example(name: &str) -> PathBuf {
    target_dir().join("release/examples").join(name)
}

/// What `setup` installs and writes. Always below the repository, not in a moved target directory: the profiler's
/// build script looks here.
pub fn setup_dir() -> PathBuf {
    root().join("target/setup")
}

/// `cargo`, in the repository's root: the one that runs xtask, where that is known.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
