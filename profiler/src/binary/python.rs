//! The allocator interfaces of a Python interpreter (CPython 3.4 and newer), and where their calls are counted.
//!
//! CPython has three of them, called domains: raw (`PyMem_RawMalloc`), mem (`PyMem_Malloc`) and object (`PyObject_Malloc`);
//! <https://docs.python.org/3/c-api/memory.html>. Each has a table of four functions with a context, which a program may
//! replace at any time (`PyMem_SetAllocator`). Usually raw is the C library, while mem and object share one allocator,
//! pymalloc, that cuts blocks of up to 512 bytes out of arenas and passes larger requests on to raw. Hence what lies in
//! arenas doesn't show in the C library's counts.
//!
//! What is counted is each use of a table, whatever it holds: the public function's entry, and every place where the
//! compiler has put a copy of the function (see `dispatch`). So tracemalloc, the debug hooks or another allocator change
//! nothing, and what allocators do among themselves (a `realloc` that moves a block by `malloc` and `free`) isn't counted,
//! because that doesn't go through the tables. One thing does: pymalloc asks raw for large blocks, which therefore count in
//! both layers; and the C library's hooks count them once more, in theirs.
//!
//! The live blocks of mem and object make sense together only: programs free in one what they got from the other.
//! Together they are what `sys.getallocatedblocks()` tells, as long as pymalloc is in use.

mod dispatch;
mod release;
mod table;

use std::collections::BTreeMap;

use profiler_common::alloc::{AllocCounts, AllocFunction, AllocOp, Register, ZERO_RESIZES};
use serde::{Deserialize, Serialize};

use super::callers::places;
use super::elf::Elf;
use super::flow::Flow;
use super::site::{choose_in, disassemble, is_emulated};
use super::text::Text;
use super::{
    BinaryError, Class, Hook, Layer, LeftOut, LeftOutReason, NotSampled, PythonDomain, Site, SiteKind,
};
pub use dispatch::Argument;
use dispatch::{Dispatch, Walker};
pub use table::{Current, Table};

/// Places that are hooked, all domains together. Debian's `python3.11`, built with a profile, has 521.
pub const MAX_HOOKS: usize = 2048;

/// An allocator interface of the interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Domain {
    /// `PyMem_Raw*`: callable without the interpreter's lock; usually the C library's allocator.
    Raw,
    /// `PyMem_*`: buffers of the interpreter and of extension modules; usually pymalloc (raw before Python 3.6).
    Mem,
    /// `PyObject_*`: objects; usually pymalloc.
    Object,
}

/// The functions of each domain, in the order of its table.
const FUNCTIONS: [AllocFunction; 4] =
    [AllocFunction::Malloc, AllocFunction::Calloc, AllocFunction::Realloc, AllocFunction::Free];

/// Their names, in the order of [`Domain::ALL`] and [`FUNCTIONS`].
const NAMES: [&str; 13] = [
    "PyMem_RawMalloc",
    "PyMem_RawCalloc",
    "PyMem_RawRealloc",
    "PyMem_RawFree",
    "PyMem_Malloc",
    "PyMem_Calloc",
    "PyMem_Realloc",
    "PyMem_Free",
    "PyObject_Malloc",
    "PyObject_Calloc",
    "PyObject_Realloc",
    "PyObject_Free",
    "PyMem_SetupDebugHooks",
];
const SETUP_DEBUG_HOOKS: usize = 12;

/// What each of them reaches, if the file has it.
type Flows = [Option<Flow>; NAMES.len()];

impl Domain {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Mem, Self::Object];

    /// CPython's word for it, as in `PYMEM_DOMAIN_RAW`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mem => "mem",
            Self::Object => "object",
        }
    }
}

/// Where the bytes that a hook's calls ask for are known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Bytes {
    /// From the registers, as with every hook.
    Counted,
    /// The compiler knew one of two factors: what is counted must be multiplied by this.
    Times(u64),
    /// The compiler knew the size: each allocation and each resize asks for this much. What the kernel side adds up there
    /// means nothing.
    Each(u64),
    /// Not known. What the kernel side adds up there means nothing.
    Unknown,
}

impl Bytes {
    /// The bytes that a site's calls have asked for.
    pub const fn of(self, counts: &AllocCounts) -> u64 {
        match self {
            Self::Counted => counts.bytes,
            Self::Times(factor) => counts.bytes.wrapping_mul(factor),
            Self::Each(size) => counts.allocated().wrapping_mul(size),
            Self::Unknown => 0,
        }
    }
}

/// One place where calls of a domain's function are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonHook {
    /// Whose function it is.
    pub domain: Domain,
    /// What to probe. `address` is the entry of the function in which the site lies: the public one, one with a copy of
    /// it, or the allocator's own.
    pub hook: Hook,
    /// Whether it is a copy that the compiler has put into another function.
    pub inlined: bool,
    /// Whether the kernel side's bytes can be used.
    pub bytes: Bytes,
}

/// What is known of an interpreter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Python {
    /// Where to count, whatever allocators are in use. By address of the site.
    pub hooks: Vec<PythonHook>,
    /// Cheaper than some of `hooks`, as long as the usual allocators are in use; see [`Python::choose`].
    pub releases: Vec<PythonHook>,
    /// The public functions that have no hook of their own.
    pub left_out: Vec<LeftOut>,
    /// The tables that were found.
    pub tables: Vec<Table>,
    /// Addresses that the function which installs the debug hooks mentions: those hooks are among them.
    debug: Vec<u64>,
    /// What isn't exact, in words.
    pub notes: Vec<String>,
}

/// Looks for a Python interpreter in a file: `None` if it has not the public functions of all three domains.
///
/// # Errors
///
/// As [`super::analyse`].
pub fn find(image: &[u8]) -> Result<Option<Python>, BinaryError> {
    find_in(&Elf::read(image)?)
}

pub(super) fn find_in(elf: &Elf<'_>) -> Result<Option<Python>, BinaryError> {
    if elf.class != Class::Elf64X86_64 {
        return Ok(None);
    }
    let mut entries = [None; NAMES.len()];
    for export in elf.exports(&NAMES) {
        entries[export.name] = Some(export.address);
    }
    if Domain::ALL.iter().any(|&domain| entries[4 * domain as usize].is_none()) {
        return Ok(None);
    }
    let text = elf.whole_text()?;
    let flows = entries.map(|entry| entry.map(|entry| Flow::from(&text, entry)));
    let mut python = Python {
        hooks: Vec::new(),
        releases: Vec::new(),
        left_out: Vec::new(),
        tables: table::find(elf, &text, &flows),
        debug: flows[SETUP_DEBUG_HOOKS]
            .as_ref()
            .map(|flow| table::mentioned(&text, flow))
            .unwrap_or_default(),
        notes: Vec::new(),
    };
    python.add_public(&text, &entries, &flows);
    python.add_inlined(elf, &text, &flows);
    python.add_releases(&text);
    python.hooks.sort_by_key(|hook| hook.hook.address + hook.hook.site.offset);
    Ok(Some(python))
}

impl Python {
    fn table(&self, domain: Domain) -> Option<&Table> {
        self.tables.iter().find(|table| table.domain == domain)
    }

    /// Mem and object are one layer if the file puts the same functions into both tables (since Python 3.6).
    fn layer(&self, domain: Domain) -> Layer {
        let initial = |domain| self.table(domain)?.initially(AllocFunction::Free);
        let shared = initial(Domain::Mem).is_some() && initial(Domain::Mem) == initial(Domain::Object);
        Layer::Python(match domain {
            Domain::Raw => PythonDomain::Raw,
            _ if shared => PythonDomain::MemAndObject,
            Domain::Mem => PythonDomain::Mem,
            Domain::Object => PythonDomain::Object,
        })
    }

    fn hook(&self, domain: Domain, index: usize, address: u64, site: Site) -> Hook {
        let function = FUNCTIONS[index % 4];
        let (op, registers) = super::glibc::recipe(function);
        Hook {
            layer: self.layer(domain),
            function,
            op,
            registers,
            entry_registers: registers,
            names: vec![NAMES[index].to_string()],
            address,
            site,
            // `_PyMem_RawRealloc` and `_PyObject_Realloc` give a block of one byte for a size of zero.
            flags: if function == AllocFunction::Realloc { ZERO_RESIZES } else { 0 },
            internal_calls: Vec::new(),
            notes: Vec::new(),
            not_sampled: Some(NotSampled::Layer),
        }
    }

    fn add_public(&mut self, text: &Text<'_>, entries: &[Option<u64>; NAMES.len()], flows: &Flows) {
        for (domain, index, function) in functions() {
            let (name, layer) = (NAMES[index].to_string(), self.layer(domain));
            let (Some(entry), Some(flow)) = (entries[index], &flows[index]) else {
                self.left_out.push(LeftOut { layer, name, reason: LeftOutReason::Missing });
                continue;
            };
            // Linkers can fold functions of the same code into one.
            if let Some(other) = (0..index).find(|&other| entries[other] == Some(entry)) {
                self.notes.push(format!("{name} is the same code as {}, and counted there", NAMES[other]));
                continue;
            }
            let (op, arguments) = super::glibc::recipe(function);
            match choose_in(text, flow, entry, &arguments[..op.arguments()], false) {
                Ok((site, places)) => {
                    let mut hook = self.hook(domain, index, entry, site);
                    hook.registers[..places.len()].copy_from_slice(&places);
                    self.hooks.push(PythonHook { domain, hook, inlined: false, bytes: Bytes::Counted });
                }
                Err(error) => {
                    self.left_out.push(LeftOut { layer, name, reason: LeftOutReason::NoSite(error) });
                }
            }
        }
    }

    /// Adds the places where the compiler has put copies of the public functions.
    fn add_inlined(&mut self, elf: &Elf<'_>, text: &Text<'_>, flows: &Flows) {
        let mut wanted = BTreeMap::new();
        for domain in Domain::ALL {
            if self.table(domain).is_none() {
                self.notes.push(format!(
                    "the table of the {} domain was not found: calls from where the compiler has put a copy of its \
                     functions are not counted",
                    domain.name()
                ));
            }
        }
        for (domain, index, function) in functions() {
            if let Some(table) = self.table(domain) {
                wanted.insert(table.pointer(function), (domain, index));
            }
        }
        let addresses: Vec<u64> = wanted.keys().copied().collect();
        let mut walker = Walker::new(text);
        let mut found: BTreeMap<u64, (Dispatch, Domain, usize)> = BTreeMap::new();
        let mut lost = 0;
        for (load, address) in table::uses(text, &addresses, &elf.variable_slots()) {
            let Some(&(domain, index)) = wanted.get(&address) else { continue };
            // What the public function itself does is counted at its entry.
            if flows[index].as_ref().is_some_and(|flow| flow.instructions.contains(&load)) {
                continue;
            }
            let dispatches = walker.follow(load);
            lost += usize::from(!dispatches.complete);
            for dispatch in dispatches.found {
                found.entry(dispatch.at).or_insert((dispatch, domain, index));
            }
        }
        let (mut blind, mut many) = (0, 0);
        for (dispatch, domain, index) in found.into_values() {
            let Some(site) = site_at(text, dispatch.at, NAMES[index]) else { continue };
            if self.hooks.len() == MAX_HOOKS {
                many += 1;
                continue;
            }
            let mut hook = self.hook(domain, index, dispatch.at - site.offset, site);
            let bytes = arrange(&mut hook, &dispatch);
            blind += usize::from(bytes == Bytes::Unknown);
            self.hooks.push(PythonHook { domain, hook, inlined: true, bytes });
        }
        let mut note = |count: usize, what: &str| {
            if count > 0 {
                self.notes.push(format!("{} {what}", places(count)));
            }
        };
        note(lost, "that read an allocator's address could not be followed: calls from there may be missing");
        note(many, "more than are hooked: calls from there are missing");
        note(
            blind,
            "have a copy of a function with its size in memory: the calls are counted, their bytes are not",
        );
    }

    /// Adds the allocators' own functions that free, where the public ones have no cheap site.
    fn add_releases(&mut self, text: &Text<'_>) {
        for domain in [Domain::Raw, Domain::Object] {
            let dear = self
                .hooks
                .iter()
                .any(|hook| is_replaced(hook, domain) && hook.hook.site.kind == SiteKind::SingleStepped);
            let shared =
                domain == Domain::Raw || self.layer(domain) == Layer::Python(PythonDomain::MemAndObject);
            if !dear || !shared {
                continue;
            }
            let Some(release) = self.table(domain).and_then(|table| release::find(text, table)) else {
                continue;
            };
            let mut hook = self.hook(domain, 4 * domain as usize + 3, release.address, release.site);
            if domain == Domain::Object {
                hook.names.insert(0, NAMES[4 * Domain::Mem as usize + 3].to_string());
            }
            hook.registers[0] = release.register;
            // The block stands behind the context.
            hook.entry_registers[0] = Register::Rsi;
            hook.internal_calls = release.internal_calls;
            hook.notes.push(
                "counted in the allocator itself: if the program replaces that (other than by tracemalloc), its frees \
                 are missing from then on"
                    .to_string(),
            );
            self.releases.push(PythonHook { domain, hook, inlined: false, bytes: Bytes::Counted });
        }
    }

    /// What to hook in a process whose domains have these allocators now, in the order of [`Domain::ALL`].
    pub fn choose(&self, current: [Current; 3]) -> Vec<&PythonHook> {
        let [raw, mem, object] = current;
        let pymalloc = mem == Current::Pymalloc && object == Current::Pymalloc;
        // With `PYTHONMALLOC=malloc` the raw domain's function is that of the others, too.
        let usual = |domain| pymalloc && (domain != Domain::Raw || raw == Current::System);
        let releases: Vec<_> = self.releases.iter().filter(|release| usual(release.domain)).collect();
        let replaced = |hook: &&PythonHook| releases.iter().any(|release| is_replaced(hook, release.domain));
        self.hooks.iter().filter(|hook| !replaced(hook)).chain(releases.iter().copied()).collect()
    }

    /// Which allocator a domain has in a running process: `malloc` is what the pointer at that place of
    /// [`table_pointers`] says, moved back by the distance between addresses in memory and in the file.
    pub fn current(&self, domain: Domain, malloc: u64) -> Current {
        let usual = |domain| self.table(domain)?.initially(AllocFunction::Malloc);
        if usual(Domain::Raw) == Some(malloc) {
            Current::System
        } else if domain != Domain::Raw && usual(domain) == Some(malloc) {
            Current::Pymalloc
        } else if self.debug.binary_search(&malloc).is_ok() {
            Current::DebugHooks
        } else {
            Current::Other
        }
    }
}

/// Whether the allocator's own function that frees, as found for a domain, stands for this hook, too.
fn is_replaced(hook: &PythonHook, domain: Domain) -> bool {
    hook.hook.function == AllocFunction::Free && (hook.domain == Domain::Raw) == (domain == Domain::Raw)
}

/// Where each function's pointer lies in memory (virtual address in the file), to be read from the process.
pub fn table_pointers(python: &Python) -> Vec<(Domain, AllocFunction, u64)> {
    let pointers =
        |table: &Table| FUNCTIONS.map(|function| (table.domain, function, table.pointer(function)));
    python.tables.iter().flat_map(pointers).collect()
}

/// Domain, index of the name, and function of everything that has a pointer.
fn functions() -> impl Iterator<Item = (Domain, usize, AllocFunction)> {
    let of = |domain| {
        FUNCTIONS
            .iter()
            .enumerate()
            .map(move |(index, &function)| (domain, 4 * domain as usize + index, function))
    };
    Domain::ALL.into_iter().flat_map(of)
}

/// Sets a hook's operation and registers by where the arguments are at its site.
///
/// The kernel side reads registers only. Where an argument isn't in one, it gets the register with the allocator's address:
/// that is never zero and never too large for a size, so that calls are told apart rightly.
fn arrange(hook: &mut Hook, dispatch: &Dispatch) -> Bytes {
    use Argument::{Constant, Register, Unknown};
    let [first, second] = dispatch.arguments;
    let register = |argument| if let Register(register) = argument { register } else { dispatch.pointer };
    hook.registers = [register(first), register(second), dispatch.pointer];
    if (hook.op, first) == (AllocOp::Resize, Constant(0)) {
        // The compiler has made a `malloc` of it.
        (hook.op, hook.registers[0]) = (AllocOp::Allocate, register(second));
    }
    let size = if hook.function == AllocFunction::Realloc { second } else { first };
    match (hook.op, first, second) {
        (AllocOp::AllocateArray, Register(_), Register(_)) | (AllocOp::Free, ..) => Bytes::Counted,
        (AllocOp::AllocateArray, count, size) => {
            hook.op = AllocOp::Allocate;
            match (count, size) {
                (Constant(factor), Register(other)) | (Register(other), Constant(factor)) => {
                    hook.registers[0] = other;
                    Bytes::Times(factor)
                }
                (Constant(count), Constant(size)) => {
                    hook.registers[0] = dispatch.pointer;
                    count.checked_mul(size).map_or(Bytes::Unknown, Bytes::Each)
                }
                _ => {
                    hook.registers[0] = dispatch.pointer;
                    Bytes::Unknown
                }
            }
        }
        _ => match size {
            Register(_) => Bytes::Counted,
            Constant(size) => Bytes::Each(size),
            Unknown => Bytes::Unknown,
        },
    }
}

/// The site for a decision between copied code and a call.
fn site_at(text: &Text<'_>, at: u64, name: &str) -> Option<Site> {
    let instruction = text.decode(at)?;
    let emulated = is_emulated(text.bytes_at(at)?.get(..instruction.len())?);
    let (kind, what) = if emulated {
        (SiteKind::Emulated, "the jump that decides whether its code or a call through the table follows")
    } else {
        (SiteKind::SingleStepped, "the call through the table, single-stepped by the kernel")
    };
    Some(Site {
        offset: at - text.start_before(at)?,
        file_offset: text.file_offset_of(at)?,
        instruction: disassemble(&instruction),
        kind,
        reason: format!("a copy of {name}: {what}"),
        at_entry_depth: false,
    })
}
