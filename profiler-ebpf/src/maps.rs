//! Every map: what it holds, who writes it, who reads it, how large it is and why.
//!
//! The sizes here are what an object inspected on its own shows; the user side sets those that grow with targets or sites to
//! what is needed before loading (`profiler/src/kernel/loader.rs`). A site takes 16 bytes and 96 per CPU; a target takes
//! 80 bytes, 680 per CPU, and a place in `TARGETS_BY_PID` (about 100).

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use profiler_common::{
    alloc::{AllocSite, SiteCounts},
    mapping::{KINDS, MappingCounts},
    outcome::Outcome,
    process::{Switches, TargetEntry},
    sample::{LIVE_FILTER as FILTER_ENTRIES, LiveKey, PendingKey, PendingSample, RING_BYTES},
    sched::{CAUSES, Retired, StallCounts, ThreadRecord},
    stops::{PendingStop, REASONS, StopCounts},
};

/// Targets and sites in the object as built; see the module text.
const TARGETS: u32 = 1;
const SITES: u32 = 16;
/// Threads of all targets together. A full map is counted as `Outcome::ThreadsFull`; 16,384 records are 2.3 MB.
const THREADS_MAX: u32 = 16_384;

/// Key: attach cookie. Written by the user side before and after attaching; read at every allocator hit.
#[map]
pub static ALLOC_SITES: Array<AllocSite> = Array::with_max_entries(SITES, 0);

/// Key: the target's slot. The user side has it in its memory (hence the flag) and switches counting there, once for all
/// sites of a target, so that they begin and end at one instant; `execve` moves the epoch; read at every allocator hit.
#[map]
pub static SWITCHES: Array<Switches> = Array::with_max_entries(TARGETS, BPF_F_MMAPABLE);

/// Key: attach cookie. Written at every allocator hit, per CPU; read by the user side.
#[map]
pub static ALLOC_COUNTS: PerCpuArray<SiteCounts> = PerCpuArray::with_max_entries(SITES, 0);

/// Key: process id (tgid). Written by the user side; read when a thread or process starts or replaces its program. Removed
/// here when the process has ended, before its id can be used again.
#[map]
pub static TARGETS_BY_PID: HashMap<u32, TargetEntry> = HashMap::with_max_entries(TARGETS, 0);

/// `ProcessEvent`s, written at fork, `execve`, the end of a process and `dlopen`; read by the user side as they come. Room for
/// 5,400 that wait; a full ring is counted as `Outcome::EventsFull`.
#[map]
pub static PROCESS_EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// One entry: `SCOPE_NOBODY` and so on. Written by the user side; read at every fork, `execve` and end.
#[map]
pub static EVENT_SCOPE: Array<u32> = Array::with_max_entries(1, 0);

/// Entries and returns that were seen of the function by which the user side finds out at start whether probes work as they
/// should.
#[map]
pub static TRIALS: Array<u64> = Array::with_max_entries(2, 0);

/// Key: thread id. Created by the user side (threads that exist at attach) and by the first wake-up of a new thread;
/// written by scheduler events; read by the user side.
#[map]
pub static THREADS: HashMap<u32, ThreadRecord> = HashMap::with_max_entries(THREADS_MAX, 0);

/// Key: thread id; value: a `ThreadState` as number. Written by the user side: how a thread that has not been seen in
/// an event yet was blocked according to /proc. Read once per thread, at its first wake-up.
#[map]
pub static HINTS: HashMap<u32, u32> = HashMap::with_max_entries(THREADS_MAX, 0);

/// Key: slot. Written atomically when a thread ends; read by the user side.
#[map]
pub static RETIRED: Array<Retired> = Array::with_max_entries(TARGETS, 0);

/// Key: `slot * CAUSES + cause`. Written at the end of a stall, per CPU; read by the user side.
#[map]
pub static STALLS: PerCpuArray<StallCounts> = PerCpuArray::with_max_entries(TARGETS * CAUSES as u32, 0);

/// Key: `slot * KINDS + kind`. Written when a call that maps memory ends, per CPU; read by the user side.
#[map]
pub static MAPPING_COUNTS: PerCpuArray<MappingCounts> =
    PerCpuArray::with_max_entries(TARGETS * KINDS as u32, 0);

/// Key: thread id; value: the program break before the `brk` call that the thread is in. Written when the call begins,
/// removed when it ends, which it does also for a thread that is killed meanwhile. So an entry stays only where the kernel
/// leaves out the program at a call's end; the thread's next call uses it up. When full: `Outcome::BreakUnknown`.
#[map]
pub static BREAKS: HashMap<u32, u64> = HashMap::with_max_entries(4096, 0);

/// Key: the target's slot. Written when a Go program stops its world and when it lets it go on, which is never done by two at
/// once; set to zero by the user side before the probes are placed. One entry unless stops are wanted.
#[map]
pub static GO_STOPPED: Array<PendingStop> = Array::with_max_entries(TARGETS, 0);

/// Key: `slot * REASONS + reason`. Written when a stop ends, per CPU; read by the user side. One entry unless stops are wanted;
/// a target takes 2.4 kB per CPU.
#[map]
pub static GO_STOPS: PerCpuArray<StopCounts> = PerCpuArray::with_max_entries(TARGETS * REASONS as u32, 0);

/// Sampled blocks that live; value: the sample's id. Written at the return of a call that was chosen; removed when the block is
/// given back, and by the user side. Never evicts: when full, `Outcome::LiveSamplesFull`, and the block isn't sampled.
/// An entry takes about 80 bytes; the size here is what is set when samples are wanted, and one entry else.
#[map]
pub static LIVE_SAMPLES: HashMap<LiveKey, u64> = HashMap::with_max_entries(65_536, 0);

/// Key: `LiveKey::filter`; value: how many entries of `LIVE_SAMPLES` have that. Most blocks that are given back were never
/// sampled, and this tells most of them at a tenth of the price of looking there. Counted up before an entry is put in and
/// down when one was taken out, by whoever does it; hence the user side has it in its memory.
#[map]
pub static LIVE_FILTER: Array<u64> = Array::with_max_entries(FILTER_ENTRIES, BPF_F_MMAPABLE);

/// Sampled pages that were there when anybody last looked; value: the sample's id. Written when a page is touched for the first
/// time; removed when it is touched for the first time again, and by the user side when it has been given back. Never evicts:
/// when full, `Outcome::LiveSamplesFull`, and the page isn't sampled. One entry unless growth is wanted.
#[map]
pub static LIVE_PAGES: HashMap<LiveKey, u64> = HashMap::with_max_entries(65_536, 0);

/// Calls that were chosen and haven't returned yet. Written at the entry, removed at the return; those that never come (an
/// exception, `longjmp`, the end of the thread) make room for others in the end.
#[map]
pub static PENDING_SAMPLES: LruHashMap<PendingKey, PendingSample> = LruHashMap::with_max_entries(4096, 0);

/// `SampleHeader`s, those of allocations and pages with a slice of the stack behind; read by the user side as they come. Room
/// for 127 with the largest slice. As it fills, fewer samples are drawn and then stacks left out (`profiler_common::sample`); a
/// ring that is full all the same is counted as `Outcome::SamplesFull`.
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// One entry, per CPU: how many samples have got an id there.
#[map]
pub static SAMPLE_IDS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Key: `Outcome`. Written wherever something is lost, per CPU; read by the user side.
#[map]
pub static OUTCOMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Outcome::ALL.len() as u32, 0);

/// Counts a loss.
#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(slot) = OUTCOMES.get_ptr_mut(outcome as u32) {
        add(slot, 1);
    }
}

/// Adds to a counter. Atomic although most maps are per CPU: a uprobe's program may be preempted between the load and
/// the store by another thread that hits the same probe on the same CPU (the kernel only disables migration).
#[inline(always)]
pub fn add(counter: *mut u64, n: u64) {
    // SAFETY: callers pass pointers into map values, aligned to 8 and alive as long as the program runs. Written as
    // assembly because core has no fetch_add for this machine (it lacks compare-and-swap in its base instruction set).
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {n}", counter = in(reg) counter, n = in(reg) n);
    }
}

/// [`add`] that also returns what was there before.
#[inline(always)]
pub fn fetch_add(counter: *mut u64, n: u64) -> u64 {
    let mut n = n;
    // SAFETY: as in `add`. (Linux 5.12 has it.)
    unsafe {
        core::arch::asm!("{n} = atomic_fetch_add((u64 *)({counter} + 0), {n})", counter = in(reg) counter, n = inout(reg) n);
    }
    n
}
