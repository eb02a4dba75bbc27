//! The proof that a toolchain works: a program of a few lines, built for the BPF target as the build script builds the
//! real ones. It takes some seconds once, and finds what no version number tells (an LLVM that is too old for the
//! compiler's bitcode, sources that don't belong to the compiler).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::record::Record;
use crate::command;
use crate::style;
use crate::workspace;

const MANIFEST: &str = r#"[package]
name = "trial"
version = "0.0.0"
edition = "2024"

[[bin]]
name = "trial"
path = "main.rs"

[profile.release]
lto = true
panic = "abort"

[workspace]
"#;

const PROGRAM: &str = r#"#![no_std]
#![no_main]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub extern "C" fn trial(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(0)
}
"#;

/// Whether the trial can be built with this toolchain.
pub fn passes(record: &Record) -> Result<bool> {
    let dir = write_crate()?;
    let passed = command::ask(&mut build(record, &dir)).is_some();
    if !passed {
        let pair = format!("{} with {}", record.rustc.display(), record.linker.display());
        style::say(&format!("{} {pair} can't build a BPF program; looking further", style::mark(false)));
    }
    Ok(passed)
}

/// Builds the trial with its messages shown, and fails if it fails.
pub fn must_pass(record: &Record) -> Result<()> {
    let dir = write_crate()?;
    command::run(
        &mut build(record, &dir),
        "read its messages above; the toolchain there can't build BPF programs",
    )
}

fn build(record: &Record, dir: &Path) -> Command {
    let mut cargo = Command::new(&record.cargo);
    cargo
        .current_dir(dir)
        .args(["build", "--release", "--quiet", "--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .args(["--target-dir", "target"])
        .env("RUSTC", &record.rustc)
        .env("RUSTFLAGS", format!("-Cdebuginfo=2 -Clink-arg=--btf -Clinker={}", record.linker.display()));
    if record.bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    // What is set for the outer build would confuse this one.
    for variable in
        ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(variable);
    }
    cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO_TARGET_DIR");
    cargo
}

fn write_crate() -> Result<PathBuf> {
    let dir = workspace::setup_dir().join("trial");
    let write = || {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("Cargo.toml"), MANIFEST)?;
        std::fs::write(dir.join("main.rs"), PROGRAM)
    };
    write().with_context(|| format!("can't write {}", dir.display()))?;
    Ok(dir)
}
