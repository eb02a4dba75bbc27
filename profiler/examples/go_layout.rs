//! Writes what `cargo xtask go-layouts` puts into a table of a Go version: `go_layout PROGRAM`, where the program was made
//! by that version, with symbols and debug information (`-ldflags=-compressdwarf=false`). The table goes to standard
//! output as JSON (`binary::go::layout::Table`).
//!
//! Structures are those of the debug information, tables of constants those of the data.

#[path = "go_layout/constants.rs"]
mod constants;
#[path = "go_layout/structures.rs"]
mod structures;
#[path = "go_layout/types.rs"]
mod types;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, ensure};
use profiler::binary::go::layout::{Layout, Table};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [program] = &arguments[..] else {
        eprintln!("usage: go_layout PROGRAM");
        return ExitCode::from(2);
    };
    match print(program.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("go_layout: {}: {error:#}", program.display());
            ExitCode::FAILURE
        }
    }
}

fn print(program: &Path) -> Result<()> {
    let table = table(&std::fs::read(program)?)?;
    println!("{}", serde_json::to_string(&table)?);
    Ok(())
}

/// Everything, and everything that a reader needs.
fn table(file: &[u8]) -> Result<Table> {
    let elf = object::File::parse(file).context("no ELF file")?;
    let (sizes, structs) = structures::read(&elf)?;
    let table = Table {
        sizes,
        structs,
        class_to_size: constants::class_to_size(&elf)?,
        wait_reasons: constants::wait_reasons(&elf)?,
        code: profiler::binary::go::references::code_table(file).map_err(|error| anyhow!("{error}"))?,
    };
    Layout::of(&table)
        .map_err(|lack| anyhow!("{lack}: this Go has changed its structures, see structures.rs"))?;
    ensure!(!table.code.is_empty(), "none of the functions whose references are compared is in it");
    Ok(table)
}
