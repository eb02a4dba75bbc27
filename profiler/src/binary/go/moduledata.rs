//! `runtime.firstmoduledata`: where the linker tells the runtime what is where. It has no symbol in stripped files, but it
//! begins with the address of the table of functions, and the one of the names in it.

use super::Span;
use super::image::GoFile;
use super::layout;
use super::pclntab::PcTable;

/// Offset of the field `text`, the same since Go 1.18. The tables have it, too; here it is needed before the version is known.
pub const TEXT: u64 = 176;
/// Sections that can hold the structure: its own since Go 1.26.
const SECTIONS: [&str; 4] = [".go.module", ".noptrdata", ".data", ".data.rel.ro"];

/// What the structure says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleData {
    /// Its own address.
    pub address: u64,
    /// The code of Go's functions. Their offsets count from its start, which isn't that of the section `.text` where there
    /// is C in a program.
    pub text: Span,
    /// Descriptors of types; what refers to one by an offset counts from the start.
    pub types: Span,
    /// The program's variables: `.noptrdata`, `.data`, `.bss`, `.noptrbss`; empty if that can't be told.
    pub data: Vec<Span>,
}

/// Finds its address.
pub fn find(file: &GoFile<'_>, table: &PcTable<'_>) -> Option<u64> {
    let is_it = |&address: &u64| {
        let names = address.checked_add(8).and_then(|address| file.word(address));
        names == Some(table.names_address()) && file.word(address) == Some(table.address)
    };
    file.relocated_to(table.address).find(is_it).or_else(|| {
        let sections = SECTIONS.iter().filter_map(|name| file.section(name));
        let sections = sections.map(|section| (section.address, section.bytes));
        let segments = file.segments.iter().map(|segment| (segment.address, segment.bytes));
        sections.chain(segments).find_map(|(start, bytes)| {
            let skip = usize::try_from(start.wrapping_neg() % 8).ok()?;
            let (words, _) = bytes.get(skip..)?.as_chunks::<8>();
            let equal =
                words.iter().enumerate().filter(|(_, word)| u64::from_le_bytes(**word) == table.address);
            let mut places = equal.filter_map(|(index, _)| start.checked_add((skip + index * 8) as u64));
            places.find(is_it)
        })
    })
}

/// The start of the code, whichever version it is.
pub fn text_start(file: &GoFile<'_>, address: u64) -> Option<u64> {
    file.word(address.checked_add(TEXT)?)
}

/// Reads what is needed of it, if it makes sense.
pub fn read(file: &GoFile<'_>, address: u64, layout: &layout::ModuleData) -> Option<ModuleData> {
    let word = |offset: u64| file.word(address.checked_add(offset)?);
    let span = |start: u64, end: u64| {
        let span = Span { start: word(start)?, end: word(end)? };
        (span.start <= span.end).then_some(span)
    };
    let text = span(layout.text, layout.etext)?;
    let types = span(layout.types, layout.etypes)?;
    // Four pairs, one behind the other since Go 1.18.
    let data = layout.noptrdata.and_then(|first| {
        (0..4).map(|index| span(first + 16 * index, first + 16 * index + 8)).collect::<Option<Vec<_>>>()
    });
    Some(ModuleData { address, text, types, data: data.unwrap_or_default() })
}
