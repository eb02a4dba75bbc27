//! The table of a program: structures are those of the debug information, tables of constants those of the data,
//! references those of the code.

mod constants;
mod structures;
mod types;

use anyhow::{Context as _, Result, anyhow, ensure};
use profiler::binary::go::layout::{Layout, Table};

/// Everything, and everything that a reader needs.
pub fn of(file: &[u8]) -> Result<Table> {
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
