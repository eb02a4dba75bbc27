//! Functions by name, from `.dynsym` and `.symtab`. (For the time being: without compressed symbols and debug files.)

use object::LittleEndian;
use object::elf::{self, FileHeader64, SHT_SYMTAB};
use object::read::elf::{FileHeader as _, Sym as _};

use super::elf::Elf;

const LE: LittleEndian = LittleEndian;
const MAX_NAME: usize = 512;
const MAX_FUNCTIONS: usize = 1024;

/// A function that is defined in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, without a symbol version.
    pub name: String,
    /// Virtual address, as the file has it (before relocation).
    pub address: u64,
    /// How many bytes its code takes; 0 if that isn't known.
    pub size: u64,
    /// Not an old version of the symbol.
    pub default_version: bool,
    /// Visible in its own object file only.
    pub local: bool,
}

impl Elf<'_> {
    /// All functions with a wanted name.
    pub fn functions(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<Function> {
        let mut functions: Vec<Function> = Vec::new();
        let mut add = |name: &[u8], symbol: &elf::Sym64<LittleEndian>, default: bool| {
            let kind = symbol.st_type() == elf::STT_FUNC;
            let defined = symbol.st_shndx(LE) != elf::SHN_UNDEF && symbol.st_value(LE) != 0;
            if !kind || !defined || !wanted(name) || functions.len() == MAX_FUNCTIONS {
                return;
            }
            let (name, address) = (String::from_utf8_lossy(name).into_owned(), symbol.st_value(LE));
            if functions.iter().any(|known| known.address == address && known.name == name) {
                return;
            }
            functions.push(Function {
                name,
                address,
                size: symbol.st_size(LE),
                default_version: default,
                local: symbol.st_bind() == elf::STB_LOCAL,
            });
        };
        for (index, symbol) in self.symbols.iter().enumerate() {
            let bytes = self.strings.get(symbol.st_name(LE) as usize..).unwrap_or(&[]);
            let bytes = &bytes[..bytes.len().min(MAX_NAME)];
            let Some(end) = bytes.iter().position(|&byte| byte == 0) else { continue };
            let default = self.versions.get(index).is_none_or(|v| !v.0.get(LE).is_hidden());
            add(&bytes[..end], symbol, default);
        }
        let table = FileHeader64::<LittleEndian>::parse(self.image)
            .and_then(|header| header.sections(LE, self.image))
            .and_then(|sections| sections.symbols(LE, self.image, SHT_SYMTAB));
        if let Ok(table) = table {
            for symbol in table.iter() {
                if let Ok(name) = symbol.name(LE, table.strings()) {
                    let (name, default) = match name.iter().position(|&byte| byte == b'@') {
                        Some(at) if at > 0 => (&name[..at], name.get(at + 1) == Some(&b'@')),
                        _ => (name, true),
                    };
                    add(name, symbol, default);
                }
            }
        }
        functions
    }

    /// Addresses of all functions in `.symtab`.
    pub fn symbol_starts(&self) -> Vec<u64> {
        let table = FileHeader64::<LittleEndian>::parse(self.image)
            .and_then(|header| header.sections(LE, self.image))
            .and_then(|sections| sections.symbols(LE, self.image, SHT_SYMTAB));
        let Ok(table) = table else { return Vec::new() };
        let functions = table.iter().filter(|symbol| {
            symbol.st_type() == elf::STT_FUNC && symbol.st_shndx(LE) != elf::SHN_UNDEF
        });
        functions.map(|symbol| symbol.st_value(LE)).collect()
    }

    /// The path of the dynamic linker.
    pub fn interpreter(&self) -> Option<&[u8]> {
        let header = FileHeader64::<LittleEndian>::parse(self.image).ok()?;
        let headers = header.program_headers(LE, self.image).ok()?;
        use object::read::elf::ProgramHeader as _;
        headers.iter().find_map(|header| header.interpreter(LE, self.image).ok().flatten())
    }
}
