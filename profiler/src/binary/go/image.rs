//! A 64 bit little-endian ELF file as Go's linker makes it for x86-64 and for aarch64: what is mapped where, by the
//! program headers; sections by name, where there are any; symbols; and what the relocations of a position-independent
//! program write into its memory.
//!
//! Everything is bounded by the file's own size and by the constants below.

use object::LittleEndian;
use object::elf::{self, Dyn64, FileHeader64, Rela64, SectionHeader64, Sym64};
use object::pod;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _};

use super::GoError;

/// Program headers that are read. Go's linker writes about ten.
const MAX_SEGMENTS: usize = 256;
/// Section headers that are read. Go's programs have about forty.
const MAX_SECTIONS: usize = 4096;
/// Bytes of a section's name.
const MAX_SECTION_NAME: usize = 64;
/// Entries of the dynamic section that are read.
const MAX_DYNAMIC: usize = 4096;
/// Relocations that are read: one for every pointer in the data of a position-independent program, so about a million
/// in the largest.
const MAX_RELOCATIONS: usize = 1 << 23;
/// Symbols that are read. The largest programs have about two million.
const MAX_SYMBOLS: usize = 1 << 24;

const LE: LittleEndian = LittleEndian;
type Header = FileHeader64<LittleEndian>;

/// The machine that a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    Amd64,
    /// aarch64.
    Arm64,
    /// Another one, by its number in the ELF header.
    Other(u16),
}

/// A part of the file that is mapped (`PT_LOAD`).
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Where, before relocation.
    pub address: u64,
    /// What of it is in the file.
    pub bytes: &'a [u8],
    /// Where these are in the file.
    pub offset: u64,
    /// Its size in memory, where zeros follow.
    pub memory_size: u64,
    /// Whether it is mapped writable.
    pub writable: bool,
}

/// A section.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is mapped; 0 if it isn't.
    pub address: u64,
    /// Its size in memory.
    pub size: u64,
    /// What of it is in the file: nothing for `.bss`.
    pub bytes: &'a [u8],
}

/// One file.
#[derive(Debug)]
pub struct GoFile<'a> {
    /// The machine that it is for.
    pub machine: Machine,
    /// What is mapped, in the order of the program headers.
    pub segments: Vec<Segment<'a>>,
    /// All sections that can be read; empty if there are no headers.
    pub sections: Vec<Section<'a>>,
    symbols: &'a [Sym64<LittleEndian>],
    symbol_names: &'a [u8],
    /// Address and value of the words that relocation changes, in the order of the addresses.
    relocations: Vec<(u64, u64)>,
}

impl<'a> GoFile<'a> {
    /// Reads the headers. What is wrong with sections, symbols and relocations makes those missing, for a stripped file
    /// has none, either.
    ///
    /// # Errors
    ///
    /// If it is no such file, or its program headers are damaged.
    pub fn read(file: &'a [u8]) -> Result<Self, GoError> {
        let damaged = |error: object::Error| GoError::Elf(error.to_string());
        if !file.starts_with(b"\x7fELF\x02\x01") {
            return Err(GoError::Elf("no ELF file for a 64 bit little-endian machine".to_owned()));
        }
        let header = Header::parse(file).map_err(damaged)?;
        let machine = match header.e_machine(LE) {
            elf::EM_X86_64 => Machine::Amd64,
            elf::EM_AARCH64 => Machine::Arm64,
            other => Machine::Other(other.0),
        };
        let headers = header.program_headers(LE, file).map_err(damaged)?;
        if headers.len() > MAX_SEGMENTS {
            return Err(GoError::Elf(format!("{} program headers", headers.len())));
        }
        let mut found = Self {
            machine,
            segments: Vec::new(),
            sections: Vec::new(),
            symbols: &[],
            symbol_names: &[],
            relocations: Vec::new(),
        };
        for header in headers.iter().filter(|header| header.p_type(LE) == elf::PT_LOAD) {
            let bytes = header
                .data(LE, file)
                .map_err(|()| GoError::Elf("a part that is mapped lies outside of the file".to_owned()))?;
            let (address, memory_size) = (header.p_vaddr(LE), header.p_memsz(LE));
            if address.checked_add(memory_size.max(bytes.len() as u64)).is_none() {
                return Err(GoError::Elf("a part is mapped beyond the end of memory".to_owned()));
            }
            let writable = header.p_flags(LE).contains(elf::PF_W);
            let offset = header.p_offset(LE);
            found.segments.push(Segment { address, bytes, offset, memory_size, writable });
        }
        found.read_sections(file, header);
        let dynamic = headers.iter().find_map(|header| header.dynamic(LE, file).ok().flatten());
        found.read_relocations(dynamic.unwrap_or(&[]));
        Ok(found)
    }

    fn read_sections(&mut self, file: &'a [u8], header: &Header) {
        let Ok(headers) = header.section_headers(LE, file) else { return };
        let headers = headers.get(..headers.len().min(MAX_SECTIONS)).unwrap_or(&[]);
        let names = header.shstrndx(LE, file).ok().and_then(|index| headers.get(index as usize));
        let names = names.and_then(|section| section.data(LE, file).ok()).unwrap_or(&[]);
        for section in headers {
            let compressed = section.sh_flags(LE).contains(elf::SHF_COMPRESSED);
            if let Some(name) = terminated(names, section.sh_name(LE) as usize, MAX_SECTION_NAME)
                && !compressed
                && let Ok(bytes) = section.data(LE, file)
            {
                let (address, size) = (section.sh_addr(LE), section.sh_size(LE));
                self.sections.push(Section { name, address, size, bytes });
            }
        }
        self.read_symbols(file, headers);
    }

    fn read_symbols(&mut self, file: &'a [u8], headers: &'a [SectionHeader64<LittleEndian>]) {
        let find = || {
            let table = headers.iter().find(|header| header.sh_type(LE) == elf::SHT_SYMTAB)?;
            let bytes = table.data(LE, file).ok()?;
            let count = (bytes.len() / size_of::<Sym64<LittleEndian>>()).min(MAX_SYMBOLS);
            let names = headers.get(table.sh_link(LE) as usize)?.data(LE, file).ok()?;
            Some((pod::slice_from_bytes(bytes, count).ok()?.0, names))
        };
        (self.symbols, self.symbol_names) = find().unwrap_or((&[], &[]));
    }

    fn read_relocations(&mut self, dynamic: &[Dyn64<LittleEndian>]) {
        let kind = match self.machine {
            Machine::Amd64 => elf::R_X86_64_RELATIVE,
            Machine::Arm64 => elf::R_AARCH64_RELATIVE,
            Machine::Other(_) => return,
        };
        let value = |tag: elf::DynamicTag| {
            let mut entries = dynamic.iter().take(MAX_DYNAMIC);
            entries.find(|entry| entry.tag(LE) == tag).map(|entry| entry.val(LE))
        };
        // Of the compact form (`DT_RELR`) nothing needs to be read: there the words are in the file as they are.
        let find = || {
            let bytes = self.at(value(elf::DT_RELA)?)?;
            let size = usize::try_from(value(elf::DT_RELASZ)?).ok()?.min(bytes.len());
            let count = (size / size_of::<Rela64<LittleEndian>>()).min(MAX_RELOCATIONS);
            Some(pod::slice_from_bytes::<Rela64<LittleEndian>>(bytes, count).ok()?.0)
        };
        let entries = find().unwrap_or(&[]).iter().filter(|entry| entry.r_type(LE, false) == kind);
        let mut relocations: Vec<_> =
            entries.map(|entry| (entry.r_offset.get(LE), entry.r_addend.get(LE).cast_unsigned())).collect();
        relocations.sort_unstable();
        self.relocations = relocations;
    }

    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The file's bytes from a virtual address to the end of what is in the file of its segment.
    pub fn at(&self, address: u64) -> Option<&'a [u8]> {
        self.segments.iter().find_map(|segment| {
            let distance = usize::try_from(address.checked_sub(segment.address)?).ok()?;
            segment.bytes.get(distance..).filter(|bytes| !bytes.is_empty())
        })
    }

    /// As [`GoFile::at`], to the end of its section, if it is in one.
    pub fn section_at(&self, address: u64) -> Option<&'a [u8]> {
        let inside = self.sections.iter().find_map(|section| {
            let mapped = section.address != 0;
            let distance = usize::try_from(address.checked_sub(section.address)?).ok()?;
            section.bytes.get(distance..).filter(|bytes| mapped && !bytes.is_empty())
        });
        inside.or_else(|| self.at(address))
    }

    /// Where in the file what is at an address is; `None` if nothing of the file is there.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let offset = address.checked_sub(segment.address)?;
            (offset < segment.bytes.len() as u64).then(|| segment.offset.checked_add(offset))?
        })
    }

    /// So many bytes at a virtual address, as they are in the file.
    pub fn bytes(&self, address: u64, length: usize) -> Option<&'a [u8]> {
        self.at(address)?.get(..length)
    }

    /// The word at a virtual address that a program finds there if it is mapped just where the file says.
    pub fn word(&self, address: u64) -> Option<u64> {
        match self.relocations.binary_search_by_key(&address, |&(place, _)| place) {
            Ok(index) => self.relocations.get(index).map(|&(_, value)| value),
            Err(_) => Some(u64::from_le_bytes(*self.at(address)?.first_chunk()?)),
        }
    }

    /// The addresses of the words that relocation makes equal to `value`, in order.
    pub fn relocated_to(&self, value: u64) -> impl Iterator<Item = u64> {
        self.relocations.iter().filter(move |&&(_, found)| found == value).map(|&(place, _)| place)
    }

    /// Whether a symbol table was left in the file.
    pub fn has_symbols(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// Addresses and sizes of the symbols of these names that the file defines, in the order of `names`.
    pub fn symbols<const N: usize>(&self, names: [&str; N]) -> [Option<(u64, u64)>; N] {
        let mut found = [None; N];
        for (name, address, size) in self.all_symbols() {
            // Compared without looking for the end, which a hostile file could put megabytes away.
            let is = |wanted: &str| name.starts_with(wanted.as_bytes()) && name.get(wanted.len()) == Some(&0);
            if let Some(index) = names.iter().position(|wanted| is(wanted))
                && let Some(slot) = found.get_mut(index)
            {
                slot.get_or_insert((address, size));
            }
        }
        found
    }

    /// All symbols that the file defines: bytes that begin with the name and a zero, address, size.
    pub fn all_symbols(&self) -> impl Iterator<Item = (&'a [u8], u64, u64)> {
        let names = self.symbol_names;
        let defined = self.symbols.iter().filter(|symbol| symbol.st_shndx.get(LE) != elf::SHN_UNDEF);
        defined.filter_map(move |symbol| {
            let name = names.get(symbol.st_name.get(LE) as usize..)?;
            Some((name, symbol.st_value.get(LE), symbol.st_size.get(LE)))
        })
    }
}

/// The text at `offset` that a zero ends within `limit` bytes.
pub fn terminated(bytes: &[u8], offset: usize, limit: usize) -> Option<&str> {
    let bytes = bytes.get(offset..)?;
    let bytes = bytes.get(..bytes.len().min(limit))?;
    let end = bytes.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(bytes.get(..end)?).ok()
}

/// The little-endian number at an offset.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The little-endian number at an offset.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
