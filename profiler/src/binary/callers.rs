//! Telling the allocator's own calls from the program's.
//!
//! glibc's allocator calls its own public functions: realloc calls malloc and free, a thread that ends gives its cache
//! back through free (`tcache_thread_shutdown`, which frees what the program has freed long before). All of these are
//! direct branches to the function's hidden alias, while the rest of the library (and that is the program's doing: fopen,
//! getaddrinfo, ...) goes through the procedure linkage table, because malloc may be replaced ("Replacing malloc" in
//! glibc's manual; `scripts/check-localplt` in its sources keeps it so). Hence a direct call is the allocator's own.
//!
//! Such a call gets a probe of its own. A probe on what only looks like a call would corrupt the instruction around it,
//! so that each is listed only if following the code proves it.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;

use super::InternalCall;
use super::flow::Flow;
use super::site::is_long_jump;
use super::text::{MAX_INSTRUCTION, SlotJump, Text};

/// Direct calls of one function that are taken for the allocator's own. With more than any glibc has, the rule above
/// probably doesn't hold for this build, and none is.
pub const MAX_INTERNAL_CALLS: usize = 24;

/// Instructions that are followed for one file, all functions together.
const MAX_FOLLOWED: usize = 1 << 20;
/// How far from a jump the start of the function is searched that it belongs to.
const MAX_DISTANCE: u64 = 64 << 10;
/// Functions, and parts of such, that may lead into one hooked function by jumps.
const MAX_PIECES: usize = 256;
/// Jumps to one of them that are looked at.
const MAX_SOURCES: usize = 1024;

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

/// Whose code is the allocator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// A library that is nothing but an allocator: everything in it is.
    Everything,
    /// A C library: what gets to a public function by a direct branch; what goes through the procedure linkage table is the
    /// program's doing.
    Direct,
    /// A file with other code in it, too: what stands in the allocator's object files, and what its functions jump to.
    Within(Range<u64>),
    /// The same without what its functions jump to: for code without unwind tables, in which a flow may run on behind a call
    /// that never returns.
    Only(Range<u64>),
}

/// The functions from which another one is reached by jumps alone.
#[derive(Clone, Debug, Default)]
pub(super) struct TailCallers {
    /// Their addresses; the function itself isn't among them.
    pub addresses: BTreeSet<u64>,
    /// Whether the search could be brought to its end.
    pub complete: bool,
}

/// Who calls whom in a file.
pub(super) struct Callers<'t, 'a> {
    text: &'t Text<'a>,
    slots: Vec<(u64, u64)>,
    slot_jumps: Vec<SlotJump>,
    exports: Vec<u64>,
    wrappers: HashMap<u64, Rc<Flow>>,
    /// Entries of the functions that are hooked.
    hooked: Vec<u64>,
    tail_callers: HashMap<u64, Rc<TailCallers>>,
    own: Own,
}

impl<'t, 'a> Callers<'t, 'a> {
    /// `slots`: the slots of the global offset table with the function each leads to; `exports`: addresses of the
    /// allocator's public functions, in all versions; `hooked`: those that get a hook unless they become wrappers; `own`:
    /// whose calls are the allocator's.
    pub fn new(
        text: &'t Text<'a>,
        mut slots: Vec<(u64, u64)>,
        exports: Vec<u64>,
        hooked: Vec<u64>,
        own: Own,
    ) -> Self {
        slots.retain(|(_, function)| exports.contains(function));
        slots.sort_unstable();
        slots.dedup_by_key(|&mut (slot, _)| slot);
        let slot_jumps = text.slot_jumps(&slots);
        let (wrappers, tail_callers) = (HashMap::new(), HashMap::new());
        Self { text, slots, slot_jumps, exports, wrappers, hooked, tail_callers, own }
    }

    /// Goes on with another allocator of the same file.
    pub fn set_own(&mut self, own: Own) {
        self.own = own;
        self.tail_callers.clear();
    }

    /// Declares the function at an address a wrapper: it has no hook, and what it calls is the program's call.
    pub fn add_wrapper(&mut self, address: u64, flow: Rc<Flow>) {
        self.wrappers.insert(address, flow);
        self.hooked.retain(|&hooked| hooked != address);
    }

    pub fn is_hooked(&self, address: u64) -> bool {
        self.hooked.contains(&address)
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
        for jump in self.slot_jumps.iter().filter(|jump| !jump.call && jump.function == function) {
            stubs.insert(jump.source);
            stubs.insert(jump.source.saturating_sub(1));
            stubs.insert(jump.source.saturating_sub(4));
            stubs.insert(jump.source.saturating_sub(5));
        }
        stubs
    }

    /// The functions from which `function` is reached by jumps alone: who calls one of them calls `function` as well.
    pub fn tail_callers(&mut self, flows: &mut Flows<'_, '_>, function: u64) -> Rc<TailCallers> {
        if let Some(known) = self.tail_callers.get(&function) {
            return Rc::clone(known);
        }
        let found = Rc::new(self.find_tail_callers(flows, function));
        self.tail_callers.insert(function, Rc::clone(&found));
        found
    }

    fn find_tail_callers(&self, flows: &mut Flows<'_, '_>, function: u64) -> TailCallers {
        let mut members = BTreeSet::new();
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
            sources.retain(|&source| self.stands_within(source));
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
                complete = false;
                break;
            }
        }
        TailCallers { addresses: members, complete }
    }

    /// The direct calls of a function, by address, without those that are the program's.
    pub fn direct_calls(&self, flows: &mut Flows<'_, '_>, function: u64) -> Vec<u64> {
        let mut calls = self.calls_of(function);
        calls.dedup();
        calls.retain(|&call| self.is_own(flows, call));
        calls
    }

    /// Whether an instruction is the allocator's own, and neither the program's nor a wrapper's.
    pub fn is_own(&self, flows: &mut Flows<'_, '_>, at: u64) -> bool {
        let within = self.stands_within(at);
        if within && !self.wrappers.values().any(|flow| flow.instructions.contains(&at)) {
            return true;
        }
        // Where a wrapper jumps on into the function behind it, that one's calls are not the wrapper's. And what compilers
        // split off a hooked function stands somewhere else.
        let by_hooked = self.hooked.iter().any(|&entry| flows.from(entry).instructions.contains(&at));
        by_hooked && (within || !matches!(self.own, Own::Only(_)))
    }

    fn stands_within(&self, at: u64) -> bool {
        match &self.own {
            Own::Everything | Own::Direct => true,
            Own::Within(range) | Own::Only(range) => range.contains(&at),
        }
    }

    /// The jumps by which a function begins anew (`tcache_free_init` of glibc 2.42 and later sets the thread's cache up and
    /// jumps back to `free`): each is a call that the allocator makes itself.
    pub fn jumps_back(&self, flow: &Flow, function: u64) -> Vec<u64> {
        let back = flow.branches.iter().filter(|branch| !branch.call && branch.target == function);
        back.map(|branch| branch.source).filter(|&source| is_long_jump(self.text, source)).collect()
    }

    /// Those of the `calls` of a function that a probe may sit on. What isn't exact is added to `notes`.
    pub fn internal_calls(
        &self,
        flows: &mut Flows<'_, '_>,
        calls: &[u64],
        notes: &mut Vec<String>,
    ) -> Vec<InternalCall> {
        if calls.len() > MAX_INTERNAL_CALLS {
            notes.push(format!(
                "{} in the library call it directly, too many to be the allocator's own calls: all are counted as the \
                 program's",
                places(calls.len())
            ));
            return Vec::new();
        }
        let mut listed = Vec::new();
        for &address in calls {
            let Some(call) = self.proven(flows, address) else {
                notes.push(format!(
                    "what looks like the allocator's own call of it, at {address:#x}, can't be proven to be an \
                     instruction: if it is one, it is counted as the program's"
                ));
                continue;
            };
            listed.push(call);
        }
        listed
    }

    /// A call (or jump), if following the code from a known function start gets to exactly this instruction, and from none
    /// of them to one that overlaps it.
    pub fn proven(&self, flows: &mut Flows<'_, '_>, source: u64) -> Option<InternalCall> {
        let instruction = self.text.decode(source)?;
        // A part that is split off is reached from the function that it belongs to, and that is mostly a hooked one.
        let mut starts = self.text.owners(source, MAX_DISTANCE);
        starts.extend(&self.hooked);
        let mut reached = false;
        for start in starts {
            let flow = flows.from(start);
            if self.overlaps(&flow, source, instruction.next_ip()) {
                return None;
            }
            reached |= flow.instructions.contains(&source);
        }
        let listed = InternalCall::at(self.text, source)?;
        reached.then_some(listed)
    }

    /// Whether a flow has an instruction that shares bytes with the one from an address up to another, and isn't that one.
    fn overlaps(&self, flow: &Flow, call: u64, end: u64) -> bool {
        let reaches_into = |at| self.text.decode(at).is_some_and(|before| before.next_ip() > call);
        let mut before = call.saturating_sub(MAX_INSTRUCTION as u64 - 1)..call;
        let mut within = call.saturating_add(1)..end;
        before.any(|at| flow.instructions.contains(&at) && reaches_into(at))
            || within.any(|at| flow.instructions.contains(&at))
    }

    /// Calls that lead to a function although they call another one, which jumps to it: no probe of the allocator's own
    /// calls sees them. `known`: calls that are seen to elsewhere.
    pub fn note_tail_calls(
        &mut self,
        flows: &mut Flows<'_, '_>,
        function: u64,
        known: impl Fn(u64) -> bool,
        notes: &mut Vec<String>,
    ) {
        let tail = self.tail_callers(flows, function);
        if !tail.complete {
            notes.push("not all functions that lead here by jumps could be found".to_string());
        }
        let own = |&&member: &&u64| !self.is_hooked(member) && !self.is_wrapper(member);
        let mut others = 0;
        for &member in tail.addresses.iter().filter(own) {
            let calls = self.direct_calls(flows, member);
            others += calls.iter().filter(|&&call| !known(call)).count();
            let used = self.exports.contains(&member)
                || !self.text.branches_into(member..member.saturating_add(1)).is_empty()
                || tail.addresses.iter().any(|&other| flows.from(other).jumps_to(member));
            if !used {
                notes.push(format!(
                    "the code at {member:#x} leads here by a jump, but nothing calls it directly: its callers count as \
                     the program"
                ));
            }
        }
        if others > 0 {
            notes.push(format!(
                "{} in the library call functions that lead here by a jump: those calls are counted, although the \
                 allocator may make them",
                places(others)
            ));
        }
    }

    /// All branches that lead to a function: direct ones, those to its stubs in the procedure linkage table, and those
    /// through its slots.
    pub fn ways_into(&self, function: u64) -> Vec<u64> {
        let to = |address: u64| self.text.branches_into(address..address.saturating_add(1)).iter();
        let mut ways: Vec<u64> = to(function).map(|branch| branch.source).collect();
        let near = self.text.short_branches_into(function..function.saturating_add(1));
        ways.extend(near.iter().map(|branch| branch.source));
        for stub in self.stubs_of(function) {
            ways.extend(to(stub).map(|branch| branch.source));
        }
        // A stub is not a way of its own: what leads to it is.
        let is_stub = |source: u64| (0..=5).any(|back| to(source.saturating_sub(back)).next().is_some());
        let through = self.slot_jumps.iter().filter(|jump| jump.function == function);
        ways.extend(through.filter(|jump| jump.call || !is_stub(jump.source)).map(|jump| jump.source));
        ways.sort_unstable();
        ways.dedup();
        ways
    }

    fn calls_of(&self, address: u64) -> Vec<u64> {
        let branches = self.text.branches_into(address..address.saturating_add(1));
        branches.iter().filter(|branch| branch.call).map(|branch| branch.source).collect()
    }
}

/// A number of places, in words.
pub(super) fn places(count: usize) -> String {
    if count == 1 { "1 place".to_string() } else { format!("{count} places") }
}
