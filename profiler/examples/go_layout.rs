//! Writes what `cargo xtask go-layouts` puts into a table of a Go version: `go_layout PROGRAM`, where the program was made
//! by that version, with symbols and debug information (`-ldflags=-compressdwarf=false`). The table goes to standard
//! output as JSON (`binary::go::layout::Table`).

#[path = "go_layout/table.rs"]
mod table;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

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
    let table = table::of(&std::fs::read(program)?)?;
    println!("{}", serde_json::to_string(&table)?);
    Ok(())
}
