//! Telling the allocator's own calls from the program's.
//!
//! glibc's allocator calls its own public functions: realloc calls malloc and free, posix_memalign gets into malloc, a
//! thread that ends gives its cache back through free (`tcache_thread_shutdown`, which frees what the program has freed
//! long before). All of these are direct branches to the function's hidden alias, while the rest of the library (and
//! that is the program's doing: fopen, getaddrinfo, ...) goes through the procedure linkage table, because malloc may
//! be replaced ("Replacing malloc" in glibc's manual; `scripts/check-localplt` in its sources keeps it so). Hence a
//! direct call is the allocator's own, and the return address tells them apart at run time.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;

use profiler_common::alloc::{AllocFunction, INTERNAL_RANGES};

use super::flow::Flow;
use super::text::{SlotBranch, Text};

/// Instructions that are followed for one file, all functions together.
const MAX_FOLLOWED: usize = 1 << 20;
/// How far from a jump the start of the function is searched that it belongs to.
const MAX_DISTANCE: u64 = 64 << 10;
/// Functions, and parts of such, that may lead into one hooked function by jumps.
const MAX_PIECES: usize = 256;
/// Jumps to one of them that are looked at.
const MAX_SOURCES: usize = 1024;
/// With more direct callers than any glibc has, the rule above probably doesn't hold for this build.
const MANY_CALLERS: usize = 24;
/// Length of a direct call and of a call through a slot.
const CALL: u64 = 5;
const SLOT_CALL: u64 = 6;

/// Flows that have been followed already, under one budget.
pub(super) struct Flows<'t, 'a> {
    text: &'t Text<'a>,
    known: HashMap<u64, Rc<Flow>>,
    followed: usize,
}

impl<'t, 'a> Flows<'t, 'a> {
    pub fn new(text: &'t Text<'a>) -> Self {
        Self { text, known: HashMap::new(), followed: 0 }
    }

    /// The flow from an address. Empty and not complete once the budget is spent.
    pub fn from(&mut self, address: u64) -> Rc<Flow> {
        if let Some(flow) = self.known.get(&address) {
            return Rc::clone(flow);
        }
        let flow =
            if self.followed < MAX_FOLLOWED { Flow::from(self.text, address) } else { Flow::default() };
        self.followed += flow.instructions.len().max(1);
        let flow = Rc::new(flow);
        self.known.insert(address, Rc::clone(&flow));
        flow
    }
}

/// Who calls whom in a file.
pub(super) struct Callers<'t, 'a> {
    text: &'t Text<'a>,
    slots: Vec<(u64, u64)>,
    through_slots: Vec<SlotBranch>,
    exports: Vec<u64>,
    wrappers: HashMap<u64, Rc<Flow>>,
    /// Return addresses of the calls through a function's stubs and slots, as far as they have been asked for.
    by_slots: HashMap<u64, Rc<Vec<u64>>>,
}

impl<'t, 'a> Callers<'t, 'a> {
    /// `slots`: the slots of the global offset table with the function each leads to; `exports`: addresses of the
    /// allocator's public functions.
    pub fn new(text: &'t Text<'a>, mut slots: Vec<(u64, u64)>, exports: Vec<u64>) -> Self {
        slots.retain(|(_, function)| exports.contains(function));
        slots.sort_unstable();
        slots.dedup_by_key(|&mut (slot, _)| slot);
        let through_slots = text.slot_branches(&slots);
        Self { text, slots, through_slots, exports, wrappers: HashMap::new(), by_slots: HashMap::new() }
    }

    /// Declares the function at an address a wrapper: it has no hook, and what it calls is the program's call.
    pub fn add_wrapper(&mut self, address: u64, flow: Rc<Flow>) {
        self.wrappers.insert(address, flow);
    }

    pub fn is_wrapper(&self, address: u64) -> bool {
        self.wrappers.contains_key(&address)
    }

    /// Whether a flow gets into a function: by a jump or a call, directly, through its stub in the procedure linkage
    /// table or through its slot.
    pub fn passes_on(&self, flow: &Flow, function: u64) -> bool {
        let stubs = self.stubs_of(function);
        let to_slot = |pointer: u64| {
            let found = self.slots.binary_search_by_key(&pointer, |&(slot, _)| slot);
            found.is_ok_and(|index| self.slots[index].1 == function)
        };
        flow.branches.iter().any(|branch| branch.target == function || stubs.contains(&branch.target))
            || flow.through_pointers.iter().any(|branch| to_slot(branch.target))
    }

    /// Where the stubs of a function in the procedure linkage table begin: `jmp *slot`, perhaps with a `bnd` prefix,
    /// perhaps behind an `endbr64`. (An address that is no stub does no harm, as nothing calls it.)
    fn stubs_of(&self, function: u64) -> BTreeSet<u64> {
        let mut stubs = BTreeSet::new();
        for jump in self.through_slots.iter().filter(|branch| !branch.call && branch.function == function) {
            stubs.insert(jump.source);
            stubs.insert(jump.source.saturating_sub(1));
            stubs.insert(jump.source.saturating_sub(4));
            stubs.insert(jump.source.saturating_sub(5));
        }
        stubs
    }

    /// The functions from which `function` is reached by jumps alone, itself included: what calls one of them is the
    /// caller that `function` sees. Second: whether the search is complete.
    fn tail_callers(&self, flows: &mut Flows<'_, '_>, function: u64) -> (BTreeSet<u64>, bool) {
        let mut members = BTreeSet::from([function]);
        let mut tried = BTreeSet::from([function]);
        let mut seen = BTreeSet::from([function]);
        let mut open = vec![function];
        let mut complete = true;
        while let Some(piece) = open.pop() {
            // What jumps into a function's middle leads here as well: compilers split unlikely parts off. Not so for the
            // function itself, for which only whole calls count.
            let end = match self.text.start_behind(piece) {
                Some(end) if piece != function => end.min(piece.saturating_add(MAX_DISTANCE)),
                _ => piece.saturating_add(1),
            };
            let near = self.text.branches_into(piece..end).iter().filter(|branch| !branch.call);
            let mut sources: Vec<u64> = near.map(|branch| branch.source).collect();
            sources.extend(self.text.possible_short_jumps(piece));
            if sources.len() > MAX_SOURCES {
                sources.truncate(MAX_SOURCES);
                complete = false;
            }
            for source in sources {
                for start in self.text.owners(source, MAX_DISTANCE) {
                    if tried.insert(start) {
                        let flow = flows.from(start);
                        complete &= flow.complete;
                        if flow.jumps_to(function) {
                            members.insert(start);
                        }
                    }
                }
                // The part that the jump stands in need not lead here from its own start to be of interest.
                let part = self.text.start_before(source).filter(|&part| source - part <= MAX_DISTANCE);
                open.extend(part.filter(|&part| seen.insert(part)));
            }
            open.extend(members.iter().filter(|&&member| seen.insert(member)));
            if seen.len() > MAX_PIECES {
                return (members, false);
            }
        }
        (members, complete)
    }

    /// The ranges of return addresses with which the allocator itself enters `function`. What isn't exact is added to
    /// `notes`.
    pub fn internal(
        &mut self,
        flows: &mut Flows<'_, '_>,
        function: u64,
        hooked: &[(AllocFunction, u64)],
        notes: &mut Vec<String>,
    ) -> Vec<Range<u64>> {
        let (members, complete) = self.tail_callers(flows, function);
        if !complete {
            notes.push("not all functions that lead here by jumps could be found".to_string());
        }
        let mut internal = BTreeSet::new();
        let mut program = BTreeSet::new();
        for &member in &members {
            for call in self.calls_of(member) {
                let by_wrapper = self.wrappers.values().any(|flow| flow.instructions.contains(&call));
                (if by_wrapper { &mut program } else { &mut internal }).insert(call.wrapping_add(CALL));
            }
            if self.exports.contains(&member) {
                program.extend(self.returns_by_slots(member).iter());
            }
            let known =
                hooked.iter().any(|&(_, address)| address == member) || self.exports.contains(&member);
            if !known && self.text.branches_into(member..member.saturating_add(1)).is_empty() {
                notes.push(format!(
                    "the code at {member:#x} leads here by a jump, but nothing calls it directly: its callers count as \
                     the program"
                ));
            }
        }
        // Who calls a wrapper is the caller that the function behind it sees.
        let wrappers = self.wrappers.iter().filter(|(_, flow)| self.passes_on(flow, function));
        for wrapper in wrappers.map(|(&wrapper, _)| wrapper).collect::<Vec<_>>() {
            program.extend(self.calls_of(wrapper).into_iter().map(|call| call.wrapping_add(CALL)));
            program.extend(self.returns_by_slots(wrapper).iter());
        }
        if internal.len() > MANY_CALLERS {
            notes.push(format!(
                "{} places in the library call it directly and are all taken for the allocator itself",
                internal.len()
            ));
        }
        ranges(&internal, &program, notes)
    }

    /// Return addresses of the calls through the procedure linkage table, or directly through the slot.
    fn returns_by_slots(&mut self, function: u64) -> Rc<Vec<u64>> {
        if let Some(known) = self.by_slots.get(&function) {
            return Rc::clone(known);
        }
        let by_stubs = self.stubs_of(function).into_iter().flat_map(|stub| self.calls_of(stub));
        let mut returns: Vec<u64> = by_stubs.map(|call| call.wrapping_add(CALL)).collect();
        let direct = self.through_slots.iter().filter(|branch| branch.call && branch.function == function);
        returns.extend(direct.map(|branch| branch.source.wrapping_add(SLOT_CALL)));
        let returns = Rc::new(returns);
        self.by_slots.insert(function, Rc::clone(&returns));
        returns
    }

    fn calls_of(&self, address: u64) -> Vec<u64> {
        let branches = self.text.branches_into(address..address.saturating_add(1));
        branches.iter().filter(|branch| branch.call).map(|branch| branch.source).collect()
    }
}

/// As few and narrow ranges as may be that hold all of `internal` and none of `program`.
pub(super) fn ranges(
    internal: &BTreeSet<u64>,
    program: &BTreeSet<u64>,
    notes: &mut Vec<String>,
) -> Vec<Range<u64>> {
    // Runs of neighbours with none of the program's between them, each with the number of addresses in it.
    let mut runs: Vec<Vec<u64>> = Vec::new();
    for &address in internal.iter().filter(|address| !program.contains(address)) {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|&last| program.range(last..address).next().is_none()) => {
                run.push(address);
            }
            _ => runs.push(vec![address]),
        }
    }
    if runs.len() > INTERNAL_RANGES {
        runs.sort_by_key(|run| std::cmp::Reverse(run.len()));
        let lost: usize = runs.drain(INTERNAL_RANGES..).map(|run| run.len()).sum();
        notes.push(format!("{lost} places from which the allocator calls itself are counted as the program"));
        runs.sort_unstable();
    }
    // Ranges to spare: cut where the widest gap is.
    while runs.len() < INTERNAL_RANGES {
        let gaps = runs.iter().enumerate().flat_map(|(index, run)| {
            run.windows(2).enumerate().map(move |(at, pair)| (pair[1] - pair[0], index, at + 1))
        });
        let Some((_, index, at)) = gaps.max() else { break };
        let tail = runs[index].split_off(at);
        runs.insert(index + 1, tail);
    }
    let bounds = |run: &Vec<u64>| Some(*run.first()?..run.last()?.saturating_add(1));
    runs.iter().filter_map(bounds).collect()
}
