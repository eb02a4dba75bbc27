//! Which functions of a file are hooked, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use profiler_common::alloc::{
    AllocFunction, AllocOp, BAD_ALIGNMENT_FAILS, NULL_FAILS, POINTER_ALIGNMENT, ZERO_RESIZES,
};

use super::callers::{Callers, Flows, Own};
use super::candidates::{Candidate, Candidates, File, functions};
use super::elf::{Elf, Export};
use super::forwards::Forwards;
use super::goals::{Goal, Goals};
use super::layers::{ALL_INSTRUCTIONS, Ground, ground};
use super::names::{Kind, Meaning, meaning};
use super::sampling::{Chosen, choose_sampled};
use super::text::Text;
use super::wrappers::{Ways, takes_itself, ways};
use super::{
    Allocator, BinaryError, Class, Function, Hook, LeftOut, LeftOutReason, LoaderHook, glibc, marks,
    transfers,
};

/// The largest code of a library that is nothing but an allocator: jemalloc's and tcmalloc's have less than 1 MB.
const MAX_PURE: u64 = 4 << 20;
/// The largest object file of an allocator: jemalloc's, all in one, has about 300 KB.
const MAX_OBJECT: u64 = 1 << 20;
/// What the last function of an allocator's object file has at most, where its size isn't known.
const LAST_FUNCTION: u64 = 4 << 10;
/// Functions that are looked at in one file.
const MAX_CANDIDATES: usize = 512;

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub hooks: Vec<Hook>,
    pub left_out: Vec<LeftOut>,
    pub loader: Option<LoaderHook>,
}

/// Finds the allocators in a file, and where to hook them.
pub(super) fn find(elf: &Elf<'_>) -> Result<Found, BinaryError> {
    if elf.class != Class::Elf64X86_64 {
        return Ok(Found::default());
    }
    let functions = functions(elf);
    let exports = elf.exports(&glibc::NAMES);
    let libc = glibc::is_libc(elf, &exports);
    let is_static = elf.is_static();
    let is_program = is_static || elf.interpreter().is_some();
    let file = File { soname: elf.soname.as_deref(), is_libc: libc, is_static, is_program };
    let mut candidates = Candidates::find(&functions, file);
    let loader = functions.iter().find(|function| function.name == "_dl_debug_state");
    if candidates.all.is_empty() && loader.is_none() {
        return Ok(Found::default());
    }
    let mut places: Vec<u64> = candidates.all.keys().copied().take(MAX_CANDIDATES).collect();
    places.extend(loader.map(|function| function.address));
    let text = elf.text(&places)?;
    let mut flows = Flows::new(&text);
    let mut found =
        Found { loader: loader.and_then(|function| loader_hook(&text, function)), ..Found::default() };
    let imports = elf.imports();
    let goals = Goals::new(&text, &elf.slots(), &imports);
    if let Some(malloc) = candidates.unknown_malloc() {
        let others = |address| candidates.all.contains_key(&address);
        if let Some(allocator) = marks::allocator(elf, &text, &mut flows, &goals, malloc, &others) {
            candidates.reveal(allocator);
        }
    }
    let mut rest: Vec<&Candidate> = candidates.all.values().take(MAX_CANDIDATES).collect();
    if candidates.plain == Some(Allocator::Glibc) {
        text.index()?;
        let (exports, own) = if libc {
            (exports, Own::Direct)
        } else {
            (named(&functions), Own::Within(object_of(&candidates, Allocator::Glibc, "")))
        };
        (found.hooks, found.left_out) = glibc::hooks(&text, &mut flows, &exports, elf.slots(), own);
        rest.retain(|candidate| candidate.allocator != Allocator::Glibc || candidate.operator);
    }
    // Whoever stands before another malloc and passes on to it has asked for its address (`RTLD_NEXT` in dlsym(3)).
    let asks = imports.iter().any(|(_, name)| [b"dlsym".as_slice(), b"dlvsym"].contains(name));
    let mut analysis = Analysis { elf, text: &text, goals: &goals, candidates: &candidates, asks, found };
    analysis.hook(&mut flows, &rest)?;
    Ok(analysis.found)
}

/// The functions with the names that glibc's analysis goes by.
fn named(functions: &[Function]) -> Vec<Export> {
    let export = |function: &Function| {
        let name = glibc::NAMES.iter().position(|name| *name == function.name)?;
        Some(Export { name, address: function.address, default: function.default_version })
    };
    functions.iter().filter_map(export).collect()
}

fn loader_hook(text: &Text<'_>, function: &Function) -> Option<LoaderHook> {
    let (site, _) = super::site::choose(text, function.address, 0).ok()?;
    Some(LoaderHook { address: function.address, site })
}

/// From the first to the last of an allocator's public functions: they all stand in one object file, and linkers lay
/// object files out one behind the other.
fn object_of(candidates: &Candidates, allocator: Allocator, prefix: &str) -> Range<u64> {
    let members = || {
        let own = |candidate: &&Candidate| {
            candidate.allocator == allocator && candidate.prefix == prefix && !candidate.operator
        };
        // gperftools' functions have a section of their own, all but this one.
        let elsewhere =
            |candidate: &&Candidate| candidate.names.iter().any(|name| name == "tc_malloc_skip_new_handler");
        let own = candidates.all.values().filter(own).filter(move |candidate| !elsewhere(candidate));
        own.filter(move |candidate| match candidate.role.function {
            AllocFunction::Malloc | AllocFunction::Free | AllocFunction::Realloc => true,
            // An object file of its own in glibc (malloc/reallocarray.c).
            AllocFunction::Reallocarray => false,
            // The like for all others in musl (src/malloc, src/legacy).
            _ => allocator != Allocator::Musl,
        })
    };
    let (Some(first), Some(last)) = (members().next(), members().next_back()) else { return 0..0 };
    let end = last.address.saturating_add(if last.size > 0 { last.size } else { LAST_FUNCTION });
    let range = first.address..end;
    if end - first.address > MAX_OBJECT { 0..0 } else { range }
}

struct Analysis<'e, 't, 'a> {
    elf: &'e Elf<'a>,
    text: &'t Text<'a>,
    goals: &'e Goals<'t, 'a>,
    candidates: &'e Candidates,
    /// Whether the file may look for functions of other objects by name.
    asks: bool,
    found: Found,
}

impl<'t, 'a> Analysis<'_, 't, 'a> {
    /// Hooks those of the `rest` that are no wrappers.
    fn hook(&mut self, flows: &mut Flows<'t, 'a>, rest: &[&Candidate]) -> Result<(), BinaryError> {
        let mut all: BTreeMap<u64, Ways<'a>> =
            rest.iter().map(|candidate| (candidate.address, self.ways_of(candidate, false))).collect();
        break_circles(&mut all);
        let (wrappers, others): (Vec<&Candidate>, Vec<&Candidate>) =
            rest.iter().partition(|candidate| all[&candidate.address].is_wrapper());
        for wrapper in &wrappers {
            let goal = all[&wrapper.address].passes_on_to.first().copied();
            let reason = LeftOutReason::WrapperOf(self.function_at(goal).unwrap_or(wrapper.role.function));
            self.leave_out(wrapper, reason);
        }
        // All of a group or none: blocks that are counted when they are freed only would never add up.
        let mut unsure: BTreeMap<&str, LeftOutReason> = BTreeMap::new();
        let mut budget = ALL_INSTRUCTIONS;
        for candidate in rest.iter().filter(|candidate| self.is_doubtful(candidate)) {
            if let Some(reason) = self.stands_on(flows, candidate, &mut budget) {
                unsure.entry(&candidate.prefix).or_insert(reason);
            }
        }
        unsure.extend(self.forwards(rest, &all).map(|reason| ("", reason)));
        let mut hooked = Vec::new();
        for candidate in others {
            match unsure.get(candidate.prefix.as_str()).filter(|_| self.is_doubtful(candidate)) {
                Some(reason) => self.leave_out(candidate, reason.clone()),
                None => hooked.push(candidate),
            }
        }
        if hooked.is_empty() {
            return Ok(());
        }
        self.text.index()?;
        let exports = rest.iter().map(|candidate| candidate.address).collect();
        let entries = hooked.iter().map(|candidate| candidate.address).collect();
        let mut callers = Callers::new(self.text, self.elf.slots(), exports, entries, Own::Everything);
        let mut behind: BTreeMap<u64, Vec<&Candidate>> = BTreeMap::new();
        for wrapper in &wrappers {
            callers.add_wrapper(wrapper.address, flows.from(wrapper.address));
            if let Some(inner) = inner(&all, wrapper.address) {
                behind.entry(inner).or_default().push(wrapper);
            }
        }
        for &(client, _) in &self.candidates.clients {
            callers.add_wrapper(client, flows.from(client));
        }
        hooked.sort_by_key(|candidate| (candidate.allocator, &candidate.prefix));
        let mut group = None;
        for candidate in hooked {
            if group != Some((candidate.allocator, &candidate.prefix)) {
                group = Some((candidate.allocator, &candidate.prefix));
                callers.set_own(self.own(candidate.allocator, &candidate.prefix));
            }
            let wrappers = behind.get(&candidate.address).map_or(&[][..], Vec::as_slice);
            self.place(flows, &callers, candidate, wrappers);
        }
        for (address, name) in &self.candidates.clients {
            let asks = |goal| self.candidates.all.contains_key(&goal) || self.candidates.is_client(goal);
            if takes_itself(self.text, self.goals, *address, &asks) {
                let layer = super::Layer::Allocator(Allocator::Mimalloc);
                self.found.left_out.push(LeftOut {
                    layer,
                    name: name.clone(),
                    reason: LeftOutReason::Client,
                });
            }
        }
        Ok(())
    }

    fn place(
        &mut self,
        flows: &mut Flows<'t, 'a>,
        callers: &Callers<'t, 'a>,
        candidate: &Candidate,
        wrappers: &[&Candidate],
    ) {
        let flow = flows.from(candidate.address);
        let op = candidate.role.op;
        let mut registers = candidate.registers();
        let meaning = (candidate.role.function, op, candidate.names.as_slice());
        let chosen = choose_sampled(self.text, &flow, candidate.address, meaning, &mut registers);
        let Chosen { site, flags: of_site, not_sampled } = match chosen {
            Ok(chosen) => chosen,
            Err(error) => return self.leave_out(candidate, LeftOutReason::NoSite(error)),
        };
        let mut notes: Vec<String> = unknown(candidate).map(str::to_owned).into_iter().collect();
        if !flow.complete {
            notes.push("the function is too long to be followed to its ends".to_string());
        }
        let internal_calls = transfers::internal(self.text, callers, flows, candidate, wrappers, &mut notes);
        self.found.hooks.push(Hook {
            layer: candidate.layer(),
            function: candidate.role.function,
            op,
            registers,
            entry_registers: candidate.registers(),
            names: candidate.names.clone(),
            address: candidate.address,
            site,
            flags: flags(candidate) | of_site,
            internal_calls,
            notes,
            not_sampled,
        });
    }

    /// Whose calls are an allocator's own.
    fn own(&self, allocator: Allocator, prefix: &str) -> Own {
        let library = self.elf.soname.is_some() && self.elf.interpreter().is_none();
        let object = object_of(self.candidates, allocator, prefix);
        let known = matches!(allocator, Allocator::Jemalloc | Allocator::Tcmalloc | Allocator::Mimalloc);
        match allocator {
            // No unwind tables. mallocng calls itself by hidden names (src/malloc/mallocng/glue.h), the older allocator by
            // the public ones, through the procedure linkage table as well.
            Allocator::Musl => Own::Only(object),
            _ if library && known && self.text.size() <= MAX_PURE => Own::Everything,
            _ => Own::Within(object),
        }
    }

    /// Whether a branch leads to another function of the same kind as the candidate.
    fn is_kin(&self, candidate: &Candidate, goal: Goal<'a>) -> bool {
        match goal {
            Goal::Inside(address) => self
                .candidates
                .all
                .get(&address)
                .is_some_and(|other| address != candidate.address && other.kind() == candidate.kind()),
            Goal::Imported(name) => {
                let meaning = std::str::from_utf8(name).ok().and_then(meaning);
                matches!(meaning, Some(Meaning::Role(_, role)) if role.kind() == candidate.kind())
            }
            Goal::Unknown => false,
        }
    }

    /// Whether a function may be another thing than an allocator's.
    fn is_doubtful(&self, candidate: &Candidate) -> bool {
        candidate.allocator == Allocator::Other
    }

    /// A candidate's ways. `pointers`: what goes through one gets to another function of the kind.
    fn ways_of(&self, candidate: &Candidate, pointers: bool) -> Ways<'a> {
        let kin = |goal| (pointers && goal == Goal::Unknown) || self.is_kin(candidate, goal);
        // posix_memalign returns 0 when it has succeeded.
        let hands_out = (candidate.role.function != AllocFunction::PosixMemalign).then_some(candidate.kind());
        ways(self.text, self.goals, candidate.address, hands_out, &kin)
    }

    /// Why the functions with plain names aren't hooked although not `all` are wrappers: whoever stands before another malloc
    /// would be counted twice.
    fn forwards(&self, rest: &[&Candidate], all: &BTreeMap<u64, Ways<'a>>) -> Option<LeftOutReason> {
        let others = |address| self.candidates.all.contains_key(&address);
        let mut forwards = Forwards::new(self.text, self.goals, &others);
        let plain = || {
            let doubtful = self.asks && self.candidates.plain.is_some();
            let here = rest.iter().filter(move |candidate| doubtful && candidate.prefix.is_empty());
            here.filter(|candidate| self.is_doubtful(candidate))
        };
        // What is given back isn't told from what a callback gets to see.
        let mut allocating = plain().filter(|candidate| candidate.kind() == Kind::Allocating);
        allocating.find(|candidate| forwards.may(candidate.address, candidate.registers()[0]))?;
        let mut whole = plain().map(|candidate| {
            all[&candidate.address].is_wrapper() || self.ways_of(candidate, true).is_wrapper()
        });
        Some(if whole.all(|whole| whole) { LeftOutReason::Forwards } else { LeftOutReason::MayForward })
    }

    /// Why the functions of a candidate's group aren't hooked although not all are wrappers: with a prefix of their own, they
    /// may stand on another allocator.
    fn stands_on(
        &self,
        flows: &mut Flows<'t, 'a>,
        candidate: &Candidate,
        budget: &mut usize,
    ) -> Option<LeftOutReason> {
        if candidate.prefix.is_empty() && self.candidates.plain.is_some() {
            return None;
        }
        let other = |address| {
            let other = self.candidates.all.get(&address).filter(|other| other.prefix != candidate.prefix)?;
            other.names.first().cloned()
        };
        match ground(self.text, flows, self.goals, candidate.address, budget, &other) {
            Ground::Own => None,
            Ground::Allocator(name) => Some(LeftOutReason::StandsOn(name)),
            Ground::Unknown => Some(LeftOutReason::Forwards),
        }
    }

    fn function_at(&self, goal: Option<Goal<'a>>) -> Option<AllocFunction> {
        match goal? {
            Goal::Inside(address) => self.candidates.all.get(&address).map(|other| other.role.function),
            Goal::Imported(name) => match meaning(std::str::from_utf8(name).ok()?)? {
                Meaning::Role(_, role) => Some(role.function),
                _ => None,
            },
            Goal::Unknown => None,
        }
    }

    fn leave_out(&mut self, candidate: &Candidate, reason: LeftOutReason) {
        let name = candidate.names.join(", ");
        self.found.left_out.push(LeftOut { layer: candidate.layer(), name, reason });
    }
}

/// Functions that pass on to each other in a circle would all be left out.
fn break_circles(all: &mut BTreeMap<u64, Ways<'_>>) {
    let addresses: Vec<u64> = all.keys().copied().collect();
    for start in addresses {
        let mut at = start;
        let mut seen = BTreeSet::from([start]);
        while let Some(next) = next_of(all, at) {
            if !seen.insert(next) {
                if let Some(ways) = all.get_mut(&start) {
                    ways.works_itself = true;
                }
                break;
            }
            at = next;
        }
    }
}

/// Where a wrapper passes on to first, if that is in the file.
fn next_of(all: &BTreeMap<u64, Ways<'_>>, wrapper: u64) -> Option<u64> {
    let ways = all.get(&wrapper).filter(|ways| ways.is_wrapper())?;
    match ways.passes_on_to.first()? {
        Goal::Inside(address) => Some(*address),
        _ => None,
    }
}

/// The function in the file that a wrapper gets to in the end.
fn inner(all: &BTreeMap<u64, Ways<'_>>, wrapper: u64) -> Option<u64> {
    let mut at = wrapper;
    for _ in 0..MAX_CANDIDATES {
        match next_of(all, at) {
            Some(next) => at = next,
            None => break,
        }
    }
    (at != wrapper).then_some(at)
}

/// What nobody can tell of a function's calls.
fn unknown(candidate: &Candidate) -> Option<&'static str> {
    match (candidate.role.op, candidate.allocator) {
        (AllocOp::AllocateCopy, _) => {
            Some("how many bytes it asks for is in no register: its blocks are counted without their bytes")
        }
        (AllocOp::Resize | AllocOp::ResizeArray, Allocator::Other) => {
            Some("of an unknown allocator: a block resized to nothing is taken for one that is given back")
        }
        (AllocOp::AllocateAligned, Allocator::Other)
            if candidate.role.function != AllocFunction::PosixMemalign =>
        {
            Some("of an unknown allocator: an alignment that is no power of two is taken for granted")
        }
        _ => None,
    }
}

/// How a function treats what the C standard leaves open. Each was tried with the versions of Debian 12.
fn flags(candidate: &Candidate) -> u32 {
    let mut flags = 0;
    match (candidate.role.op, candidate.allocator) {
        // mimalloc: alloc.c, _mi_heap_realloc_zero ("reallocate to a zero-sized block"); musl 1.2.3 does the same. Against
        // that, these free `p` and return NULL: glibc (malloc.c, REALLOC_ZERO_BYTES_FREES), jemalloc on Linux (configure.ac,
        // zero_realloc_default_free), gperftools 2.10.
        (AllocOp::Resize | AllocOp::ResizeArray, Allocator::Musl | Allocator::Mimalloc) => {
            flags |= ZERO_RESIZES;
        }
        // What is no power of two is refused, by memalign as by aligned_alloc. jemalloc: jemalloc.c, imalloc_body (alignment
        // & (alignment - 1)); mimalloc: alloc-aligned.c ("require power-of-two"); musl 1.2.3 as well, except 0. gperftools
        // 2.10 refuses nothing.
        (
            AllocOp::AllocateAligned,
            Allocator::Jemalloc | Allocator::Musl | Allocator::Mimalloc | Allocator::Glibc,
        ) => flags |= BAD_ALIGNMENT_FAILS,
        _ => (),
    }
    match candidate.role.function {
        // POSIX: EINVAL.
        AllocFunction::PosixMemalign => flags |= BAD_ALIGNMENT_FAILS | POINTER_ALIGNMENT,
        // jemalloc(3): the behaviour is undefined for a null pointer.
        AllocFunction::Rallocx => flags |= NULL_FAILS,
        _ => (),
    }
    flags
}
