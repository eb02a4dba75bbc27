//! bpf-linker: the one in PATH, the one an earlier setup installed, or a new one built against Debian's LLVM.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::rust::Toolchain;
use crate::command;
use crate::debian;
use crate::style;
use crate::workspace;

/// The version the project is built with.
const VERSION: &str = "0.13.0";

/// The LLVM versions that version can be built against (its cargo features `llvm-NN`), oldest first.
const LLVM_VERSIONS: [u32; 3] = [21, 22, 23];

/// The linkers on this machine which at least start.
pub fn present() -> Vec<PathBuf> {
    let candidates = command::find("bpf-linker").into_iter().chain([installed_path()]);
    candidates
        .filter(|linker| command::is_executable(linker))
        .filter(|linker| command::ask(Command::new(linker).arg("--version")).is_some())
        .collect()
}

/// Builds one for the toolchain into `target/setup/bin`.
pub fn install(toolchain: &Toolchain) -> Result<PathBuf> {
    if !debian::is_here() {
        bail!("no usable bpf-linker: run `cargo install bpf-linker`, then `cargo xtask setup` again");
    }
    let llvm = llvm_for(toolchain.llvm)?;
    style::say(&format!(
        "building bpf-linker {VERSION} with LLVM {llvm}, which takes a minute or two (no need to put it in PATH)"
    ));
    let mut install = workspace::cargo();
    install
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(workspace::setup_dir());
    command::run(&mut install, "read its messages above; `cargo install bpf-linker` by hand works as well")?;
    Ok(installed_path())
}

fn installed_path() -> PathBuf {
    workspace::setup_dir().join("bin/bpf-linker")
}

/// The LLVM to build with: the compiler's own version or the next one whose development files can be had.
fn llvm_for(compiler: u32) -> Result<u32> {
    for llvm in LLVM_VERSIONS.into_iter().filter(|llvm| *llvm >= compiler) {
        let package = format!("llvm-{llvm}-dev");
        if debian::missing(&[&package]).is_empty() || debian::install(&[&package])?.is_empty() {
            return Ok(llvm);
        }
    }
    bail!(
        "rustc has LLVM {compiler} and there is no llvm-dev package from {compiler} to {} here: run `cargo install \
         bpf-linker`, then `cargo xtask setup` again",
        LLVM_VERSIONS[LLVM_VERSIONS.len() - 1]
    );
}
