//! What can be wrong with a binary.

/// Why a file can't be analysed. Names the thing in the file that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// The file doesn't begin like an ELF file.
    #[error("not an ELF file")]
    NotElf,
    /// The ELF header or the table of program headers can't be read.
    #[error("damaged ELF header: {0}")]
    Header(String),
    /// More program headers than any real binary has.
    #[error("{count} program headers, more than the {limit} that are read")]
    TooManySegments {
        /// How many the header announces.
        count: u32,
        /// How many are accepted.
        limit: u32,
    },
    /// A segment lies outside the file or beyond the end of the address space.
    #[error("program header {index} describes bytes outside the file or the address space")]
    Segment {
        /// Position in the table of program headers.
        index: usize,
    },
    /// A table that the dynamic section announces isn't where it should be.
    #[error("the dynamic section's {table} is damaged or outside the file")]
    Table {
        /// Which table.
        table: &'static str,
    },
    /// A table has more entries than any real binary.
    #[error("the {table} is longer than the {limit} entries that are read")]
    TableTooLong {
        /// Which table.
        table: &'static str,
        /// How many entries are accepted.
        limit: usize,
    },
    /// The section headers can't be used. What the program headers say isn't concerned.
    #[error("the section headers are damaged: {0}")]
    SectionHeaders(String),
    /// A section isn't where its header says, or doesn't have the form it should have.
    #[error("the section {section} is damaged or outside the file")]
    Section {
        /// Its name.
        section: &'static str,
    },
    /// The compressed symbols (MiniDebugInfo) can't be had.
    #[error("the symbols in .gnu_debugdata can't be read: {0}")]
    MiniDebugInfo(String),
    /// A debug file is of no use here.
    #[error("the debug file is not used: {0}")]
    DebugFile(#[from] DebugFileError),
    /// More code than is read.
    #[error("{size} bytes of code, more than the {limit} that are read")]
    TooMuchCode {
        /// Bytes in executable segments.
        size: u64,
        /// How many are accepted.
        limit: u64,
    },
    /// The code has more branches (or bytes that look like some) than are indexed.
    #[error("more than {limit} branches in the code")]
    TooManyBranches {
        /// How many are accepted.
        limit: usize,
    },
}

/// Why a debug file is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DebugFileError {
    /// It is no ELF file for x86-64.
    #[error("it is no 64 bit x86-64 ELF file")]
    OtherKind,
    /// Without a build id nothing says that the two belong together.
    #[error("the program has no build id, so that nothing says that it belongs to it")]
    NoBuildId,
    /// It was made from another file.
    #[error("its build id is {}, not {expected}", found.as_deref().unwrap_or("missing"))]
    OtherBuild {
        /// The program's.
        expected: String,
        /// The debug file's.
        found: Option<String>,
    },
    /// It has no `.symtab`.
    #[error("it has no symbol table")]
    NoSymbols,
    /// What is in it can't be read.
    #[error("{0}")]
    Damaged(Box<BinaryError>),
}
