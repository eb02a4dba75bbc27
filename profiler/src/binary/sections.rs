//! Section headers: where the symbols are that only debuggers need.
//!
//! A stripped file may have none, and a hostile one any: nothing but symbols is taken from them.

use std::ffi::CStr;

use object::LittleEndian;
use object::elf::{self, SectionHeader64, Sym64};
use object::pod;
use object::read::elf::{FileHeader as _, SectionHeader as _};

use super::BinaryError;
use super::elf::{Header, LE};
use super::identity::{MAX_NOTE_SECTIONS, build_id_by_sections};
use super::symbols::SymbolTable;

/// Section headers that are read. Real programs and libraries have about thirty.
const MAX_SECTIONS: usize = 1 << 16;
/// Symbols of `.symtab` that are read. The largest programs have about two million.
const MAX_SYMBOLS: usize = 1 << 24;
/// Bytes of a section's name that are compared.
const MAX_NAME: usize = 32;

/// The section headers of one file.
pub(super) struct Sections<'a> {
    image: &'a [u8],
    headers: &'a [SectionHeader64<LittleEndian>],
    /// The names; empty if there are none.
    names: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Finds the headers. The file is known to be of the kind that is analysed.
    pub fn read(image: &'a [u8]) -> Result<Self, BinaryError> {
        let damaged = |error: object::Error| BinaryError::SectionHeaders(error.to_string());
        let header = Header::parse(image).map_err(damaged)?;
        let headers = header.section_headers(LE, image).map_err(damaged)?;
        if headers.len() > MAX_SECTIONS {
            return Err(BinaryError::TableTooLong { table: "table of sections", limit: MAX_SECTIONS });
        }
        // Only one of the sections is known by its name; the others are found without.
        let names = header.shstrndx(LE, image).ok().and_then(|index| headers.get(index as usize));
        let names = names.and_then(|section| section.data(LE, image).ok()).unwrap_or(&[]);
        Ok(Self { image, headers, names })
    }

    /// The symbol table that `strip` removes.
    pub fn symbol_table(&self) -> Result<Option<SymbolTable<'a>>, BinaryError> {
        let Some(section) = self.headers.iter().find(|header| header.sh_type(LE) == elf::SHT_SYMTAB) else {
            return Ok(None);
        };
        let damaged = BinaryError::Section { section: ".symtab" };
        let bytes = self.plain(section).ok_or_else(|| damaged.clone())?;
        if section.sh_entsize(LE) != size_of::<Sym64<LittleEndian>>() as u64 {
            return Err(damaged);
        }
        let count = bytes.len() / size_of::<Sym64<LittleEndian>>();
        if count > MAX_SYMBOLS {
            return Err(BinaryError::TableTooLong { table: "symbol table", limit: MAX_SYMBOLS });
        }
        let (symbols, _) = pod::slice_from_bytes(bytes, count).map_err(|()| damaged)?;
        let strings = self.headers.get(section.sh_link(LE) as usize);
        let strings = strings.filter(|section| section.sh_type(LE) == elf::SHT_STRTAB);
        let strings = strings.and_then(|section| self.plain(section));
        let strings = strings.ok_or(BinaryError::Section { section: ".strtab" })?;
        Ok(Some(SymbolTable { symbols, strings, versions: &[] }))
    }

    /// The contents of `.gnu_debugdata`: an ELF file in an xz stream.
    pub fn mini_debug_info(&self) -> Result<Option<&'a [u8]>, BinaryError> {
        let named = |header: &&SectionHeader64<LittleEndian>| {
            header.sh_type(LE) == elf::SHT_PROGBITS && self.name(header) == Some(b".gnu_debugdata".as_slice())
        };
        let Some(section) = self.headers.iter().find(named) else { return Ok(None) };
        let damaged = BinaryError::Section { section: ".gnu_debugdata" };
        self.plain(section).filter(|bytes| !bytes.is_empty()).map(Some).ok_or(damaged)
    }

    /// The contents of the first section of a name that lies in the file as it is.
    pub fn contents(&self, name: &str) -> Option<&'a [u8]> {
        let named = |header: &&SectionHeader64<LittleEndian>| self.name(header) == Some(name.as_bytes());
        self.plain(self.headers.iter().find(named)?)
    }

    /// Offset and size of the sections that are read in a debug file: the notes, the symbols and their names.
    pub fn parts(&self) -> Vec<(u64, u64)> {
        let symbols = self.headers.iter().find(|header| header.sh_type(LE) == elf::SHT_SYMTAB);
        let strings = symbols.and_then(|symbols| self.headers.get(symbols.sh_link(LE) as usize));
        let notes = self.headers.iter().filter(|header| header.sh_type(LE) == elf::SHT_NOTE);
        let read = notes.take(MAX_NOTE_SECTIONS).chain(symbols).chain(strings);
        read.filter_map(|section| section.file_range(LE)).collect()
    }

    /// The build id, by the sections that hold notes.
    pub fn build_id(&self) -> Option<String> {
        build_id_by_sections::<Header>(LE, self.image, self.headers)
    }

    fn name(&self, header: &SectionHeader64<LittleEndian>) -> Option<&'a [u8]> {
        let bytes = self.names.get(header.sh_name(LE) as usize..)?;
        let bytes = &bytes[..bytes.len().min(MAX_NAME)];
        CStr::from_bytes_until_nul(bytes).ok().map(CStr::to_bytes)
    }

    /// A section's bytes, unless they lie outside the file or are compressed as a section.
    fn plain(&self, section: &SectionHeader64<LittleEndian>) -> Option<&'a [u8]> {
        let plain = !section.sh_flags(LE).contains(elf::SHF_COMPRESSED);
        plain.then(|| section.data(LE, self.image).ok()).flatten()
    }
}
