//! What `runtime.firstmoduledata` says that naming needs (Go's src/runtime/symtab.go, `moduledata`).
//!
//! Not read by the tables, as [`moduledata::read`] does: places are named also in programs of versions without a table, and
//! the version need not be known. A test compares the offsets with all tables.

use super::super::{
    image::GoFile,
    moduledata::{self, TEXT},
    pclntab::{Format, PcTable},
};

/// Offsets that are the same since Go 1.18: `pclntable`, the records of functions, up to the end of the whole table; `etext`.
const RECORDS: u64 = 104;
pub(super) const END_OF_TEXT: u64 = 184;
/// `gofunc` in Go 1.18 and 1.19, from 1.20, and from 1.27.
pub(super) const OF_FUNCTIONS: [u64; 3] = [304, 320, 344];
/// `types` from Go 1.20. The word behind it is where they end, from Go 1.27 how many bytes of them are descriptions.
pub(super) const TYPES: u64 = 296;

/// See the room's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// The address behind the table of functions.
    pub table_end: u64,
    /// The code.
    pub text: (u64, u64),
    /// `go:func.*`: what is said of functions.
    pub functions: u64,
}

impl Module {
    /// Finds and reads it.
    pub fn find(file: &GoFile<'_>, table: &PcTable<'_>) -> Option<Self> {
        let at = moduledata::find(file, table)?;
        let word = |offset: u64| file.word(at.checked_add(offset)?);
        let table_end = word(RECORDS)?.checked_add(word(RECORDS + 8)?)?;
        let text = (word(TEXT)?, word(END_OF_TEXT)?);
        let [go118, go120, go127] = OF_FUNCTIONS;
        let place = match table.format {
            Format::Go118 => go118,
            // Types lie behind the code, so that the length of some is less than their address.
            Format::Go120 if word(TYPES + 8)? < word(TYPES)? => go127,
            Format::Go120 => go120,
        };
        (text.0 < text.1).then_some(Self { table_end, text, functions: word(place)? })
    }
}
