//! Which structures and fields a table has. More than the reader asks for (`Layout`), so that a table needn't be made
//! again for the next field.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use object::File;

use super::types::Types;

/// Fields of structures, as paths. A version has not all of them; what a reader can't do without is checked later.
const FIELDS: [(&str, &str); 16] = [
    (
        "runtime.mstats",
        "heapStats stacks_sys mspan_sys mcache_sys buckhash_sys gcMiscSys other_sys last_gc_unix pause_total_ns \
         pause_ns pause_end numgc numforcedgc gc_cpu_fraction last_gc_nanotime",
    ),
    (
        "runtime.heapStatsDelta",
        "committed released inHeap inStacks inWorkBufs inPtrScalarBits tinyAllocCount largeAlloc largeAllocCount \
         smallAllocCount largeFree largeFreeCount smallFreeCount",
    ),
    (
        "runtime.gcControllerState",
        "gcPercent memoryLimit heapMinimum gcPercentHeapGoal sweepDistMinTrigger triggered heapLive heapMarked \
         heapInUse heapReleased heapFree totalAlloc totalFree mappedReady",
    ),
    ("runtime.mheap", "spanalloc cachealloc sweepgen"),
    ("runtime.fixalloc", "inuse"),
    ("runtime.p", "id status mcache gFree.n gFree.size statsSeq"),
    ("runtime.mcache", "nextSample tinyAllocs alloc flushGen"),
    ("runtime.mspan", "startAddr nelems allocCount allocCountBeforeCache sweepgen spanclass elemsize"),
    ("runtime.schedt", "gFree.n gFree.stack.size gFree.noStack.size ngsys mnext nmfreed"),
    (
        "runtime.g",
        "stack.lo stack.hi sched.sp sched.pc sched.bp syscallsp syscallpc syscallbp atomicstatus goid waitsince \
         waitreason gopc startpc parentGoid m runningCleanups",
    ),
    ("runtime.m", "g0 curg id procid alllink p"),
    ("runtime.bucket", "next allnext typ hash size nstk"),
    ("runtime.memRecord", "active future"),
    ("runtime.memRecordCycle", "allocs frees alloc_bytes free_bytes"),
    (
        "runtime.moduledata",
        "pcHeader funcnametab pclntable ftab text etext noptrdata enoptrdata data edata bss ebss noptrbss enoptrbss \
         types etypes rodata gofunc modulename next",
    ),
    // Go 1.19 writes its names in another way.
    ("runtime._func", "nameOff nameoff entryOff entryoff funcID"),
];

/// Sizes of structures, and offsets and sizes of their fields.
type Structures = (BTreeMap<String, u32>, BTreeMap<String, BTreeMap<String, (u32, u32)>>);

/// Reads all of them from the debug information.
pub fn read(elf: &File<'_>) -> Result<Structures> {
    let types = Types::read(elf)?;
    let (mut sizes, mut structs) = Structures::default();
    for (name, paths) in FIELDS {
        let structure = types.structure(name).with_context(|| format!("no structure {name} is in it"))?;
        let size = types.size(structure).with_context(|| format!("the size of {name}"))?;
        let mut fields = BTreeMap::new();
        for path in paths.split_whitespace() {
            let field = types.field(structure, path).with_context(|| format!("{path} of {name}"))?;
            if let Some((offset, bytes)) = field {
                fields.insert(path.to_owned(), (offset.try_into()?, bytes.try_into()?));
            }
        }
        sizes.insert(name.to_owned(), size.try_into()?);
        structs.insert(name.to_owned(), fields);
    }
    Ok((sizes, structs))
}
