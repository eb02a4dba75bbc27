//! Reading ELF files: what the loader would see, through the program headers and the dynamic section.
//!
//! Section headers have no say in what a process executes. They are read for symbols alone (`sections`), and whatever
//! is wrong with them changes nothing here.

use object::elf::{
    self, Dyn64, FileHeader32, FileHeader64, GnuHashHeader, ProgramHeader64, Rela64, Sym64, Verdaux, Verdef,
    Versym,
};
use object::read::elf::{Dyn as _, FileHeader as _, GnuHashTable, HashTable, ProgramHeader as _};
use object::{Endianness, LittleEndian, U32, pod};

use super::identity::outline;
use super::symbols::{SymbolTable, Tables};
use super::text::{Code, Text};
use super::{BinaryError, Class, Segment};

/// Entries of the dynamic section that are read.
const MAX_DYNAMIC: usize = 4096;
/// Entries of the symbol table that are read. The largest libraries have about 100,000.
const MAX_SYMBOLS: usize = 1 << 21;
/// Symbol versions that are read; glibc defines about 40.
const MAX_VERSIONS: usize = 4096;
/// Relocations that are read.
const MAX_RELOCATIONS: usize = 1 << 20;
/// Exports that are returned: a handful of names in a handful of versions.
const MAX_EXPORTS: usize = 256;
/// Function starts that are taken from `.eh_frame_hdr`.
const MAX_FRAMES: usize = 1 << 21;
/// Bytes of a library's name.
const MAX_NAME: usize = 256;
/// Bytes of the path of the dynamic linker, as the kernel has it (`PATH_MAX`).
const MAX_INTERPRETER: usize = 4096;

pub(super) type Header = FileHeader64<LittleEndian>;
pub(super) const LE: LittleEndian = LittleEndian;

/// A function that `.dynsym` defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Which of the names that were asked for.
    pub name: usize,
    /// Virtual address.
    pub address: u64,
    /// Not a hidden (old) version of the symbol.
    pub default: bool,
}

/// One ELF file, as far as it concerns this room.
pub(super) struct Elf<'a> {
    pub class: Class,
    pub build_id: Option<String>,
    pub soname: Option<String>,
    pub segments: Vec<Segment>,
    image: &'a [u8],
    symbols: &'a [Sym64<LittleEndian>],
    versions: &'a [Versym<LittleEndian>],
    strings: &'a [u8],
    version_definitions: &'a [u8],
    relocations: [&'a [Rela64<LittleEndian>]; 2],
    frame_header: Option<u64>,
    interpreter: Option<&'a [u8]>,
    /// It is made to be started, and needs no other object.
    complete_program: bool,
    /// What the section headers and others say of symbols.
    pub(super) tables: Tables<'a>,
}

impl<'a> Elf<'a> {
    /// Reads the headers and finds the tables.
    pub fn read(image: &'a [u8]) -> Result<Self, BinaryError> {
        if image.get(..4) != Some(b"\x7fELF".as_slice()) {
            return Err(BinaryError::NotElf);
        }
        let (description, build_id) = match image.get(4) {
            Some(1) => outline::<FileHeader32<Endianness>>(image)?,
            Some(2) => outline::<FileHeader64<Endianness>>(image)?,
            _ => return Err(BinaryError::Header("neither 32 nor 64 bit".to_string())),
        };
        let class = description.map_or(Class::Elf64X86_64, |description| Class::Other { description });
        let mut elf = Self {
            class,
            build_id,
            soname: None,
            segments: Vec::new(),
            image,
            symbols: &[],
            versions: &[],
            strings: &[],
            version_definitions: &[],
            relocations: [&[], &[]],
            frame_header: None,
            interpreter: None,
            complete_program: false,
            tables: Tables::default(),
        };
        if elf.class == Class::Elf64X86_64 {
            let header = Header::parse(image).map_err(header_error)?;
            let headers = header.program_headers(LE, image).map_err(header_error)?;
            elf.complete_program = header.e_type(LE) == elf::ET_EXEC;
            elf.read_segments(headers)?;
            elf.read_dynamic(headers)?;
            elf.tables = Tables::read(image);
        }
        Ok(elf)
    }

    fn read_segments(&mut self, headers: &'a [ProgramHeader64<LittleEndian>]) -> Result<(), BinaryError> {
        for (index, header) in headers.iter().enumerate() {
            match header.p_type(LE) {
                elf::PT_LOAD => {
                    let segment = Segment {
                        virtual_address: header.p_vaddr(LE),
                        file_offset: header.p_offset(LE),
                        file_size: header.p_filesz(LE),
                        memory_size: header.p_memsz(LE),
                        executable: header.p_flags(LE).contains(elf::PF_X),
                    };
                    let inside = header.data(LE, self.image).is_ok()
                        && segment.file_size <= segment.memory_size
                        && segment.virtual_address.checked_add(segment.memory_size).is_some();
                    if !inside {
                        return Err(BinaryError::Segment { index });
                    }
                    self.segments.push(segment);
                }
                elf::PT_GNU_EH_FRAME => self.frame_header = Some(header.p_vaddr(LE)),
                elf::PT_INTERP => {
                    let path = header.data(LE, self.image).unwrap_or(&[]);
                    let end = path.iter().take(MAX_INTERPRETER).position(|&byte| byte == 0).unwrap_or(0);
                    self.interpreter = Some(&path[..end]);
                }
                _ => (),
            }
        }
        Ok(())
    }

    fn read_dynamic(&mut self, headers: &'a [ProgramHeader64<LittleEndian>]) -> Result<(), BinaryError> {
        let mut dynamic: &[Dyn64<LittleEndian>] = &[];
        for header in headers {
            if let Some(entries) = header
                .dynamic(LE, self.image)
                .map_err(|_| BinaryError::Table { table: "table of entries" })?
            {
                dynamic = entries;
            }
        }
        let value = |tag: elf::DynamicTag| {
            let mut entries =
                dynamic.iter().take(MAX_DYNAMIC).take_while(|entry| entry.tag(LE) != elf::DT_NULL);
            entries.find(|entry| entry.tag(LE) == tag).map(|entry| entry.val(LE))
        };
        // A position-independent program is no different from a library but for this flag.
        let flags = value(elf::DT_FLAGS_1).unwrap_or(0);
        self.complete_program |= flags & elf::DF_1_PIE.0 != 0;
        self.complete_program &= value(elf::DT_NEEDED).is_none();
        let (Some(symbols), Some(strings)) = (value(elf::DT_SYMTAB), value(elf::DT_STRTAB)) else {
            return Ok(());
        };
        self.strings = self.array(strings, value(elf::DT_STRSZ).unwrap_or(0), "string table")?;
        let count = self.symbol_count(value(elf::DT_HASH), value(elf::DT_GNU_HASH))?;
        if count > MAX_SYMBOLS {
            return Err(BinaryError::TableTooLong { table: "symbol table", limit: MAX_SYMBOLS });
        }
        self.symbols = self.array(symbols, count as u64, "symbol table")?;
        if let Some(versions) = value(elf::DT_VERSYM) {
            self.versions = self.array(versions, count as u64, "symbol version table")?;
        }
        if let Some(definitions) = value(elf::DT_VERDEF) {
            self.version_definitions =
                self.at(definitions).ok_or(BinaryError::Table { table: "version definitions" })?;
        }
        let tables = [(elf::DT_JMPREL, elf::DT_PLTRELSZ), (elf::DT_RELA, elf::DT_RELASZ)];
        for (slot, (table, size)) in tables.into_iter().enumerate() {
            if let (Some(table), Some(size)) = (value(table), value(size)) {
                let count = size / size_of::<Rela64<LittleEndian>>() as u64;
                if count > MAX_RELOCATIONS as u64 {
                    return Err(BinaryError::TableTooLong {
                        table: "relocation table",
                        limit: MAX_RELOCATIONS,
                    });
                }
                self.relocations[slot] = self.array(table, count, "relocation table")?;
            }
        }
        self.soname = value(elf::DT_SONAME).and_then(|offset| self.name(offset));
        Ok(())
    }

    /// The symbol table has no length of its own; a hash table tells it.
    fn symbol_count(&self, hash: Option<u64>, gnu_hash: Option<u64>) -> Result<usize, BinaryError> {
        let damaged = BinaryError::Table { table: "hash table" };
        if let Some(data) = hash {
            let data = self.at(data).ok_or_else(|| damaged.clone())?;
            let table = HashTable::<Header>::parse(LE, data).map_err(|_| damaged)?;
            return Ok(table.symbol_table_length() as usize);
        }
        let Some(data) = gnu_hash else { return Ok(0) };
        let data = self.at(data).ok_or_else(|| damaged.clone())?;
        let (header, _) =
            pod::from_bytes::<GnuHashHeader<LittleEndian>>(data).map_err(|()| damaged.clone())?;
        let table = GnuHashTable::<Header>::parse(LE, data).map_err(|_| damaged)?;
        // A table without symbols of its own lists imports only, which nothing here asks for.
        Ok(table.symbol_table_length(LE).unwrap_or(header.symbol_base.get(LE)) as usize)
    }

    /// The file's bytes from a virtual address to the end of its segment.
    pub(super) fn at(&self, address: u64) -> Option<&'a [u8]> {
        let segment = self.segments.iter().find(|s| s.holds(address))?;
        let start = usize::try_from(segment.file_offset_of(address)?).ok()?;
        let end = usize::try_from(segment.file_offset + segment.file_size).ok()?;
        self.image.get(start..end)
    }

    fn array<T: pod::Pod>(
        &self,
        address: u64,
        count: u64,
        table: &'static str,
    ) -> Result<&'a [T], BinaryError> {
        let find = || {
            let count = usize::try_from(count).ok()?;
            let bytes = self.at(address)?;
            // Checked here: the length in bytes must not wrap.
            (count.checked_mul(size_of::<T>())? <= bytes.len()).then_some(())?;
            Some(pod::slice_from_bytes(bytes, count).ok()?.0)
        };
        if count == 0 { Ok(&[]) } else { find().ok_or(BinaryError::Table { table }) }
    }

    fn name(&self, offset: u64) -> Option<String> {
        let bytes = self.strings.get(usize::try_from(offset).ok()?..)?;
        let bytes = &bytes[..bytes.len().min(MAX_NAME)];
        let end = bytes.iter().position(|&byte| byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// The path of the dynamic linker, in the target's own root (`PT_INTERP`). Empty if it can't be read.
    pub fn interpreter(&self) -> Option<&'a [u8]> {
        self.interpreter
    }

    /// Whether it is a program that has everything in it: no dynamic linker, no other object.
    pub fn is_static(&self) -> bool {
        self.complete_program && self.interpreter.is_none()
    }

    /// The symbols that the dynamic linker sees.
    pub(super) fn dynamic_symbols(&self) -> SymbolTable<'a> {
        SymbolTable { symbols: self.symbols, strings: self.strings, versions: self.versions }
    }

    /// Compares without searching for the name's end, which a hostile file could put megabytes away.
    fn is_named(&self, offset: u32, name: &str) -> bool {
        let bytes = self.strings.get(offset as usize..).unwrap_or(&[]);
        bytes.starts_with(name.as_bytes()) && bytes.get(name.len()) == Some(&0)
    }

    pub(super) fn is_function(symbol: &Sym64<LittleEndian>) -> bool {
        symbol.st_type() == elf::STT_FUNC
            && symbol.st_shndx.get(LE) != elf::SHN_UNDEF
            && symbol.st_value.get(LE) != 0
    }

    /// The functions among `names` that `.dynsym` defines. Indirect functions (`STT_GNU_IFUNC`) aren't functions:
    /// their address is that of a resolver.
    pub fn exports(&self, names: &[&str]) -> Vec<Export> {
        let mut exports = Vec::new();
        for (index, symbol) in self.symbols.iter().enumerate().filter(|(_, symbol)| Self::is_function(symbol))
        {
            let offset = symbol.st_name.get(LE);
            if exports.len() == MAX_EXPORTS {
                break;
            }
            if let Some(name) = names.iter().position(|name| self.is_named(offset, name)) {
                let default = self.versions.get(index).is_none_or(|v| !v.0.get(LE).is_hidden());
                exports.push(Export { name, address: symbol.st_value.get(LE), default });
            }
        }
        exports
    }

    /// Whether the object defines a symbol version of that name.
    pub fn defines_version(&self, name: &str) -> bool {
        let mut data = self.version_definitions;
        // Each step goes forward, but by as little as one byte in a hostile file.
        for _ in 0..MAX_VERSIONS {
            let Ok((definition, _)) = pod::from_bytes::<Verdef<LittleEndian>>(data) else { return false };
            let first = data.get(definition.vd_aux.get(LE) as usize..).unwrap_or(&[]);
            if let Ok((first, _)) = pod::from_bytes::<Verdaux<LittleEndian>>(first)
                && self.is_named(first.vda_name.get(LE), name)
            {
                return true;
            }
            match definition.vd_next.get(LE) as usize {
                0 => return false,
                next => data = data.get(next..).unwrap_or(&[]),
            }
        }
        false
    }

    /// Addresses of global offset table slots which the dynamic linker fills with the address of a function that
    /// this object itself defines (it may fill in another object's, of the same name), with that function's address.
    pub fn slots(&self) -> Vec<(u64, u64)> {
        let mut slots = Vec::new();
        for relocation in self.relocations.into_iter().flatten() {
            let kind = relocation.r_type(LE, false);
            if kind != elf::R_X86_64_JUMP_SLOT && kind != elf::R_X86_64_GLOB_DAT {
                continue;
            }
            let symbol = self.symbols.get(relocation.r_sym(LE, false) as usize);
            if let Some(symbol) = symbol.filter(|symbol| Self::is_function(symbol)) {
                slots.push((relocation.r_offset.get(LE), symbol.st_value.get(LE)));
            }
        }
        slots
    }

    /// Addresses of global offset table slots which the dynamic linker fills with the address of a function that this
    /// object doesn't define, with that function's name.
    pub fn imports(&self) -> Vec<(u64, &'a [u8])> {
        let mut imports = Vec::new();
        for relocation in self.relocations.into_iter().flatten() {
            let kind = relocation.r_type(LE, false);
            if kind != elf::R_X86_64_JUMP_SLOT && kind != elf::R_X86_64_GLOB_DAT {
                continue;
            }
            let symbol = self.symbols.get(relocation.r_sym(LE, false) as usize);
            let imported = symbol.filter(|symbol| symbol.st_shndx.get(LE) == elf::SHN_UNDEF);
            let name = imported.and_then(|symbol| {
                let bytes = self.strings.get(symbol.st_name.get(LE) as usize..)?;
                let bytes = &bytes[..bytes.len().min(MAX_NAME)];
                Some(&bytes[..bytes.iter().position(|&byte| byte == 0)?])
            });
            imports.extend(name.map(|name| (relocation.r_offset.get(LE), name)));
        }
        imports
    }

    /// The same for variables: addresses of slots that get the address of a variable which this object defines, with
    /// that address.
    pub fn variable_slots(&self) -> Vec<(u64, u64)> {
        let mut slots = Vec::new();
        for relocation in self.relocations.into_iter().flatten() {
            let symbol = self.symbols.get(relocation.r_sym(LE, false) as usize);
            let defined = symbol.filter(|symbol| {
                symbol.st_type() == elf::STT_OBJECT && symbol.st_shndx.get(LE) != elf::SHN_UNDEF
            });
            if relocation.r_type(LE, false) == elf::R_X86_64_GLOB_DAT
                && let Some(symbol) = defined
            {
                slots.push((relocation.r_offset.get(LE), symbol.st_value.get(LE)));
            }
        }
        slots
    }

    /// The pointer that memory has at an address when the program starts, as the file has it (before relocation).
    pub fn pointer_at(&self, address: u64) -> Option<u64> {
        let mut relocations = self.relocations.into_iter().flatten();
        let relative = relocations.find(|relocation| {
            relocation.r_offset.get(LE) == address && relocation.r_type(LE, false) == elf::R_X86_64_RELATIVE
        });
        match relative {
            Some(relocation) => u64::try_from(relocation.r_addend.get(LE)).ok(),
            None => Some(u64::from_le_bytes(self.at(address)?.get(..8)?.try_into().ok()?)),
        }
    }

    /// The code and where its functions begin. `places`: the functions of interest (see [`Text::new`]).
    pub fn text(&self, places: &[u64]) -> Result<Text<'a>, BinaryError> {
        let mut starts = self.frame_starts();
        // Static programs in C have no unwind tables.
        starts.extend(self.function_starts());
        let complete = !starts.is_empty();
        let functions = self.symbols.iter().filter(|symbol| Self::is_function(symbol));
        starts.extend(functions.map(|symbol| symbol.st_value.get(LE)));
        Text::new(self.code(), starts, complete, places)
    }

    /// The same with all branches, wherever they lead and however large the code is.
    pub fn whole_text(&self) -> Result<Text<'a>, BinaryError> {
        let everywhere = self.code().iter().flat_map(Code::places).collect::<Vec<_>>();
        self.text(&everywhere)
    }

    /// The executable segments' bytes.
    fn code(&self) -> Vec<Code<'a>> {
        let executable = self.segments.iter().filter(|segment| segment.executable);
        let code = executable.filter_map(|s| {
            // Not by address: where segments overlap, another one's bytes could lie there, and the file offset is this one's.
            let start = usize::try_from(s.file_offset).ok()?;
            let bytes = self.image.get(start..start.checked_add(usize::try_from(s.file_size).ok()?)?)?;
            Some(Code { address: s.virtual_address, file_offset: s.file_offset, bytes })
        });
        code.collect()
    }

    /// Addresses of all functions with unwind information, local ones too, from the binary search table in
    /// `.eh_frame_hdr` (Linux Standard Base, "Exception Frame Header"): present even in stripped files. Empty if there
    /// is no such table.
    fn frame_starts(&self) -> Vec<u64> {
        let find = || {
            let base = self.frame_header?;
            let data = self.at(base)?;
            // Version 1; a 4-byte count; entries of two 4-byte numbers relative to the header. All linkers write that.
            if *data.first()? != 1 || *data.get(2)? != 0x03 || *data.get(3)? != 0x3b {
                return None;
            }
            let pointer = match *data.get(1)? & 0x0f {
                0x03 | 0x0b => 4,
                0x04 | 0x0c => 8,
                _ => return None,
            };
            let count = u32::from_le_bytes(data.get(4 + pointer..8 + pointer)?.try_into().ok()?) as usize;
            let table = data.get(8 + pointer..)?;
            let (entries, _) =
                pod::slice_from_bytes::<[U32<LittleEndian>; 2]>(table, count.min(MAX_FRAMES)).ok()?;
            let start =
                |entry: &[U32<LittleEndian>; 2]| base.wrapping_add_signed(i64::from(entry[0].get(LE) as i32));
            Some(entries.iter().map(start).collect())
        };
        find().unwrap_or_default()
    }
}

pub(super) fn header_error(error: object::Error) -> BinaryError {
    BinaryError::Header(error.to_string())
}
