//! The functions of a known allocator: which are probed, where, and what their counts mean.

use std::collections::HashMap;

use profiler_common::alloc::{
    AllocFunction, BAD_ALIGNMENT_FAILS, NULL_COUNTED_ELSEWHERE, SMALL_ALIGNMENT_COUNTED_ELSEWHERE,
    ZERO_COUNTED_ELSEWHERE,
};

use super::callers::{Callers, Flows};
use super::elf::{Elf, Export};
use super::site::choose_in;
use super::{Allocator, BinaryError, Class, Hook, LeftOut, LeftOutReason};

/// Names that the analysis looks for in `.dynsym`. The first ten are those of [`AllocFunction::ALL`], by number.
pub(super) const NAMES: [&str; 12] = {
    let mut names = [""; 12];
    let mut index = 0;
    while index < AllocFunction::ALL.len() {
        names[index] = AllocFunction::ALL[index].name();
        index += 1;
    }
    // An old name of `free`, kept for old binaries since glibc 2.26.
    names[10] = "cfree";
    names[11] = "gnu_get_libc_version";
    names
};
const CFREE: usize = 10;
const GLIBC_ONLY: usize = 11;

/// Which allocator the file holds.
pub(super) fn identify(elf: &Elf<'_>, exports: &[Export]) -> Option<Allocator> {
    let defines = |name| exports.iter().any(|export| export.name == name);
    let allocates = defines(AllocFunction::Malloc as usize) && defines(AllocFunction::Free as usize);
    if elf.class != Class::Elf64X86_64 || !allocates {
        return None;
    }
    // The first version that glibc has had on x86-64, and the one of its internal interfaces.
    let versions = || elf.defines_version("GLIBC_2.2.5") || elf.defines_version("GLIBC_PRIVATE");
    let glibc = defines(GLIBC_ONLY) || (elf.soname.as_deref() == Some("libc.so.6") && versions());
    glibc.then_some(Allocator::Glibc)
}

/// The hooks for glibc (`malloc/malloc.c`).
pub(super) fn glibc(elf: &Elf<'_>, exports: &[Export]) -> Result<(Vec<Hook>, Vec<LeftOut>), BinaryError> {
    let text = elf.text()?;
    let mut flows = Flows::new(&text);
    let mut left_out = Vec::new();
    let mut leave_out = |function, reason| left_out.push(LeftOut { function, reason });

    // One entry per address: the first name in the order of the functions stands for all.
    let mut entries: Vec<(AllocFunction, u64)> = Vec::new();
    for function in AllocFunction::ALL {
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
    // but a call comes to the same, as long as realloc's hook takes that caller for the program (see `Callers`).
    let mut callers = Callers::new(&text, elf.slots(), exports.iter().map(|export| export.address).collect());
    if let (Some(&array), Some(&realloc)) =
        (addresses.get(&AllocFunction::Reallocarray), addresses.get(&AllocFunction::Realloc))
        && callers.passes_on(&flows.from(array), realloc)
    {
        leave_out(AllocFunction::Reallocarray, LeftOutReason::WrapperOf(AllocFunction::Realloc));
        callers.add_wrapper(array, flows.from(array));
    }
    entries.retain(|&(_, address)| !callers.is_wrapper(address));

    let mut hooks = Vec::new();
    for &(function, address) in &entries {
        let flow = flows.from(address);
        let site = match choose_in(&text, &flow, address, function.arguments()) {
            Ok(site) => site,
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
        let flags = flags(function, &addresses, runs_on_into);
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
        let internal_callers = callers.internal(&mut flows, address, &entries, &mut notes);
        hooks.push(Hook {
            function,
            names: names_at(exports, address),
            address,
            site,
            flags,
            internal_callers,
            notes,
        });
    }
    left_out.sort_by_key(|left| left.function);
    Ok((hooks, left_out))
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
    runs_on_into: impl Fn(AllocFunction) -> bool,
) -> u32 {
    let mut flags = 0;
    let mut set = |flag: u32, condition: bool| flags |= if condition { flag } else { 0 };
    match function {
        // __libc_realloc: `realloc(NULL, n)` is `malloc(n)`, `realloc(p, 0)` is `free(p)`; only where the compiler made
        // a jump of it does the callee's hook see the program's own return address.
        AllocFunction::Realloc => {
            set(NULL_COUNTED_ELSEWHERE, runs_on_into(AllocFunction::Malloc));
            set(ZERO_COUNTED_ELSEWHERE, runs_on_into(AllocFunction::Free));
        }
        // _mid_memalign: alignments up to MALLOC_ALIGNMENT become `malloc(n)`.
        AllocFunction::AlignedAlloc | AllocFunction::Memalign => {
            set(SMALL_ALIGNMENT_COUNTED_ELSEWHERE, runs_on_into(AllocFunction::Malloc));
            // Up to glibc 2.37 aligned_alloc is another name of memalign, which rounds up. Since 2.38 it is a function
            // of its own and refuses what is no power of two. (Where the two share an address, memalign has no entry.)
            let own = addresses.contains_key(&AllocFunction::Memalign);
            set(BAD_ALIGNMENT_FAILS, function == AllocFunction::AlignedAlloc && own);
        }
        // EINVAL for what is no power of two or no multiple of a pointer's size.
        AllocFunction::PosixMemalign => set(BAD_ALIGNMENT_FAILS, true),
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
