//! Names, files and lines of places in a Go program's code, with the functions that were inlined there: by the tables that
//! the runtime prints its own stacks by, which are in stripped programs, too. Go 1.18 and later.
//!
//! Facts: Go's src/runtime/symtab.go (`pcvalue`, `step`, `funcline1`, `funcdata`), symtabinl.go (`inlineUnwinder`),
//! runtime2.go (`_func`), internal/abi/symtab.go; checked against 1.19 to 1.27.

mod module;

use std::sync::Arc;

use super::{
    image::{GoFile, terminated, u32_at},
    pclntab::{Format, Function as Code, PcTable},
};
use crate::stack::Function;
use module::Module;

/// Functions that are told of one place: a hundred inlined into each other have not been seen.
const MAX_FUNCTIONS: usize = 100;
/// Steps through tables that naming one place may take. There is one for each line of a function at most.
const MAX_STEPS: usize = 1 << 21;
/// Longest name of a file, bytes.
const MAX_FILE: usize = 4096;
/// Bytes of the table of functions that are kept: the largest programs have 60 MB.
const MAX_TABLE: usize = 512 << 20;
/// Bytes of inline trees, and of what else of functions lies there, that are kept.
const MAX_TREES: usize = 256 << 20;

/// `PCDATA_InlTreeIndex`: the table that tells which inlined function an instruction is of.
const INLINE_INDEX: u64 = 2;
/// `FUNCDATA_InlTree`: where the inlined functions of a function are.
const INLINE_TREE: u64 = 3;

/// The tables of one program: copies of what is needed of the file, and nothing else.
#[derive(Debug)]
pub struct Lines {
    /// `runtime.pclntab`.
    table: Vec<u8>,
    /// What it begins at.
    address: u64,
    /// `go:func.*` and what follows it.
    trees: Vec<u8>,
    /// Where the code begins, and the address behind it.
    text: (u64, u64),
}

/// What naming a place may still cost.
struct Budget(usize);

/// A function's record (`_func`), and what else is needed to read what it refers to.
struct Record<'a> {
    table: PcTable<'a>,
    code: Code,
    /// From its beginning.
    bytes: &'a [u8],
    /// Where the numbers of its tables begin.
    tables: usize,
}

impl Lines {
    /// The tables in a file; `None` if it wasn't made by Go 1.18 or later, or isn't whole. Copies them.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let file = GoFile::read(bytes).ok()?;
        let table = PcTable::find(&file)?;
        let module = Module::find(&file, &table)?;
        let size = usize::try_from(module.table_end.checked_sub(table.address)?).ok()?;
        let copied = file.bytes(table.address, size).filter(|bytes| bytes.len() <= MAX_TABLE)?.to_vec();
        // Without a tree, nothing was inlined; then it doesn't matter what is there.
        let trees = file.section_at(module.functions).unwrap_or_default();
        let trees = trees.get(..trees.len().min(MAX_TREES)).unwrap_or_default().to_vec();
        let lines = Self { table: copied, address: table.address, trees, text: module.text };
        lines.table()?;
        Some(lines)
    }

    fn table(&self) -> Option<PcTable<'_>> {
        PcTable::read(self.address, &self.table)
    }

    /// The functions at a virtual address of the file: the innermost inlined one first, the one that was really called last.
    /// Of the outer ones, file and line are those of the call. Empty if it is no code of Go's.
    pub fn functions(&self, address: u64) -> Vec<Function> {
        let (start, end) = self.text;
        if !(start..end).contains(&address) {
            return Vec::new();
        }
        let mut functions = Vec::new();
        // Half a chain is better than none.
        let _ended = self.walk(address - start, &mut functions);
        functions
    }

    fn walk(&self, offset: u64, functions: &mut Vec<Function>) -> Option<()> {
        let table = self.table()?;
        let record = Record::of(table, table.function_at(offset)?)?;
        let mut budget = Budget(MAX_STEPS);
        let mut place = offset - record.code.entry;
        while functions.len() < MAX_FUNCTIONS {
            let inlined =
                record.inlined_at(place, &mut budget).and_then(|index| self.inlined(&record, index));
            let (name, caller) = match inlined {
                Some((name, caller)) => (name, Some(caller)),
                None => (table.name_of(&record.code)?, None),
            };
            let (file, line) = record.line_at(place, &mut budget).unzip();
            functions.push(Function {
                name: Arc::from(printed(name)),
                file: file.map(Arc::from),
                line: line.unwrap_or(0),
            });
            place = caller?;
        }
        None
    }

    /// Name of an inlined function, and where in the outer function's code an instruction is of the line that calls it
    /// (`inlinedCall`).
    fn inlined<'a>(&self, record: &Record<'a>, index: u32) -> Option<(&'a str, u64)> {
        let (size, name, parent) = match record.table.format {
            Format::Go118 => (20, 12, 16),
            Format::Go120 => (16, 4, 8),
        };
        let tree = record.tree()? as usize;
        let entry = (index as usize).checked_mul(size)?.checked_add(tree)?;
        let number = |at: usize| u32_at(&self.trees, entry.checked_add(at)?);
        Some((record.table.name(number(name)? as usize)?, u64::from(number(parent)?)))
    }
}

impl<'a> Record<'a> {
    fn of(table: PcTable<'a>, code: Code) -> Option<Self> {
        let bytes = table.records().get(code.record..)?;
        let tables = match table.format {
            Format::Go118 => 40,
            Format::Go120 => 44,
        };
        Some(Self { table, code, bytes, tables })
    }

    fn number(&self, at: usize) -> Option<u32> {
        u32_at(self.bytes, at)
    }

    /// How many tables of values it has (`npcdata`).
    fn values(&self) -> Option<u64> {
        self.number(28).map(u64::from)
    }

    /// Which of the inlined functions an instruction is of; `None`: it is the function's own.
    fn inlined_at(&self, place: u64, budget: &mut Budget) -> Option<u32> {
        if INLINE_INDEX >= self.values()? {
            return None;
        }
        let table = self.number(self.tables + 4 * INLINE_INDEX as usize)?;
        u32::try_from(self.value(table, place, budget)?).ok()
    }

    /// Where the inlined functions are, from `go:func.*` on.
    fn tree(&self) -> Option<u32> {
        let count = *self.bytes.get(self.tables - 1)?;
        if INLINE_TREE >= u64::from(count) {
            return None;
        }
        let at = self.values()?.checked_add(INLINE_TREE)?.checked_mul(4)?;
        let at = usize::try_from(at).ok()?.checked_add(self.tables)?;
        self.number(at).filter(|offset| *offset != u32::MAX)
    }

    /// File and line of an instruction.
    fn line_at(&self, place: u64, budget: &mut Budget) -> Option<(&'a str, u32)> {
        let file = self.value(self.number(20)?, place, budget).and_then(|file| u64::try_from(file).ok())?;
        let line = self.value(self.number(24)?, place, budget)?;
        // The files of a unit are numbered, and their names' places listed (`cutab`).
        let at = u64::from(self.number(32)?).checked_add(file)?.checked_mul(4)?;
        let offset = u32_at(self.table.units(), usize::try_from(at).ok()?)?;
        let name = terminated(self.table.files(), offset as usize, MAX_FILE)?;
        Some((name, u32::try_from(line).ok()?))
    }

    fn value(&self, table: u32, place: u64, budget: &mut Budget) -> Option<i32> {
        // The first one is nobody's.
        let bytes = self.table.values().get(table as usize..).filter(|_| table != 0)?;
        value(bytes, self.table.quantum, place, budget)
    }
}

/// The value that a table has for an instruction of the function (`pcvalue`); `None`: the table is damaged.
fn value(mut bytes: &[u8], quantum: u8, place: u64, budget: &mut Budget) -> Option<i32> {
    let (mut reached, mut value) = (0_u64, -1_i32);
    loop {
        budget.0 = budget.0.checked_sub(1)?;
        let change = varint(&mut bytes)?;
        if change == 0 && reached != 0 {
            return None;
        }
        // Zigzag: the lowest bit is the sign.
        value = value.wrapping_add((change >> 1).cast_signed() ^ -(change & 1).cast_signed());
        let distance = u64::from(varint(&mut bytes)?) * u64::from(quantum);
        reached = reached.checked_add(distance)?;
        if place < reached {
            return Some(value);
        }
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that there are more (`readvarint`).
fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in [0, 7, 14, 21, 28] {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// As stacks and profiles show a function: without the types that a generic one was made for (`funcNameForPrint`).
fn printed(name: &str) -> String {
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}[...]{}", name.get(..open).unwrap_or(name), name.get(close + 1..).unwrap_or(""))
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
