//! What a mapped file is, and where in it allocator calls are counted.
//!
//! Pure over bytes: [`analyse`] takes a file's contents and returns values; it reads nothing else. The contents belong
//! to a process that is looked at and may be hostile: every offset is checked, every loop has a budget (constants at the
//! head of each file), and a file that breaks the rules is an error, never a panic.
//!
//! - `elf`: what the loader would see; `identity`: what can be said of any ELF file.
//! - `symbols`: functions by name, from `sections`, `minidebug` and `debug_file` as well.
//! - [`text`]: the code and an index of its direct branches.
//! - [`flow`]: what can be reached from a function's entry.
//! - [`site`]: the instruction on which a function is probed.
//! - `names`: what the names of allocator functions mean; `candidates`: which allocators a file holds; `marks`: the same by the
//!   texts that code refers to.
//! - `goals`: where branches lead to; `wrappers`: functions that only pass calls on; `layers`: code that stands on an allocator;
//!   `forwards`: code that leaves its calls to something behind a pointer.
//! - `sampling`: the same for functions whose returns are to be taken.
//! - `callers`: which calls are the allocator's own; `transfers`: all ways into a function.
//! - `glibc`: everything together for glibc; `hooks`: for all others.
//! - `coded`: how the result is written down, for another process.
//! - [`go`]: programs made by Go; `auditable`: the crates of Rust programs; [`describe`]: both.
//! - [`python`]: the allocator interfaces of a Python interpreter.

mod auditable;
mod callers;
mod candidates;
mod coded;
mod debug_file;
pub mod describe;
mod elf;
mod error;
pub mod flow;
mod forwards;
mod glibc;
pub mod go;
mod goals;
mod hooks;
mod identity;
mod layers;
mod marks;
mod minidebug;
mod names;
pub mod python;
mod sampling;
mod sections;
pub mod site;
mod symbols;
pub mod text;
mod transfers;
mod wrappers;

use std::fmt;

use profiler_common::alloc::{AllocFunction, AllocOp, Register};
use serde::{Deserialize, Serialize};

pub use callers::MAX_INTERNAL_CALLS;
pub use debug_file::{check_debug_file, debug_file_parts, debug_files, is_build_id};
pub use error::{BinaryError, DebugFileError};
pub use sampling::NotSampled;
pub use site::{Site, SiteError, SiteKind};
pub use symbols::{Function, SymbolSource, Symbols, symbols};

/// What kind of file it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// 64 bit code for x86-64: the kind that is analysed.
    Elf64X86_64,
    /// Another machine or word size. Nothing but the build id is read.
    Other {
        /// For example `32 bit x86`.
        description: String,
    },
}

/// A part of the file that is mapped (`PT_LOAD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// Where it is mapped, as the file has it (before relocation).
    pub virtual_address: u64,
    /// Where its bytes begin in the file.
    pub file_offset: u64,
    /// How many bytes of it are in the file.
    pub file_size: u64,
    /// How many bytes it has in memory; what the file doesn't hold is zero.
    pub memory_size: u64,
    /// Whether it is mapped executable.
    pub executable: bool,
}

impl Segment {
    /// Whether an address is among the bytes that the file holds.
    fn holds(&self, address: u64) -> bool {
        address.checked_sub(self.virtual_address).is_some_and(|distance| distance < self.file_size)
    }

    fn file_offset_of(&self, address: u64) -> Option<u64> {
        self.file_offset.checked_add(address.checked_sub(self.virtual_address)?)
    }
}

/// An allocator, by what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Allocator {
    /// The GNU C library's (`malloc/malloc.c`), in `libc.so.6` or linked into the program.
    Glibc,
    /// musl's (`src/malloc`).
    Musl,
    /// jemalloc, also with prefixed names as in Rust's `tikv-jemallocator`.
    Jemalloc,
    /// gperftools' or Google's tcmalloc.
    Tcmalloc,
    /// Microsoft's mimalloc.
    Mimalloc,
    /// Some other code that defines the functions of an allocator.
    Other,
}

impl Allocator {
    /// The value of the `allocator` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
            Self::Jemalloc => "jemalloc",
            Self::Tcmalloc => "tcmalloc",
            Self::Mimalloc => "mimalloc",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The domains of CPython's own layers (`Include/cpython/pymem.h`, `PyMemAllocatorDomain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PythonDomain {
    /// `PyMem_RawMalloc` and its like: the C library's allocator, thinly wrapped.
    Raw,
    /// `PyMem_Malloc` and its like.
    Mem,
    /// `PyObject_Malloc` and its like.
    Object,
    /// Memory and object domain, where both are the same code (pymalloc).
    MemAndObject,
}

impl PythonDomain {
    /// The value of the `domain` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mem => "mem",
            Self::Object => "object",
            Self::MemAndObject => "mem_object",
        }
    }
}

/// Whose function it is. The layers stand on each other: what is counted in a Python domain may be counted in the
/// allocator below as well, so that they are never added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layer {
    /// An allocator that takes its memory from the kernel.
    Allocator(Allocator),
    /// A layer of the CPython interpreter.
    Python(PythonDomain),
}

impl Layer {
    /// The value of the `allocator` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocator(allocator) => allocator.name(),
            Self::Python(PythonDomain::Raw) => "python_raw",
            Self::Python(PythonDomain::Mem) => "python_mem",
            Self::Python(PythonDomain::Object) => "python_object",
            Self::Python(PythonDomain::MemAndObject) => "python_mem_object",
        }
    }
}

/// Everything that is told of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What kind of file it is.
    pub class: Class,
    /// The linker's identification of the build (note `NT_GNU_BUILD_ID`), in lowercase hexadecimal digits.
    pub build_id: Option<String>,
    /// The name under which other objects ask for it (`DT_SONAME`).
    pub soname: Option<String>,
    /// The mapped parts, in the order of the program headers.
    pub segments: Vec<Segment>,
    /// Where to count the calls; empty if there is no allocator in it.
    pub hooks: Vec<Hook>,
    /// The functions of its allocators that have no hook of their own, and why.
    pub left_out: Vec<LeftOut>,
    /// Where a dynamic linker tells that the list of objects has changed.
    pub loader: Option<LoaderHook>,
    /// Where symbols were found.
    pub symbols: Vec<SymbolSource>,
    /// What is wrong with tables that couldn't be used, in words.
    pub symbol_problems: Vec<String>,
    /// The layers of a Python interpreter, if it is one and somebody has looked ([`python::find`]).
    pub python: Option<python::Python>,
    /// A program that has everything in it.
    pub is_static: bool,
    /// Without symbols for debuggers, compressed ones included.
    pub is_stripped: bool,
    /// It is a program in which no allocator was found and of which a debug file might tell more: one with an allocator of
    /// its own, or with everything in it.
    pub wants_symbols: bool,
}

/// The function that a dynamic linker calls when objects have been mapped or are to be unmapped; it does nothing and is
/// there for debuggers (`r_brk` in `<link.h>`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderHook {
    /// Virtual address of `_dl_debug_state`.
    pub address: u64,
    /// The instruction to probe.
    pub site: Site,
}

impl Image {
    /// Why functions of an allocator, if there is one in the file, can't be found; `None` if they can.
    pub fn lacks_symbols(&self) -> Option<&str> {
        // Whatever a static program allocates, it does within itself. Others mostly use a library's allocator.
        (self.wants_symbols && self.is_static).then_some(
            "a static program without symbols, so that its allocator can't be found: install its debug file below \
             /usr/lib/debug/.build-id, or name a server with --debuginfod",
        )
    }

    /// Where in the file the byte lies that is mapped at a virtual address. `None` for addresses outside the mapped
    /// parts and for those that only memory has (`.bss`).
    pub fn file_offset_of(&self, virtual_address: u64) -> Option<u64> {
        self.segments.iter().find(|segment| segment.holds(virtual_address))?.file_offset_of(virtual_address)
    }
}

/// One place where calls are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Whose function it is.
    pub layer: Layer,
    /// The function; where several names share the address, the first in the order of [`AllocFunction::ALL`].
    #[serde(with = "coded::function")]
    pub function: AllocFunction,
    /// What its calls do.
    #[serde(with = "coded::op")]
    pub op: AllocOp,
    /// The registers that hold the operation's arguments at the site; of [`AllocOp::arguments`] of them.
    #[serde(with = "coded::registers")]
    pub registers: [Register; 3],
    /// The registers that hold them at the function's entry, and where it is called.
    #[serde(with = "coded::registers")]
    pub entry_registers: [Register; 3],
    /// All names at that address: those of the C interface first, in the order of [`AllocFunction::ALL`], then C++ operators,
    /// then those with prefixes.
    pub names: Vec<String>,
    /// Virtual address of the function's entry.
    pub address: u64,
    /// The instruction to probe.
    pub site: Site,
    /// Bits from [`profiler_common::alloc`].
    pub flags: u32,
    /// The instructions by which the allocator itself calls the function, by address: what is counted there must be
    /// subtracted here. At most [`MAX_INTERNAL_CALLS`].
    pub internal_calls: Vec<InternalCall>,
    /// What isn't exact here, in words.
    pub notes: Vec<String>,
    /// Why its calls can't be sampled; `None` if they can.
    pub not_sampled: Option<NotSampled>,
}

/// A call of a hooked function that the allocator makes itself, or a jump to it: directly, or through the procedure linkage
/// table. The arguments are in the [`Hook::entry_registers`] there, so that a probe on it classifies the call as the hook
/// does.
///
/// It is proven to be an instruction, by following the code from where a function is known to begin: a probe in the
/// middle of another instruction would change that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternalCall {
    /// Virtual address of the instruction.
    pub address: u64,
    /// Where the instruction lies in the file; that is how the kernel is told.
    pub file_offset: u64,
    /// The instruction, in the syntax of the GNU assembler.
    pub instruction: String,
    /// Where in the file the call returns to; `None` for a jump.
    pub returns_to: Option<u64>,
}

/// A function of a known allocator without a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Whose function it is.
    pub layer: Layer,
    /// Its public name.
    pub name: String,
    /// Why.
    pub reason: LeftOutReason,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no probe: {}", self.name, self.reason)
    }
}

/// Why a function has no hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum LeftOutReason {
    /// The library exports no such function (`reallocarray`: since glibc 2.26; `aligned_alloc`: since 2.16).
    #[error("the library doesn't export it")]
    Missing,
    /// It is another name of a function that has a hook.
    #[error("it is the same code as {}, and counted under that name", .0.name())]
    SameAddressAs(#[serde(with = "coded::function")] AllocFunction),
    /// It does nothing but check its arguments and pass them on, so that the other function's hook sees every call.
    #[error("it only passes its arguments on, so its calls are counted as {}", .0.name())]
    WrapperOf(#[serde(with = "coded::function")] AllocFunction),
    /// It goes on through a pointer, to nobody knows where: to count it could be to count twice.
    #[error("it passes its calls on through a pointer; what they get to is counted there")]
    Forwards,
    /// Some of its ways go on like that, others don't: it may be an allocator with a hook in it, or one that only helps itself
    /// until it has found the next.
    #[error(
        "it may pass its calls on through a pointer: what they get to is counted there, and what it does itself is not"
    )]
    MayForward,
    /// It takes its memory from another allocator, which is counted.
    #[error("it stands on another allocator's {0}, where its calls are counted as that one sees them")]
    StandsOn(String),
    /// It takes blocks in the program's name without a call, but its arguments don't tell when.
    #[error(
        "its arguments don't tell when it takes a block: what it takes from the allocator without a call isn't counted"
    )]
    Client,
    /// There is no place to probe.
    #[error("{0}")]
    NoSite(SiteError),
}

impl LeftOutReason {
    /// Whether calls are counted nowhere because of it, or perhaps nowhere.
    pub const fn loses_calls(&self) -> bool {
        match self {
            Self::NoSite(_) | Self::MayForward | Self::Client => true,
            Self::Missing
            | Self::SameAddressAs(_)
            | Self::WrapperOf(_)
            | Self::Forwards
            | Self::StandsOn(_) => false,
        }
    }
}

/// The build id in the notes of a file of which the beginning is given.
pub fn build_id(head: &[u8]) -> Option<String> {
    identity::outline::<object::elf::FileHeader64<object::Endianness>>(head).ok()?.1
}

/// Analyses a file's contents, with the help of its debug file if there is one (see [`check_debug_file`]).
///
/// # Errors
///
/// If it is no ELF file, or a damaged one, or larger in some respect than the budgets allow. A file of another machine
/// is no error; see [`Class::Other`].
pub fn analyse(image: &[u8], debug: Option<&[u8]>) -> Result<Image, BinaryError> {
    let mut elf = elf::Elf::read(image)?;
    if let Some(debug) = debug {
        elf.add_debug_file(debug);
    }
    let found = hooks::find(&elf)?;
    let (symbols, is_static, is_stripped) = (elf.symbol_sources(), elf.is_static(), elf.is_stripped());
    let symbol_problems = elf.symbol_problems().iter().map(ToString::to_string).collect();
    let program = is_static || elf.interpreter().is_some();
    let wants_symbols = program
        && is_stripped
        && found.hooks.is_empty()
        && !symbols.contains(&SymbolSource::DebugFile)
        && !go::is_without_c(image);
    Ok(Image {
        class: elf.class,
        build_id: elf.build_id,
        soname: elf.soname,
        segments: elf.segments,
        hooks: found.hooks,
        left_out: found.left_out,
        loader: found.loader,
        python: None,
        symbols,
        symbol_problems,
        is_static,
        is_stripped,
        wants_symbols,
    })
}

/// The code of a file and the addresses of the functions among `names` that it exports, for allocators that [`analyse`]
/// doesn't hook: [`site::choose`] works on any code.
///
/// # Errors
///
/// As [`analyse`].
pub fn code_and_exports<'a>(
    image: &'a [u8],
    names: &[&str],
) -> Result<(text::Text<'a>, Vec<(usize, u64)>), BinaryError> {
    let elf = elf::Elf::read(image)?;
    let exports: Vec<_> = elf.exports(names).iter().map(|export| (export.name, export.address)).collect();
    let places: Vec<u64> = exports.iter().map(|&(_, address)| address).collect();
    Ok((elf.text(&places)?, exports))
}

#[cfg(test)]
mod tests;
