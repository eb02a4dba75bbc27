//! The allocator interfaces of a Python interpreter (CPython 3.4 and newer), and where their calls are counted.
//!
//! CPython has three of them, called domains: raw (`PyMem_RawMalloc`), mem (`PyMem_Malloc`) and object (`PyObject_Malloc`);
//! <https://docs.python.org/3/c-api/memory.html>. Each has a table of four functions with a context, which a program may
//! replace at any time (`PyMem_SetAllocator`). Usually raw is the C library, while mem and object share one allocator,
//! pymalloc, that cuts blocks of up to 512 bytes out of arenas and passes larger requests on to raw. Hence what lies in
//! arenas doesn't show in the C library's counts.
//!
//! What is counted is each use of a table, whatever it holds: the public function's entry, and every place where the
//! compiler put a copy of the function (see [`dispatch`]). So tracemalloc, the debug hooks or another allocator change nothing,
//! and what allocators do among themselves (`realloc` that moves a block by `malloc` and `free`) isn't counted, because
//! that doesn't go through the tables. The exception is also the rule: pymalloc asks raw for large blocks through the
//! table, so that these count in both families; and the C library's hooks count them a third time, as their own family.
//!
//! Counts of mem and object are only meaningful together as live blocks: programs free in one what they got from the other.
//! That sum is what `sys.getallocatedblocks()` tells, as long as pymalloc is in use.

mod dispatch;

use std::collections::{BTreeMap, HashMap};

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use profiler_common::alloc::AllocFunction;

use super::elf::Elf;
use super::flow::Flow;
use super::site::{ARGUMENTS, choose_in, disassemble, is_emulated};
use super::text::Text;
use super::{BinaryError, Class, LeftOutReason, Site, SiteKind};
pub use dispatch::Argument;
use dispatch::{Dispatch, Walker};

/// Places that are hooked, all domains together. Debian's `python3.11`, built with a profile, has about 500.
pub const MAX_HOOKS: usize = 2048;
/// Bytes from a function's start that are disassembled to find out where instructions begin. The largest function of an
/// interpreter, its main loop, has about 64 KiB.
const MAX_FUNCTION: u64 = 1 << 20;

/// An allocator interface of the interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

    /// The family whose live blocks make sense: mem and object count together, as their blocks come from one allocator.
    pub const fn family(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mem | Self::Object => "pymalloc",
        }
    }

    /// The public name of one of its functions; `None` for functions that no domain has.
    pub fn function_name(self, function: AllocFunction) -> Option<&'static str> {
        let index = FUNCTIONS.iter().position(|&other| other == function)?;
        NAMES.get(4 * self as usize + index).copied()
    }
}

/// One place where calls of a domain's function are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonHook {
    /// Whose function it is.
    pub domain: Domain,
    /// Which one: malloc, calloc, realloc or free.
    pub function: AllocFunction,
    /// Its public name.
    pub name: &'static str,
    /// Entry of the function in which the site lies: the public one, or another that has a copy of it.
    pub address: u64,
    /// Whether it is a copy.
    pub inlined: bool,
    /// The instruction to probe; all calls pass it.
    pub site: Site,
    /// Where the function's arguments are at the site: size; count and size; pointer and size; pointer.
    pub arguments: Vec<Argument>,
}

/// The table of a domain: context, malloc, calloc, realloc, free; 8 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whose.
    pub domain: Domain,
    /// Virtual address of the context, the first member.
    pub address: u64,
    /// The functions that the file itself puts in, in the order of [`table_pointers`].
    pub initial: [Option<u64>; 4],
}

/// A public function without a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonLeftOut {
    /// Its name.
    pub name: &'static str,
    /// Why.
    pub reason: LeftOutReason,
}

/// What is known of an interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    /// Where to count, by address of the site.
    pub hooks: Vec<PythonHook>,
    /// The public functions that have no hook of their own.
    pub left_out: Vec<PythonLeftOut>,
    /// The tables that were found.
    pub tables: Vec<Table>,
    /// Addresses that the function which installs the debug hooks mentions: those hooks are among them.
    debug: Vec<u64>,
    /// What isn't exact, in words.
    pub notes: Vec<String>,
}

/// Looks for a Python interpreter in a file.
///
/// `None` if it isn't one: there must be the public functions of all three domains.
///
/// # Errors
///
/// As [`super::analyse`].
pub fn find(image: &[u8]) -> Result<Option<Python>, BinaryError> {
    let elf = Elf::read(image)?;
    find_in(&elf)
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
    let text = elf.text()?;
    let flows = entries.map(|entry| entry.map(|entry| Flow::from(&text, entry)));
    let tables = tables(elf, &text, &flows);
    let mut python =
        Python { hooks: Vec::new(), left_out: Vec::new(), tables, debug: Vec::new(), notes: Vec::new() };
    python.add_public(&text, &entries, &flows);
    python.add_inlined(&text, &flows);
    if let Some(flow) = &flows[SETUP_DEBUG_HOOKS] {
        python.debug = mentioned(&text, flow);
    }
    python.hooks.sort_by_key(|hook| hook.address + hook.site.offset);
    Ok(Some(python))
}

impl Python {
    fn add_public(
        &mut self,
        text: &Text<'_>,
        entries: &[Option<u64>; NAMES.len()],
        flows: &[Option<Flow>; NAMES.len()],
    ) {
        for (domain, index, function) in slots() {
            let (name, number) = (NAMES[index], function.arguments());
            let mut leave_out = |reason| self.left_out.push(PythonLeftOut { name, reason });
            let (Some(entry), Some(flow)) = (entries[index], &flows[index]) else {
                leave_out(LeftOutReason::Missing);
                continue;
            };
            // The linker may fold functions with the same code into one (`--icf`).
            if let Some(other) = (0..index).find(|&other| entries[other] == Some(entry)) {
                self.notes.push(format!("{name} is the same code as {}, and counted there", NAMES[other]));
                continue;
            }
            match choose_in(text, flow, entry, number, false) {
                Ok(site) => self.hooks.push(PythonHook {
                    domain,
                    function,
                    name,
                    address: entry,
                    inlined: false,
                    site,
                    arguments: ARGUMENTS.iter().take(number).map(|&register| Argument::Register(register)).collect(),
                }),
                Err(error) => leave_out(LeftOutReason::NoSite(error)),
            }
        }
    }

    /// Adds the places where the compiler has put copies of the public functions.
    fn add_inlined(&mut self, text: &Text<'_>, flows: &[Option<Flow>; NAMES.len()]) {
        let mut wanted = BTreeMap::new();
        for (domain, index, function) in slots() {
            match self.tables.iter().find(|table| table.domain == domain) {
                Some(table) => _ = wanted.insert(pointer_address(table, function), (domain, index, function)),
                None if function == AllocFunction::Malloc => self.notes.push(format!(
                    "the table of the {} domain was not found: calls from where the compiler has put a copy of its \
                     functions are not counted",
                    domain.name()
                )),
                None => (),
            }
        }
        let addresses: Vec<u64> = wanted.keys().copied().collect();
        let loads = proven(text, text.possible_uses(&addresses));
        let mut walker = Walker::new(text);
        let mut found: BTreeMap<u64, (Dispatch, usize, Domain, AllocFunction)> = BTreeMap::new();
        let mut lost = 0;
        for (load, address) in loads {
            let Some(&(domain, index, function)) = wanted.get(&address) else { continue };
            // What the public function itself does is counted at its entry.
            if flows[index].as_ref().is_some_and(|flow| flow.instructions.contains(&load)) {
                continue;
            }
            let dispatches = walker.follow(load);
            lost += usize::from(!dispatches.complete);
            for dispatch in dispatches.found {
                found.entry(dispatch.at).or_insert((dispatch, index, domain, function));
            }
        }
        let (mut blind, mut many) = (0, 0);
        for (dispatch, index, domain, function) in found.into_values() {
            let Some(site) = site_at(text, dispatch.at, NAMES[index]) else { continue };
            if self.hooks.len() == MAX_HOOKS {
                many += 1;
                continue;
            }
            let arguments = dispatch.arguments.iter().take(function.arguments()).copied().collect::<Vec<_>>();
            blind += usize::from(arguments.contains(&Argument::Unknown));
            self.hooks.push(PythonHook {
                domain,
                function,
                name: NAMES[index],
                address: dispatch.at - site.offset,
                inlined: true,
                site,
                arguments,
            });
        }
        let mut note = |count: usize, what: &str| {
            if count > 0 {
                self.notes.push(format!("{} {what}", super::callers::places(count)));
            }
        };
        note(lost, "that read an allocator's address could not be followed: calls from there may be missing");
        note(many, "more than are hooked: calls from there are missing");
        note(blind, "where a function was copied to have an argument in memory: calls are counted, its value is not known");
    }

    /// Which allocator a domain has in a running process: `malloc` is what [`table_pointers`] leads to, moved back by
    /// the distance between addresses in memory and in the file.
    pub fn current(&self, domain: Domain, malloc: u64) -> Current {
        let usual = |domain| {
            let table = self.tables.iter().find(|table: &&Table| table.domain == domain)?;
            table.initial[0].filter(|&pointer| pointer != 0)
        };
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

/// The allocator behind a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Current {
    /// The C library's (`PYTHONMALLOC=malloc`, and usually the raw domain).
    System,
    /// pymalloc, or whatever else the file puts into its tables.
    Pymalloc,
    /// The debug hooks, around one of the others (`PYTHONMALLOC=debug`, `-X dev`).
    DebugHooks,
    /// Something else: tracemalloc, or an allocator that the program has set.
    Other,
}

impl Current {
    /// What that means for the counts, in words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::System => "the C library's allocator: every block is also counted there",
            Self::Pymalloc => "pymalloc: blocks of up to 512 bytes lie in arenas, larger ones are also counted in raw",
            Self::DebugHooks => "debug hooks around an allocator: calls are counted as the program makes them",
            Self::Other => "tracemalloc or the program's own: calls are counted as the program makes them",
        }
    }
}

/// Where each function's pointer lies in memory (virtual address in the file), to be read from the process.
pub fn table_pointers(python: &Python) -> Vec<(Domain, AllocFunction, u64)> {
    let tables = python.tables.iter();
    tables.flat_map(|table| FUNCTIONS.map(|function| (table.domain, function, pointer_address(table, function)))).collect()
}

/// Domain, index of the name, and function of everything that has a pointer.
fn slots() -> impl Iterator<Item = (Domain, usize, AllocFunction)> {
    Domain::ALL.into_iter().flat_map(|domain| {
        FUNCTIONS.into_iter().enumerate().map(move |(index, function)| (domain, 4 * domain as usize + index, function))
    })
}

fn pointer_address(table: &Table, function: AllocFunction) -> u64 {
    let index = FUNCTIONS.iter().position(|&other| other == function).unwrap_or(0);
    table.address.wrapping_add(8 + 8 * index as u64)
}

/// Finds the tables by what the public functions read: each its own member of the same table.
fn tables(elf: &Elf<'_>, text: &Text<'_>, flows: &[Option<Flow>; NAMES.len()]) -> Vec<Table> {
    let variables: HashMap<u64, u64> = elf.variable_slots().into_iter().collect();
    let mut tables: Vec<Table> = Vec::new();
    // pymalloc's functions, which may be copied into the public ones, use the raw table: it comes first.
    for domain in Domain::ALL {
        let mut common: Option<Vec<u64>> = None;
        for (index, flow) in flows[4 * domain as usize..][..4].iter().enumerate() {
            let Some(flow) = flow else { continue };
            let back = 8 + 8 * index as u64;
            let mut bases: Vec<u64> = reads(text, flow, &variables).iter().map(|at| at.wrapping_sub(back)).collect();
            bases.retain(|base| common.as_ref().is_none_or(|common| common.contains(base)));
            common = Some(bases);
        }
        let mut bases = common.unwrap_or_default();
        bases.retain(|base| tables.iter().all(|table| table.address != *base));
        bases.sort_unstable();
        bases.dedup();
        if let [address] = bases[..] {
            let initial = [8, 16, 24, 32].map(|offset| elf.pointer_at(address.wrapping_add(offset)));
            tables.push(Table { domain, address, initial });
        }
    }
    tables
}

/// Addresses that a flow reads: directly, or inside a variable whose address it takes from a slot (CPython 3.12 has the
/// tables in `_PyRuntime`). Instructions are taken in their order in memory, which is good enough for candidates.
fn reads(text: &Text<'_>, flow: &Flow, variables: &HashMap<u64, u64>) -> Vec<u64> {
    let mut addresses: Vec<u64> = flow.instructions.iter().copied().collect();
    addresses.sort_unstable();
    let mut found = Vec::new();
    let mut known: HashMap<Register, u64> = HashMap::new();
    for instruction in addresses.into_iter().filter_map(|at| text.decode(at)) {
        let memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        let mut loaded = None;
        if memory && instruction.is_ip_rel_memory_operand() {
            let address = instruction.ip_rel_memory_address();
            found.push(address);
            loaded = variables.get(&address).copied();
        } else if memory
            && instruction.memory_index() == Register::None
            && let Some(base) = known.get(&instruction.memory_base())
        {
            found.push(base.wrapping_add(instruction.memory_displacement64()));
        }
        if instruction.op0_kind() == OpKind::Register {
            known.remove(&instruction.op0_register());
            if let (Some(variable), Mnemonic::Mov) = (loaded, instruction.mnemonic()) {
                known.insert(instruction.op0_register(), variable);
            }
        }
    }
    found
}

/// Addresses that a flow, and what it calls, puts into a register or compares with.
fn mentioned(text: &Text<'_>, flow: &Flow) -> Vec<u64> {
    let called: Vec<Flow> =
        flow.branches.iter().filter(|branch| branch.call).map(|branch| Flow::from(text, branch.target)).take(8).collect();
    let instructions = called.iter().chain([flow]).flat_map(|flow| &flow.instructions);
    let constant = |instruction: Instruction| match instruction.mnemonic() {
        Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => Some(instruction.ip_rel_memory_address()),
        Mnemonic::Mov | Mnemonic::Cmp => {
            let immediate = matches!(instruction.op1_kind(), OpKind::Immediate32 | OpKind::Immediate32to64);
            immediate.then(|| instruction.immediate(1))
        }
        _ => None,
    };
    let mut addresses: Vec<u64> =
        instructions.filter_map(|&at| constant(text.decode(at)?)).filter(|&at| text.is_start(at)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Of places that look like instructions, those that are: disassembling their function from its start comes past them.
fn proven(text: &Text<'_>, mut places: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    places.sort_unstable();
    let (mut at, mut function) = (0, None);
    places.retain(|&(place, _)| {
        let start = text.start_before(place);
        if start != function {
            function = start;
            at = start.unwrap_or(place.saturating_add(1));
        }
        while at < place {
            let near = start.is_some_and(|start| place - start <= MAX_FUNCTION);
            match text.decode(at).filter(|_| near) {
                Some(instruction) => at = instruction.next_ip(),
                None => at = u64::MAX,
            }
        }
        at == place
    });
    places
}

/// The site for a decision between copied code and a call.
fn site_at(text: &Text<'_>, at: u64, name: &str) -> Option<Site> {
    let instruction = text.decode(at)?;
    let bytes = text.bytes_at(at)?.get(..instruction.len())?;
    let emulated = is_emulated(bytes);
    let reason = match emulated {
        true => format!("a copy of {name}: the jump that decides whether its code or a call through the table follows"),
        false => format!("a copy of {name}: the call through the table, single-stepped by the kernel"),
    };
    Some(Site {
        offset: at - text.start_before(at)?,
        file_offset: text.file_offset_of(at)?,
        instruction: disassemble(&instruction),
        kind: if emulated { SiteKind::Emulated } else { SiteKind::SingleStepped },
        reason,
    })
}
