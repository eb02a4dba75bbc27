//! Go's table of functions (`runtime.pclntab`), which no stripping removes: a running program needs it. This is its
//! frame, as it is since Go 1.18: where its parts are, and the functions with their names.
//!
//! Its layout: `pcHeader`, `functab` and `_func` in Go's src/runtime/symtab.go and runtime2.go.

use std::collections::HashMap;

use super::image::{GoFile, terminated, u32_at, u64_at};

/// How the table begins: a number for its format (Go's src/internal/abi/symtab.go), two zeros.
const MAGICS: [(u32, Format); 2] = [(0xffff_fff0, Format::Go118), (0xffff_fff1, Format::Go120)];
/// Bytes of its header.
const HEADER: usize = 72;
/// Functions of a program. The largest have some hundred thousands.
const MAX_FUNCTIONS: usize = 1 << 22;
/// Bytes of a function's name. Those of generic functions have all their types in them.
const MAX_NAME: usize = 8 << 10;
/// Sections that hold it; in the second one of position-independent programs up to Go 1.25.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];

/// Which format the table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// That of Go 1.18 and 1.19.
    Go118,
    /// That since Go 1.20.
    Go120,
}

/// The table.
#[derive(Clone, Copy, Debug)]
pub struct PcTable<'a> {
    /// Virtual address of its header.
    pub address: u64,
    /// Its format.
    pub format: Format,
    /// Bytes of the machine's smallest instruction, in which code addresses are counted.
    pub quantum: u8,
    /// Its bytes, and perhaps others behind them.
    bytes: &'a [u8],
    count: usize,
    names: usize,
    units: usize,
    files: usize,
    values: usize,
    functions: usize,
}

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where its code begins: distance from the start of the program's text (`moduledata.text`).
    pub entry: u64,
    /// Where the next one's begins.
    pub end: u64,
    /// Where its record (`_func`) is within [`PcTable::records`].
    pub record: usize,
}

impl<'a> PcTable<'a> {
    /// Finds the table: by its section, else by its header in what is mapped.
    pub fn find(file: &GoFile<'a>) -> Option<Self> {
        let named = SECTIONS.iter().filter_map(|name| file.section(name));
        let mut named = named.filter(|section| section.address != 0);
        named
            .find_map(|section| Self::read(section.address, section.bytes))
            .or_else(|| file.segments.iter().find_map(|segment| Self::search(segment.address, segment.bytes)))
    }

    fn search(address: u64, bytes: &'a [u8]) -> Option<Self> {
        // It is aligned in memory, and segments begin on pages or at the same distance from one in the file and in memory.
        let skip = usize::try_from(address.wrapping_neg() % 8).ok()?;
        let aligned = bytes.get(skip..)?;
        aligned.chunks_exact(8).enumerate().find_map(|(index, chunk)| {
            (chunk.get(1..6)? == [0xff, 0xff, 0xff, 0, 0]).then_some(())?;
            let offset = skip + index * 8;
            Self::read(address + offset as u64, bytes.get(offset..)?)
        })
    }

    /// The table at the beginning of these bytes, if its parts are where they can be.
    pub fn read(address: u64, bytes: &'a [u8]) -> Option<Self> {
        let magic = u32_at(bytes, 0)?;
        let (_, format) = *MAGICS.iter().find(|(number, _)| *number == magic)?;
        let &[0, 0, quantum @ (1 | 4), 8] = bytes.get(4..8)? else { return None };
        let part = |index: usize| usize::try_from(u64_at(bytes, 8 + 8 * index)?).ok();
        let count = part(0)?;
        let [names, units, files, values, functions] = [part(3)?, part(4)?, part(5)?, part(6)?, part(7)?];
        let ordered = [HEADER, names, units, files, values, functions].is_sorted();
        let table = bytes.get(functions..)?;
        // One more address than functions.
        let fits = count.checked_mul(8).is_some_and(|size| size + 4 <= table.len());
        let plausible = ordered && fits && (1..=MAX_FUNCTIONS).contains(&count);
        plausible.then_some(Self {
            address,
            format,
            quantum,
            bytes,
            count,
            names,
            units,
            files,
            values,
            functions,
        })
    }

    /// How many functions there are.
    pub fn len(&self) -> usize {
        self.count
    }

    fn function(&self, index: usize) -> Option<Function> {
        let table = self.records();
        let entry = |index: usize| u32_at(table, index * 8).map(u64::from);
        let (start, end) = (entry(index)?, entry(index + 1)?);
        Some(Function { entry: start, end: end.max(start), record: u32_at(table, index * 8 + 4)? as usize })
    }

    /// All functions in the order of their code.
    pub fn functions(&self) -> impl Iterator<Item = Function> + '_ {
        (0..self.count).filter_map(|index| self.function(index))
    }

    /// The function to which the code at that distance from the text's start belongs.
    pub fn function_at(&self, offset: u64) -> Option<Function> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.function(middle)?.entry <= offset { low = middle + 1 } else { high = middle }
        }
        self.function(low.checked_sub(1)?).filter(|function| offset < function.end)
    }

    /// A function's name.
    pub fn name_of(&self, function: &Function) -> Option<&'a str> {
        self.name(self.name_offset(function)?)
    }

    fn name_offset(&self, function: &Function) -> Option<usize> {
        Some(u32_at(self.records(), function.record.checked_add(4)?)? as usize)
    }

    /// The name at an offset of the table of names.
    pub fn name(&self, offset: usize) -> Option<&'a str> {
        terminated(self.names(), offset, MAX_NAME)
    }

    /// The functions of these names; of several with one name the first.
    pub fn find_functions<'n>(&self, wanted: &[&'n str]) -> HashMap<&'n str, Function> {
        let wanted: HashMap<&[u8], &str> = wanted.iter().map(|name| (name.as_bytes(), *name)).collect();
        // The names first, and the functions then by where their names are: each is looked at once, however many there are.
        let mut places = HashMap::new();
        let mut offset = 0;
        for name in self.names().split(|&byte| byte == 0) {
            if let Some(name) = wanted.get(name) {
                places.entry(offset).or_insert(*name);
            }
            offset += name.len() + 1;
        }
        let mut found = HashMap::new();
        for function in self.functions() {
            if let Some(name) = self.name_offset(&function).and_then(|offset| places.get(&offset)) {
                found.entry(*name).or_insert(function);
            }
        }
        found
    }

    /// The table of functions and, behind it, their records (`pclntable`).
    pub fn records(&self) -> &'a [u8] {
        self.bytes.get(self.functions..).unwrap_or(&[])
    }

    /// Names of functions (`funcnametab`).
    pub fn names(&self) -> &'a [u8] {
        self.part(self.names, self.units)
    }

    /// Virtual address of the names.
    pub fn names_address(&self) -> u64 {
        self.address.wrapping_add(self.names as u64)
    }

    /// Where the names of each compilation unit's files are (`cutab`).
    pub fn units(&self) -> &'a [u8] {
        self.part(self.units, self.files)
    }

    /// Names of files (`filetab`).
    pub fn files(&self) -> &'a [u8] {
        self.part(self.files, self.values)
    }

    /// Values by code address, packed (`pctab`).
    pub fn values(&self) -> &'a [u8] {
        self.part(self.values, self.functions)
    }

    fn part(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or(&[])
    }
}
