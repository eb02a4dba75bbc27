//! The functions of glibc's allocator: which are probed, where, and what their counts mean.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use profiler_common::alloc::{
    AllocFunction, AllocOp, BAD_ALIGNMENT_FAILS, NULL_COUNTED_ELSEWHERE, POINTER_ALIGNMENT, Register,
    SMALL_ALIGNMENT_COUNTED_ELSEWHERE, ZERO_COUNTED_ELSEWHERE,
};

use super::callers::{Callers, Flows, Own, places};
use super::elf::{Elf, Export};
use super::flow::Flow;
use super::names::{Meaning, meaning};
use super::sampling::{Chosen, choose_sampled};
use super::text::Text;
use super::{Allocator, Hook, Layer, LeftOut, LeftOutReason};

/// The functions of the C interface, by number.
pub(super) const C_FUNCTIONS: [AllocFunction; 10] = [
    AllocFunction::Malloc,
    AllocFunction::Calloc,
    AllocFunction::Realloc,
    AllocFunction::Reallocarray,
    AllocFunction::PosixMemalign,
    AllocFunction::AlignedAlloc,
    AllocFunction::Memalign,
    AllocFunction::Valloc,
    AllocFunction::Pvalloc,
    AllocFunction::Free,
];

/// Names that the analysis looks for in `.dynsym`. The first ten are those of [`C_FUNCTIONS`], by number.
pub(super) const NAMES: [&str; 12] = {
    let mut names = [""; 12];
    let mut index = 0;
    while index < C_FUNCTIONS.len() {
        names[index] = C_FUNCTIONS[index].name();
        index += 1;
    }
    // An old name of `free`, kept for old binaries since glibc 2.26.
    names[10] = "cfree";
    names[11] = "gnu_get_libc_version";
    names
};
const CFREE: usize = 10;
const GLIBC_ONLY: usize = 11;

/// What a function's call does, and where the arguments that matter are passed.
pub(super) fn recipe(function: AllocFunction) -> (AllocOp, [Register; 3]) {
    match meaning(function.name()) {
        Some(Meaning::Role(_, role)) => (role.op, role.registers()),
        _ => (AllocOp::Allocate, [Register::Rdi, Register::Rsi, Register::Rdx]),
    }
}

/// Whether the file is glibc's `libc.so.6`.
pub(super) fn is_libc(elf: &Elf<'_>, exports: &[Export]) -> bool {
    let defines = |name| exports.iter().any(|export| export.name == name);
    let allocates = defines(AllocFunction::Malloc as usize) && defines(AllocFunction::Free as usize);
    // The first version that glibc has had on x86-64, and the one of its internal interfaces.
    let versions = || elf.defines_version("GLIBC_2.2.5") || elf.defines_version("GLIBC_PRIVATE");
    allocates && (defines(GLIBC_ONLY) || (elf.soname.as_deref() == Some("libc.so.6") && versions()))
}

/// The hooks for glibc (`malloc/malloc.c`).
///
/// `slots`: the slots of the global offset table with the function each leads to; `own`: which calls are the allocator's.
pub(super) fn hooks<'t, 'a>(
    text: &'t Text<'a>,
    flows: &mut Flows<'t, 'a>,
    exports: &[Export],
    slots: Vec<(u64, u64)>,
    own: Own,
) -> (Vec<Hook>, Vec<LeftOut>) {
    let mut left_out = Vec::new();
    const LAYER: Layer = Layer::Allocator(Allocator::Glibc);
    let mut leave_out = |function: AllocFunction, reason| {
        left_out.push((function, LeftOut { layer: LAYER, name: function.name().to_owned(), reason }));
    };

    // One entry per address: the first name in the order of the functions stands for all.
    let mut entries: Vec<(AllocFunction, u64)> = Vec::new();
    for function in C_FUNCTIONS {
        let Some(address) = address_of(exports, function as usize) else {
            leave_out(function, LeftOutReason::Missing);
            continue;
        };
        match entries.iter().find(|&&(_, other)| other == address) {
            Some(&(other, _)) => leave_out(function, LeftOutReason::SameAddressAs(other)),
            None => entries.push((function, address)),
        }
    }
    let addresses: HashMap<AllocFunction, u64> = entries.iter().copied().collect();

    // reallocarray multiplies and hands on to realloc (malloc/reallocarray.c): by a jump in every build that was seen,
    // but a call comes to the same, as long as that call isn't taken for the allocator's own (see `Callers`).
    let mut callers = Callers::new(
        text,
        slots,
        exports.iter().map(|export| export.address).collect(),
        entries.iter().map(|&(_, address)| address).collect(),
        own,
    );
    if let (Some(&array), Some(&realloc)) =
        (addresses.get(&AllocFunction::Reallocarray), addresses.get(&AllocFunction::Realloc))
        && callers.passes_on(&flows.from(array), realloc)
    {
        leave_out(AllocFunction::Reallocarray, LeftOutReason::WrapperOf(AllocFunction::Realloc));
        callers.add_wrapper(array, flows.from(array));
    }
    entries.retain(|&(_, address)| !callers.is_wrapper(address));
    let small = SmallAlignments::find(&mut callers, flows, &entries);

    let mut hooks = Vec::new();
    for &(function, address) in &entries {
        let flow = flows.from(address);
        let (op, mut registers) = recipe(function);
        let names = names_at(exports, address);
        let chosen = choose_sampled(text, &flow, address, (function, op, &names), &mut registers);
        let Chosen { site, flags: of_site, not_sampled } = match chosen {
            Ok(chosen) => chosen,
            Err(error) => {
                leave_out(function, LeftOutReason::NoSite(error));
                continue;
            }
        };
        let mut notes = Vec::new();
        if !flow.complete {
            notes.push("the function is too long to be followed to its ends".to_string());
        }
        let runs_on_into = |other: AllocFunction| {
            addresses.get(&other).is_some_and(|&to| to != address && flow.jumps_to(to))
        };
        let flags = of_site | flags(function, &addresses, &small, runs_on_into);
        for &(other, _) in entries.iter().filter(|&&(other, _)| other != function && runs_on_into(other)) {
            if !is_expected(function, other) {
                notes.push(format!("some calls run on into {} and are counted at both", other.name()));
            }
        }
        for export in
            exports.iter().filter(|export| export.name == function as usize && export.address != address)
        {
            notes.push(format!("another version of it, at {:#x}, is not counted", export.address));
        }
        let calls = own_calls(&callers, flows, (function, address), &small, &mut notes);
        let into: Vec<_> = entries.iter().filter(|&&(other, _)| runs_on_into(other)).collect();
        let known = |call: &&u64| small.knows(function, **call);
        let blind = if into.is_empty() { 0 } else { calls.iter().filter(|call| !known(call)).count() };
        if blind > 0 && !is_page_aligned(function) {
            let into: Vec<_> = into.iter().map(|(other, _)| other.name()).collect();
            notes.push(format!(
                "{} in the library call it directly: where such a call runs on into {}, it is counted there, although \
                 the allocator makes it",
                places(blind),
                into.join(" or ")
            ));
        }
        let into_malloc = function == AllocFunction::Malloc;
        callers.note_tail_calls(
            flows,
            address,
            |call| into_malloc && small.knows_tail_call(call),
            &mut notes,
        );
        let mut calls = calls;
        calls.extend(callers.jumps_back(&flow, address));
        calls.sort_unstable();
        calls.dedup();
        let internal_calls = callers.internal_calls(flows, &calls, &mut notes);
        hooks.push(Hook {
            layer: LAYER,
            function,
            op,
            registers,
            entry_registers: recipe(function).1,
            names,
            address,
            site,
            flags,
            internal_calls,
            notes,
            not_sampled,
        });
    }
    left_out.sort_by_key(|&(function, _)| function);
    (hooks, left_out.into_iter().map(|(_, left)| left).collect())
}

/// The default version's address; failing that, any version's.
fn address_of(exports: &[Export], name: usize) -> Option<u64> {
    let mut versions = exports.iter().filter(|export| export.name == name);
    let any = versions.clone().next();
    versions.find(|export| export.default).or(any).map(|export| export.address)
}

fn names_at(exports: &[Export], address: u64) -> Vec<String> {
    let here = |name: &usize| exports.iter().any(|export| export.name == *name && export.address == address);
    (0..=CFREE).filter(here).map(|name| NAMES[name].to_string()).collect()
}

/// What the counts at a function's hook leave to another's.
fn flags(
    function: AllocFunction,
    addresses: &HashMap<AllocFunction, u64>,
    small: &SmallAlignments,
    runs_on_into: impl Fn(AllocFunction) -> bool,
) -> u32 {
    let mut flags = 0;
    let mut set = |flag: u32, condition: bool| flags |= if condition { flag } else { 0 };
    match function {
        // __libc_realloc: `realloc(NULL, n)` is `malloc(n)`, `realloc(p, 0)` is `free(p)`. Where the compiler made a call
        // of it, that is an internal one, and taken away again; where it made a jump, the callee's hook counts it.
        AllocFunction::Realloc => {
            set(NULL_COUNTED_ELSEWHERE, runs_on_into(AllocFunction::Malloc));
            set(ZERO_COUNTED_ELSEWHERE, runs_on_into(AllocFunction::Free));
        }
        AllocFunction::AlignedAlloc | AllocFunction::Memalign => {
            set(SMALL_ALIGNMENT_COUNTED_ELSEWHERE, small.relayed_by(function));
            // Up to glibc 2.37 aligned_alloc is another name of memalign, which rounds up. Since 2.38 it is a function
            // of its own and refuses what is no power of two. (Where the two share an address, memalign has no entry.)
            let own = addresses.contains_key(&AllocFunction::Memalign);
            set(BAD_ALIGNMENT_FAILS, function == AllocFunction::AlignedAlloc && own);
        }
        // EINVAL for what is no power of two or no multiple of a pointer's size.
        AllocFunction::PosixMemalign => {
            set(SMALL_ALIGNMENT_COUNTED_ELSEWHERE, small.relayed_by(function));
            set(BAD_ALIGNMENT_FAILS | POINTER_ALIGNMENT, true);
        }
        _ => (),
    }
    flags
}

/// Jumps from one hooked function into another that the flags describe, or that are never taken: valloc and pvalloc go
/// through _mid_memalign with the page size, which is no small alignment.
fn is_expected(from: AllocFunction, to: AllocFunction) -> bool {
    use AllocFunction::{AlignedAlloc, Free, Malloc, Memalign, Pvalloc, Realloc, Valloc};
    matches!((from, to), (Realloc, Malloc | Free) | (AlignedAlloc | Memalign | Valloc | Pvalloc, Malloc))
}

/// Functions that ask for whole pages' alignment, which is never a small one.
fn is_page_aligned(function: AllocFunction) -> bool {
    matches!(function, AllocFunction::Valloc | AllocFunction::Pvalloc)
}

/// The direct calls of a function that are the allocator's own.
fn own_calls(
    callers: &Callers<'_, '_>,
    flows: &mut Flows<'_, '_>,
    (function, address): (AllocFunction, u64),
    small: &SmallAlignments,
    notes: &mut Vec<String>,
) -> Vec<u64> {
    let mut calls = callers.direct_calls(flows, address);
    if function == AllocFunction::Malloc {
        let all = calls.len();
        calls.retain(|&call| !small.relays(call));
        if calls.len() < all {
            notes.push(format!(
                "functions that leave small alignments to it by a jump call it directly as well, in {}: taken for small \
                 alignments, too",
                places(all - calls.len())
            ));
        }
    }
    calls
}

/// Which functions leave small alignments to malloc, so that its hook counts them.
///
/// All of them go through a local function (`_mid_memalign`) that begins with `if (alignment <= MALLOC_ALIGNMENT) return
/// __libc_malloc (bytes);`. Where the compiler made a jump of that, malloc's hook counts the call, and no probe can take
/// it away again, whether the public function jumps to the local one (memalign) or calls it (posix_memalign). Where it
/// made a call, that is one of malloc's internal calls, and the public function counts for itself.
#[derive(Default)]
struct SmallAlignments {
    relaying: Vec<(AllocFunction, Rc<Flow>)>,
    /// Flows of the local functions that they call.
    locals: Vec<Rc<Flow>>,
    /// Flows of the functions whose alignment is never small.
    pages: Vec<Rc<Flow>>,
    /// What is malloc's own: everything that jumps there has it in its flow, too.
    malloc: Rc<Flow>,
}

impl SmallAlignments {
    fn find(
        callers: &mut Callers<'_, '_>,
        flows: &mut Flows<'_, '_>,
        entries: &[(AllocFunction, u64)],
    ) -> Self {
        let Some(&(_, malloc)) = entries.iter().find(|(function, _)| *function == AllocFunction::Malloc)
        else {
            return Self::default();
        };
        let tail = callers.tail_callers(flows, malloc);
        let local = |address: &&u64| !callers.is_hooked(**address) && !callers.is_wrapper(**address);
        let mut relays: HashSet<u64> = tail.addresses.iter().filter(local).copied().collect();
        let mut small = Self { malloc: flows.from(malloc), ..Self::default() };
        // Those that may call one of the others come last.
        let family = [AllocFunction::Memalign, AllocFunction::AlignedAlloc, AllocFunction::PosixMemalign];
        let mut locals = HashSet::new();
        for function in family {
            let Some(&(_, address)) = entries.iter().find(|(other, _)| *other == function) else { continue };
            let flow = flows.from(address);
            let jumps = function != AllocFunction::PosixMemalign && flow.jumps_to(malloc);
            let calls = flow.branches.iter().filter(|branch| {
                branch.call
                    && relays.contains(&branch.target)
                    && !small.malloc.instructions.contains(&branch.source)
            });
            let called: Vec<u64> = calls.map(|branch| branch.target).collect();
            if jumps || !called.is_empty() {
                locals.extend(called);
                relays.insert(address);
                small.relaying.push((function, flow));
            }
        }
        small.locals = locals.into_iter().map(|address| flows.from(address)).collect();
        let pages = entries.iter().filter(|(function, _)| is_page_aligned(*function));
        small.pages = pages.map(|&(_, address)| flows.from(address)).collect();
        small
    }

    /// Whether malloc's hook counts the function's small alignments.
    fn relayed_by(&self, function: AllocFunction) -> bool {
        self.relaying.iter().any(|(other, _)| *other == function)
    }

    /// Whether an instruction belongs to one of the flows, and not to malloc.
    fn within<'a>(&self, mut flows: impl Iterator<Item = &'a Rc<Flow>>, at: u64) -> bool {
        flows.any(|flow| flow.instructions.contains(&at)) && !self.malloc.instructions.contains(&at)
    }

    /// Whether a direct call of malloc is made by code that also jumps there with small alignments. In glibc's sources that
    /// code calls malloc for nothing else, so that the compiler must have made both of the same call.
    fn relays(&self, call: u64) -> bool {
        self.within(self.relaying.iter().map(|(_, flow)| flow).chain(&self.locals), call)
    }

    /// Whether a call of a function that jumps to malloc is made by one that leaves small alignments to malloc, or that
    /// has none.
    fn knows_tail_call(&self, call: u64) -> bool {
        self.within(self.relaying.iter().map(|(_, flow)| flow).chain(&self.pages), call)
    }

    /// The same for a call of a public function of this kind.
    fn knows(&self, function: AllocFunction, call: u64) -> bool {
        self.relayed_by(function) && self.knows_tail_call(call)
    }
}
