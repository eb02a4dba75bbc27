//! What `runtime.firstmoduledata` says that naming needs (Go's src/runtime/symtab.go, `moduledata`).

use super::super::{
    image::{GoFile, u64_at},
    pclntab::{Format, PcTable},
};

/// Offsets that are the same from Go 1.18 to 1.27.
const TABLES: [u64; 5] = [8, 32, 56, 80, 104];
const RECORDS: u64 = 104;
const FUNCTIONS: u64 = 128;
const TEXT: u64 = 176;
const END_OF_TEXT: u64 = 184;
/// `gofunc` in Go 1.18 and 1.19, from 1.20, and from 1.27.
const OF_FUNCTIONS: [u64; 3] = [304, 320, 344];
/// `types` from Go 1.20. The word behind it is where they end, from Go 1.27 how many bytes of them are descriptions.
const TYPES: u64 = 296;
/// A mention of the table that isn't the module's: in other tables' ends, and by chance.
const MAX_CANDIDATES: usize = 1 << 12;

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
    /// Finds it: it begins with the table's address, and goes on with those of its parts.
    pub fn find(file: &GoFile<'_>, table: &PcTable<'_>) -> Option<Self> {
        // From Go 1.26 it has a section of its own.
        let named = file.section(".go.module").map(|section| section.address);
        let relocated = file.relocated_to(table.address);
        let plain = file.segments.iter().filter(|segment| segment.writable).flat_map(|segment| {
            let skip = (segment.address.wrapping_neg() % 8) as usize;
            let words = segment.bytes.get(skip..).unwrap_or_default().chunks_exact(8).enumerate();
            let these = words.filter(|(_, word)| u64_at(word, 0) == Some(table.address));
            these.map(move |(index, _)| segment.address + (skip + 8 * index) as u64)
        });
        let mut candidates = named.into_iter().chain(relocated).chain(plain).take(MAX_CANDIDATES);
        candidates.find_map(|at| Self::read(file, table, at))
    }

    fn read(file: &GoFile<'_>, table: &PcTable<'_>, at: u64) -> Option<Self> {
        let word = |offset: u64| file.word(at.checked_add(offset)?);
        if word(0)? != table.address {
            return None;
        }
        let mut before = table.address;
        for offset in TABLES {
            let part = word(offset)?;
            if part < before {
                return None;
            }
            before = part;
        }
        let records = word(RECORDS)?;
        if word(FUNCTIONS)? != records {
            return None;
        }
        let table_end = records.checked_add(word(RECORDS + 8)?)?;
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
