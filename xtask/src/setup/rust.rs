//! Which Rust toolchain can build `core` for the BPF target: one that has its standard library's sources and is new
//! enough. A nightly is asked first, for it needs no special permission; a stable one works with RUSTC_BOOTSTRAP=1.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use super::record::Record;
use crate::command;
use crate::debian;
use crate::style;

/// The one command a user runs where nothing here helps.
const BY_HAND: &str =
    "run `rustup toolchain install nightly --component rust-src`, then `cargo xtask setup` again";

/// How long a download of the library sources (a few megabytes) may take.
const COMPONENT_LIMIT: Duration = Duration::from_secs(60);

/// A toolchain by its real programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    nightly: bool,
    /// The major version of its LLVM, which the linker's must reach.
    pub llvm: u32,
}

impl Toolchain {
    /// This toolchain with a linker: all the build script needs.
    pub fn with_linker(&self, linker: &Path) -> Record {
        Record {
            cargo: self.cargo.clone(),
            rustc: self.rustc.clone(),
            linker: linker.to_owned(),
            bootstrap: !self.nightly,
        }
    }
}

/// Every toolchain on this machine that can be used as it is, the best first.
pub fn present() -> Vec<Toolchain> {
    let mut found: Vec<Toolchain> = Vec::new();
    let candidates = [nightly(&["--print", "sysroot"]), default_rustc(), system_rustc()];
    for mut query in candidates {
        let Some(sysroot) = command::ask(&mut query) else { continue };
        let sysroot = PathBuf::from(sysroot.trim());
        if let Some(toolchain) = usable(&sysroot)
            && !found.contains(&toolchain)
        {
            found.push(toolchain);
        }
    }
    found
}

/// Brings a toolchain: the sources for a nightly that lacks only them, else Debian's packages.
pub fn install() -> Result<Toolchain> {
    if command::find("rustup").is_some() && command::ask(&mut nightly(&["--version"])).is_some() {
        let mut add = Command::new("rustup");
        add.args(["component", "add", "rust-src", "--toolchain", "nightly"]).env("RUSTUP_AUTO_INSTALL", "0");
        if command::succeeds_within(&mut add, COMPONENT_LIMIT)
            && let Some(toolchain) = present().into_iter().next()
        {
            return Ok(toolchain);
        }
        style::say("rustup couldn't add the standard library's sources to nightly; looking further");
    }
    if !debian::is_here() {
        bail!("no Rust toolchain with its standard library's sources: {BY_HAND}");
    }
    let packages = ["rustc-web", "cargo-web", "rust-web-src"];
    let unavailable = debian::install(&packages).map_err(|error| anyhow!("{error:#}; or {BY_HAND}"))?;
    if !unavailable.is_empty() {
        bail!("this release has no {}: {BY_HAND}", unavailable.join(", "));
    }
    match present().into_iter().next() {
        Some(toolchain) => Ok(toolchain),
        None => bail!("this release's rustc is older than {}: {BY_HAND}", env!("CARGO_PKG_RUST_VERSION")),
    }
}

/// Whether a toolchain has its library's sources. The lock file is what cargo itself looks for.
pub fn has_sources(sysroot: &Path) -> bool {
    let library = sysroot.join("lib/rustlib/src/rust/library");
    library.join("Cargo.lock").is_file() && library.join("core/Cargo.toml").is_file()
}

/// `rustc +nightly`, without leave to download one.
fn nightly(args: &[&str]) -> Command {
    let mut command = Command::new("rustc");
    command.arg("+nightly").args(args).env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// The `rustc` of this shell.
fn default_rustc() -> Command {
    let mut command = Command::new("rustc");
    command.args(["--print", "sysroot"]);
    command
}

/// The distribution's `rustc`, which a rustup in PATH hides.
fn system_rustc() -> Command {
    let mut command = Command::new("/usr/bin/rustc");
    command.args(["--print", "sysroot"]);
    command
}

fn usable(sysroot: &Path) -> Option<Toolchain> {
    let (cargo, rustc) = (sysroot.join("bin/cargo"), sysroot.join("bin/rustc"));
    if !has_sources(sysroot) || !command::is_executable(&cargo) || !command::is_executable(&rustc) {
        style::say(&style::dim(&format!("  {}: no library sources", sysroot.display())));
        return None;
    }
    let verbose = command::ask(Command::new(&rustc).arg("-vV"))?;
    let Some((release, llvm)) = versions(&verbose) else {
        style::say(&style::dim(&format!("  {}: its version can't be read", rustc.display())));
        return None;
    };
    if version_number(&release)? < version_number(env!("CARGO_PKG_RUST_VERSION"))? {
        style::say(&style::dim(&format!("  {}: {release} is too old", rustc.display())));
        return None;
    }
    let nightly = release.contains("nightly") || release.contains("dev");
    Some(Toolchain { cargo, rustc, nightly, llvm })
}

/// The release and LLVM's major version out of `rustc -vV`.
fn versions(verbose: &str) -> Option<(String, u32)> {
    let value = |key| verbose.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let llvm = value("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((value("release:")?.to_owned(), llvm))
}

/// `1.97.0-nightly` as (1, 97).
fn version_number(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_are_read_from_the_compilers_own_words() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nhost: x\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(versions(text), Some(("1.97.0-nightly".to_owned(), 22)));
        assert_eq!(versions("release: 1.97.0\n"), None);
    }

    #[test]
    fn versions_compare_as_numbers_not_as_text() {
        assert!(version_number("1.100.0-nightly") > version_number("1.95"));
        assert!(version_number("1.85.0") < version_number("1.95"));
    }

    #[test]
    fn a_directory_without_a_library_is_no_toolchain() {
        assert!(!has_sources(Path::new("/nonexistent")));
    }
}
