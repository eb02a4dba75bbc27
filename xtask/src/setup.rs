//! `cargo xtask setup`: makes this machine able to build the eBPF programs, once.
//!
//! They need more than the rest of the project: a compiler that may build `core` from source for the BPF target, and
//! bpf-linker, whose LLVM must not be older than the compiler's. What is already on the machine is tried first, and
//! nothing counts as found before a small BPF program was really built with it. The result is written to
//! `target/setup/ebpf-toolchain`, which the profiler's build script reads.

mod linker;
mod record;
mod rust;
mod trial;

use anyhow::{Context, Result};

use self::record::Record;
use self::rust::Toolchain;
use crate::style;
use crate::workspace;

/// Finds or installs everything, or says in one line that there is nothing to do.
pub fn run() -> Result<()> {
    let file = workspace::setup_dir().join("ebpf-toolchain");
    if let Some(record) = Record::read(&file).filter(Record::is_usable) {
        style::say(&style::dim(&format!(
            "already set up: {} and {} ({})",
            record.rustc.display(),
            record.linker.display(),
            file.display()
        )));
        return Ok(());
    }
    let mut toolchains = rust::present();
    if toolchains.is_empty() {
        toolchains.push(rust::install()?);
    }
    let record = match first_that_works(&toolchains)? {
        Some(record) => record,
        None => with_new_linker(&toolchains[0])?,
    };
    record.write(&file).with_context(|| format!("can't write {}", file.display()))?;
    style::say(&format!(
        "{} set up: {} and {}, written to {}",
        style::mark(true),
        record.rustc.display(),
        record.linker.display(),
        file.display()
    ));
    Ok(())
}

/// The first pair of a toolchain and a linker on this machine that builds a BPF program.
fn first_that_works(toolchains: &[Toolchain]) -> Result<Option<Record>> {
    let linkers = linker::present();
    for toolchain in toolchains {
        for linker in &linkers {
            let record = toolchain.with_linker(linker);
            if trial::passes(&record)? {
                return Ok(Some(record));
            }
        }
    }
    Ok(None)
}

/// Brings a linker for the toolchain, and proves that they work together.
fn with_new_linker(toolchain: &Toolchain) -> Result<Record> {
    let record = toolchain.with_linker(&linker::install(toolchain)?);
    trial::must_pass(&record)?;
    Ok(record)
}
