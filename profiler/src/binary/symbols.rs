//! Functions by name, from all the symbols that there are of a file.
//!
//! `.dynsym` alone tells what a library offers. A static program has none, and a stripped one no other: then the
//! compressed symbols in the file (`minidebug`) or a debug file (`debug_file`) may still know.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ffi::CStr;
use std::path::PathBuf;

use object::LittleEndian;
use object::elf::{self, Sym64, Versym};
use object::read::elf::Sym as _;
use serde::{Deserialize, Serialize};

use super::elf::{Elf, LE};
use super::sections::Sections;
use super::{BinaryError, debug_file, minidebug};

/// Bytes of a name that are looked at; a longer one is not wanted.
const MAX_NAME: usize = 512;
/// Functions that are returned: a few hundred names, some in several versions or with several local copies.
const MAX_FUNCTIONS: usize = 1024;
/// Addresses of functions that are returned.
const MAX_STARTS: usize = 1 << 21;
/// Symbols with a wanted name that are looked at, those at the same place included.
const MAX_MATCHES: usize = 1 << 16;

/// Where a symbol was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SymbolSource {
    /// The symbols for the dynamic linker: what other objects may use.
    Dynamic,
    /// The symbols for debuggers, which `strip` removes.
    SymbolTable,
    /// The same, compressed into the stripped file.
    MiniDebugInfo,
    /// The same, in a file of its own.
    DebugFile,
}

impl SymbolSource {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dynamic => ".dynsym",
            Self::SymbolTable => ".symtab",
            Self::MiniDebugInfo => "MiniDebugInfo",
            Self::DebugFile => "debug file",
        }
    }
}

/// A function that is defined in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, without a symbol version. What is not UTF-8 in it is replaced.
    pub name: String,
    /// Virtual address, as the file has it (before relocation).
    pub address: u64,
    /// How many bytes its code takes; 0 if that isn't known.
    pub size: u64,
    /// The first of the sources that has it.
    pub source: SymbolSource,
    /// Not an old version of the symbol, which only programs linked long ago use.
    pub default_version: bool,
    /// Visible in its own object file only. Several may have the same name.
    pub local: bool,
}

/// What there is of symbols, and the wanted ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// The wanted functions, each name and address once.
    pub functions: Vec<Function>,
    /// The tables that there are.
    pub sources: Vec<SymbolSource>,
    /// What can't be used, and why.
    pub problems: Vec<BinaryError>,
    /// A program that has everything in it.
    pub is_static: bool,
    /// Without symbols for debuggers, compressed ones included.
    pub is_stripped: bool,
    /// The path of the dynamic linker, in the target's own root.
    pub interpreter: Option<PathBuf>,
}

/// Looks functions up in a file, and in its debug file if there is one.
///
/// # Errors
///
/// If the file itself can't be read. What is wrong with its section headers, its compressed symbols or the debug file
/// is among the problems instead.
pub fn symbols(
    image: &[u8],
    debug: Option<&[u8]>,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Symbols, BinaryError> {
    use std::os::unix::ffi::OsStrExt as _;

    let mut elf = Elf::read(image)?;
    if let Some(debug) = debug {
        elf.add_debug_file(debug);
    }
    let path = |path| PathBuf::from(std::ffi::OsStr::from_bytes(path));
    Ok(Symbols {
        functions: elf.functions(wanted),
        sources: elf.symbol_sources(),
        problems: elf.symbol_problems(),
        is_static: elf.is_static(),
        is_stripped: elf.is_stripped(),
        interpreter: elf.interpreter().map(path),
    })
}

/// One table of symbols, with the names.
#[derive(Clone, Copy, Default)]
pub(super) struct SymbolTable<'a> {
    pub symbols: &'a [Sym64<LittleEndian>],
    pub strings: &'a [u8],
    /// Of `.dynsym` only; as long as the symbols, or empty.
    pub versions: &'a [Versym<LittleEndian>],
}

impl<'a> SymbolTable<'a> {
    /// A name, without the zero at its end. Without this limit, a hostile table could have the same megabytes read
    /// for each of its symbols.
    fn name(&self, symbol: &Sym64<LittleEndian>) -> Option<&'a [u8]> {
        let bytes = self.strings.get(symbol.st_name(LE) as usize..)?;
        let bytes = &bytes[..bytes.len().min(MAX_NAME + 1)];
        CStr::from_bytes_until_nul(bytes).ok().map(CStr::to_bytes)
    }
}

/// The tables besides `.dynsym`.
#[derive(Default)]
pub(super) struct Tables<'a> {
    symbol_table: Option<SymbolTable<'a>>,
    compressed: Option<&'a [u8]>,
    /// What `compressed` contains. It takes time and memory, so that it is only done when somebody asks.
    unpacked: OnceCell<Result<Vec<u8>, BinaryError>>,
    debug_file: Option<SymbolTable<'a>>,
    problems: Vec<BinaryError>,
}

impl<'a> Tables<'a> {
    /// What the section headers show.
    pub fn read(image: &'a [u8]) -> Self {
        let mut tables = Self::default();
        let sections = tables.unless_broken(Sections::read(image).map(Some));
        if let Some(sections) = sections {
            tables.symbol_table = tables.unless_broken(sections.symbol_table());
            tables.compressed = tables.unless_broken(sections.mini_debug_info());
        }
        tables
    }

    fn unless_broken<T>(&mut self, result: Result<Option<T>, BinaryError>) -> Option<T> {
        result.unwrap_or_else(|problem| {
            self.problems.push(problem);
            None
        })
    }

    fn mini_debug_info(&self) -> Result<Option<SymbolTable<'_>>, BinaryError> {
        let Some(compressed) = self.compressed else { return Ok(None) };
        let unpacked = self.unpacked.get_or_init(|| minidebug::unpack(compressed));
        let unpacked = unpacked.as_ref().map_err(BinaryError::clone)?;
        let inside = |error: &dyn std::fmt::Display| BinaryError::MiniDebugInfo(error.to_string());
        let sections = debug_file::sections_of(unpacked).map_err(|error| inside(&error))?;
        sections.symbol_table().map_err(|error| inside(&error))
    }
}

impl<'a> Elf<'a> {
    /// Takes symbols from a debug file, too. What speaks against it is among the problems.
    pub fn add_debug_file(&mut self, debug: &'a [u8]) {
        match debug_file::symbols_of(self.build_id.as_deref(), debug) {
            Ok(table) => self.tables.debug_file = Some(table),
            Err(problem) => self.tables.problems.push(problem.into()),
        }
    }

    /// All tables, in the order in which they are asked.
    fn symbol_tables(&self) -> Vec<(SymbolSource, SymbolTable<'_>)> {
        let dynamic = Some(self.dynamic_symbols()).filter(|table| !table.symbols.is_empty());
        let tables = [
            (SymbolSource::Dynamic, dynamic),
            (SymbolSource::SymbolTable, self.tables.symbol_table),
            (SymbolSource::MiniDebugInfo, self.tables.mini_debug_info().unwrap_or(None)),
            (SymbolSource::DebugFile, self.tables.debug_file),
        ];
        tables.into_iter().filter_map(|(source, table)| Some((source, table?))).collect()
    }

    /// The tables that there are and can be read.
    pub fn symbol_sources(&self) -> Vec<SymbolSource> {
        self.symbol_tables().into_iter().map(|(source, _)| source).collect()
    }

    /// What is wrong with the tables that can't be read.
    pub fn symbol_problems(&self) -> Vec<BinaryError> {
        let mut problems = self.tables.problems.clone();
        problems.extend(self.tables.mini_debug_info().err());
        problems
    }

    /// Whether the file itself has nothing but the symbols for the dynamic linker.
    pub fn is_stripped(&self) -> bool {
        self.tables.symbol_table.is_none() && self.tables.compressed.is_none()
    }

    /// Addresses of all functions in the symbols for debuggers, local ones too, in any order.
    pub(super) fn function_starts(&self) -> Vec<u64> {
        let tables = self.symbol_tables().into_iter().filter(|(source, _)| *source != SymbolSource::Dynamic);
        let symbols = tables.flat_map(|(_, table)| table.symbols).filter(|symbol| Elf::is_function(symbol));
        symbols.take(MAX_STARTS).map(|symbol| symbol.st_value(LE)).collect()
    }

    /// All functions with a wanted name that any of the tables defines; local ones too. Where several tables have a
    /// name at an address, the first one counts. Nothing is said of the addresses: they are what the tables say.
    /// Indirect functions (`STT_GNU_IFUNC`) aren't functions: their address is that of a resolver.
    pub fn functions(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<Function> {
        let mut functions: Vec<Function> = Vec::new();
        let mut matches = 0;
        for (source, table) in self.symbol_tables() {
            for (index, symbol) in table.symbols.iter().enumerate() {
                if !Elf::is_function(symbol) {
                    continue;
                }
                let Some((name, default_version)) = table.name(symbol).map(without_version) else { continue };
                if name.is_empty() || !wanted(name) {
                    continue;
                }
                matches += 1;
                if matches > MAX_MATCHES || functions.len() == MAX_FUNCTIONS {
                    return functions;
                }
                let (address, name) = (symbol.st_value(LE), String::from_utf8_lossy(name));
                if functions.iter().any(|known| known.address == address && known.name == name) {
                    continue;
                }
                let hidden = table.versions.get(index).is_some_and(|version| version.0.get(LE).is_hidden());
                functions.push(Function {
                    name: Cow::into_owned(name),
                    address,
                    size: symbol.st_size(LE),
                    source,
                    default_version: default_version && !hidden,
                    local: symbol.st_bind() == elf::STB_LOCAL,
                });
            }
        }
        functions
    }
}

/// The tables for debuggers have the version of a symbol in its name: `name@@VERSION` for the default one, and
/// `name@VERSION` for others.
fn without_version(name: &[u8]) -> (&[u8], bool) {
    match name.iter().position(|&byte| byte == b'@') {
        Some(at) if at > 0 => (&name[..at], name.get(at + 1) == Some(&b'@')),
        _ => (name, true),
    }
}
