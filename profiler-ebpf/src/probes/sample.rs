//! How samples are told to the user side: ids, the ring, and the slice of the stack that goes with them.

use core::mem::size_of;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP},
    helpers::generated::{bpf_get_smp_processor_id, bpf_probe_read_user},
};
use profiler_common::{
    outcome::Outcome,
    sample::{
        self, RING_BYTES, RING_WAKES, RING_WITHOUT_STACKS, STACK_BYTES, STACK_PIECE, SampleHeader, SampleKind,
    },
};

pub use super::sched::now;
use crate::maps::{SAMPLE_IDS, SAMPLES, count, fetch_add};

/// Pages are what a stack is readable by.
const PAGE: u64 = 4096;

/// An entry with room for so many bytes of stack.
#[repr(C)]
struct Entry<const BYTES: usize> {
    header: SampleHeader,
    stack: [u8; BYTES],
}

/// A number that no other sample gets as long as the kernel side is loaded; never zero.
///
/// The CPU, and how many samples had got a number there: 2^48 take nine years at one every microsecond. Taken in one step,
/// as the program may be preempted.
#[inline(always)]
pub fn next_id() -> Option<u64> {
    let counter = SAMPLE_IDS.get_ptr_mut(0)?;
    // SAFETY: the helper takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    Some(u64::from(cpu) << 48 | (fetch_add(counter, 1) + 1))
}

/// How many bytes wait in the ring.
#[inline(always)]
fn waiting() -> u64 {
    SAMPLES.query(u64::from(BPF_RB_AVAIL_DATA))
}

/// The threshold at this moment for a block that would be chosen if nothing waited.
#[inline(always)]
pub fn thinned(threshold: u64) -> u64 {
    sample::thinned(threshold, waiting())
}

/// The kernel wakes the reader at the first record after it has read everything, and it needn't hurry then. It must, once
/// much is waiting. Told a few times, not with every record: waking costs the target time.
#[inline(always)]
fn wakes(waiting: u64) -> u64 {
    const ENOUGH: u64 = (RING_WAKES + RING_BYTES / 16) as u64;
    if waiting >= RING_WAKES as u64 && waiting < ENOUGH { u64::from(BPF_RB_FORCE_WAKEUP) } else { 0 }
}

/// Tells a sample without a stack. False if the ring is full, which is counted.
#[inline(always)]
pub fn tell(header: &SampleHeader) -> bool {
    // Of a process that is about to be killed, what is there to see is gone soon.
    let at_once = header.kind == SampleKind::OutOfMemory as u32;
    let flags = if at_once { u64::from(BPF_RB_FORCE_WAKEUP) } else { wakes(waiting()) };
    let told = SAMPLES.output::<SampleHeader>(header, flags).is_ok();
    if !told {
        count(Outcome::SamplesFull);
    }
    told
}

/// Tells a sample with up to `STACK_BYTES` bytes of the stack from `header.registers.sp` upwards, and says in `stack_bytes`
/// how many. Zeroes stand for what can't be read: pages that the thread has never touched, or that are not in memory.
/// If the ring is nearly full, the stack is left out. False if it is full, which is counted.
///
/// The entry is written where it will be read: a buffer per CPU could be overwritten by another thread that preempts this
/// one. So there are four sizes of entries, as the kernel must know an entry's size before the program runs.
#[inline(always)]
pub fn tell_with_stack(header: &SampleHeader) -> bool {
    let waiting = waiting();
    if waiting >= RING_WITHOUT_STACKS as u64 {
        return tell(header);
    }
    let flags = wakes(waiting);
    let bytes = readable(header.registers.sp);
    let told = match bytes {
        0..=2048 => reserve_and_fill::<2048>(header, bytes, flags),
        2049..=4096 => reserve_and_fill::<4096>(header, bytes, flags),
        4097..=8192 => reserve_and_fill::<8192>(header, bytes, flags),
        _ => reserve_and_fill::<STACK_BYTES>(header, bytes, flags),
    };
    // Others may have taken the room meanwhile.
    told || tell(header)
}

/// How many bytes from `sp` upwards there are, to the last page that can be read; at most `STACK_BYTES`.
///
/// Pages between may be unreadable: a large array that was never touched. What lies above the end of a stack is copied with
/// it, if anything does.
#[inline(always)]
fn readable(sp: u64) -> u64 {
    let first_page = sp & !(PAGE - 1);
    let mut end = sp;
    for page in 0..=(STACK_BYTES as u64 / PAGE) {
        let start = first_page + page * PAGE;
        let at = if page == 0 { sp } else { start };
        let mut byte = 0_u8;
        // SAFETY: the helper checks what it reads; the destination is as long as told.
        if unsafe { bpf_probe_read_user((&raw mut byte).cast(), 1, at as *const _) } == 0 {
            end = start + PAGE;
        }
    }
    let bytes = end.wrapping_sub(sp);
    if bytes > STACK_BYTES as u64 { STACK_BYTES as u64 } else { bytes }
}

#[inline(always)]
fn reserve_and_fill<const BYTES: usize>(header: &SampleHeader, bytes: u64, flags: u64) -> bool {
    let Some(mut entry) = SAMPLES.reserve::<Entry<BYTES>>(0) else { return false };
    let at = entry.as_mut_ptr();
    // Pieces end where a page may, so that none fails for the next one's sake.
    let lead = header.registers.sp % STACK_PIECE as u64;
    let room = BYTES as u64 - lead;
    let stack_bytes = if bytes < room { bytes } else { room };
    // SAFETY: room for an entry, aligned to 8, that is ours until it is submitted.
    let stack = unsafe {
        (&raw mut (*at).header).write(SampleHeader { stack_bytes: stack_bytes as u32, ..*header });
        (&raw mut (*at).stack).cast::<u8>()
    };
    let start = header.registers.sp - lead;
    let mut offset = 0;
    while offset < BYTES && (offset as u64) < lead + stack_bytes {
        // SAFETY: a piece inside the entry. The helper checks what it reads, and fills with zeroes what it can't.
        unsafe {
            let from = start.wrapping_add(offset as u64) as *const _;
            bpf_probe_read_user(stack.add(offset).cast(), STACK_PIECE as u32, from);
        }
        offset += STACK_PIECE;
    }
    entry.submit(flags);
    true
}

const _: () = assert!(PAGE as usize % STACK_PIECE == 0 && STACK_BYTES % STACK_PIECE == 0);
const _: () = assert!(size_of::<Entry<STACK_BYTES>>() % 8 == 0);
