//! Where the fields of Go's runtime structures are, by version: tables that `cargo xtask go-layouts` makes from real
//! toolchains (`tables/*.json`), and the same as numbers with names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Offset and size in bytes of a field.
type Field = (u32, u32);

/// A file of tables: one minor version of Go on one kind of machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tables {
    /// The minor version: `1.27`.
    pub go: String,
    /// As Go names the machine: `amd64`.
    pub arch: String,
    /// The exact versions that were looked at, and which of `variants` each has.
    pub versions: BTreeMap<String, usize>,
    /// Patch versions differ seldom.
    pub variants: Vec<Table>,
}

/// What is known of some exact versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Sizes of structures.
    pub sizes: BTreeMap<String, u32>,
    /// By structure and field, which may be a path (`stack.lo`): offset and size.
    pub structs: BTreeMap<String, BTreeMap<String, Field>>,
    /// Bytes of the objects of each size class (`runtime.class_to_size`).
    pub class_to_size: Vec<u16>,
    /// What a goroutine waits for, by number (`runtime.waitReasonStrings`).
    pub wait_reasons: Vec<String>,
    /// The references to data in functions that every program has, in order: the instruction's mnemonic and size, what it
    /// refers to (nothing: something else than we look for), and how far into it.
    pub code: BTreeMap<String, Vec<(String, Option<String>, i64)>>,
}

macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident $go:literal { $($field:ident $path:literal,)* } maybe { $($option:ident $option_path:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name {
                /// Bytes of the whole.
                pub size: u64,
                $(#[doc = concat!("Offset of `", $path, "`.")] pub $field: u64,)*
                $(#[doc = concat!("Offset of `", $option_path, "`, where there is one.")] pub $option: Option<u64>,)*
            }
            impl $name {
                fn of(table: &Table) -> Result<Self, String> {
                    let missing = |what: &str| format!("the table lacks {what} of {}", $go);
                    let fields = table.structs.get($go).ok_or_else(|| missing("the fields"))?;
                    let at = |path: &str| fields.get(path).map(|(offset, _)| u64::from(*offset));
                    Ok(Self {
                        size: u64::from(*table.sizes.get($go).ok_or_else(|| missing("the size"))?),
                        $($field: at($path).ok_or_else(|| missing($path))?,)*
                        $($option: at($option_path),)*
                    })
                }

                /// All offsets and the size are less than this.
                fn is_below(&self, limit: u64) -> bool {
                    let sure = [self.size, $(self.$field,)*];
                    let maybe: &[Option<u64>] = &[$(self.$option,)*];
                    sure.iter().chain(maybe.iter().flatten()).all(|number| *number < limit)
                }
            }
        )*
    };
}

layout! {
    /// `runtime.memstats`.
    MStats "runtime.mstats" {
        heap_stats "heapStats", stacks_sys "stacks_sys", mspan_sys "mspan_sys", mcache_sys "mcache_sys",
        buckhash_sys "buckhash_sys", gc_misc_sys "gcMiscSys", other_sys "other_sys", last_gc_unix "last_gc_unix",
        pause_total_ns "pause_total_ns", pause_ns "pause_ns", pause_end "pause_end", numgc "numgc",
        numforcedgc "numforcedgc", gc_cpu_fraction "gc_cpu_fraction",
    } maybe {}
    /// One of the three at `mstats.heapStats`.
    HeapStats "runtime.heapStatsDelta" {
        committed "committed", released "released", in_heap "inHeap", in_stacks "inStacks",
        in_work_bufs "inWorkBufs", tiny_alloc_count "tinyAllocCount", large_alloc "largeAlloc",
        large_alloc_count "largeAllocCount", small_alloc_count "smallAllocCount", large_free "largeFree",
        large_free_count "largeFreeCount", small_free_count "smallFreeCount",
    } maybe { in_ptr_scalar_bits "inPtrScalarBits", }
    /// `runtime.gcController`.
    Controller "runtime.gcControllerState" {
        gc_percent "gcPercent", memory_limit "memoryLimit", gc_percent_heap_goal "gcPercentHeapGoal",
        sweep_dist_min_trigger "sweepDistMinTrigger", triggered "triggered",
        heap_marked "heapMarked", heap_in_use "heapInUse", heap_released "heapReleased", heap_free "heapFree",
        total_alloc "totalAlloc", total_free "totalFree", mapped_ready "mappedReady",
    } maybe {}
    /// `runtime.mheap_`: where its two allocators of fixed sizes are, and the sweep's generation.
    Heap "runtime.mheap" {
        span_alloc "spanalloc", cache_alloc "cachealloc", sweepgen "sweepgen",
    } maybe {}
    /// One of those allocators.
    FixAlloc "runtime.fixalloc" { inuse "inuse", } maybe {}
    /// `runtime.p`. Of `gFree` there is one of two.
    P "runtime.p" { mcache "mcache", } maybe {
        g_free_n "gFree.n", g_free_size "gFree.size",
    }
    /// `runtime.mcache`.
    MCache "runtime.mcache" { tiny_allocs "tinyAllocs", alloc "alloc", } maybe {}
    /// `runtime.mspan`.
    MSpan "runtime.mspan" {
        alloc_count "allocCount", alloc_count_before_cache "allocCountBeforeCache", sweepgen "sweepgen",
    } maybe {}
    /// `runtime.sched`. Of the free goroutines there is either one count or two.
    Sched "runtime.schedt" { ngsys "ngsys", mnext "mnext", nmfreed "nmfreed", } maybe {
        g_free_n "gFree.n", g_free_stack "gFree.stack.size", g_free_no_stack "gFree.noStack.size",
    }
    /// `runtime.g`.
    G "runtime.g" {
        stack_lo "stack.lo", stack_hi "stack.hi", sched_sp "sched.sp", sched_pc "sched.pc", sched_bp "sched.bp",
        syscall_sp "syscallsp", syscall_pc "syscallpc", status "atomicstatus", goid "goid",
        wait_since "waitsince", wait_reason "waitreason", go_pc "gopc", start_pc "startpc", m "m",
    } maybe { syscall_bp "syscallbp", parent_goid "parentGoid", lockedm "lockedm", }
    /// `runtime.m`.
    M "runtime.m" { curg "curg", procid "procid", } maybe {}
    /// `runtime.bucket`, behind which come the stack and the record.
    Bucket "runtime.bucket" {
        allnext "allnext", typ "typ", bytes "size", nstk "nstk",
    } maybe {}
    /// `runtime.memRecord`.
    Record "runtime.memRecord" { active "active", future "future", } maybe {}
    /// `runtime.memRecordCycle`. From Go 1.27 it holds no bytes: they are the count times the bucket's size.
    Cycle "runtime.memRecordCycle" { allocs "allocs", frees "frees", } maybe {}
    /// `runtime.moduledata`.
    ModuleData "runtime.moduledata" {
        text "text", etext "etext", types "types", etypes "etypes",
    } maybe { noptrdata "noptrdata", }
}

/// Everything that reading a process needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Bytes of the objects of each size class.
    pub class_sizes: Vec<u16>,
    /// What a goroutine waits for, by number.
    pub wait_reasons: Vec<String>,
    /// See the type, as for all below.
    pub mstats: MStats,
    /// See the type.
    pub heap_stats: HeapStats,
    /// See the type.
    pub controller: Controller,
    /// See the type.
    pub heap: Heap,
    /// See the type.
    pub fix_alloc: FixAlloc,
    /// See the type.
    pub p: P,
    /// See the type.
    pub mcache: MCache,
    /// See the type.
    pub mspan: MSpan,
    /// See the type.
    pub sched: Sched,
    /// See the type.
    pub g: G,
    /// See the type.
    pub m: M,
    /// See the type.
    pub bucket: Bucket,
    /// See the type.
    pub record: Record,
    /// See the type.
    pub cycle: Cycle,
    /// See the type.
    pub module_data: ModuleData,
}

impl Layout {
    /// The table's numbers by their names.
    ///
    /// # Errors
    ///
    /// If the table lacks one.
    pub fn of(table: &Table) -> Result<Self, String> {
        Ok(Self {
            class_sizes: table.class_to_size.clone(),
            wait_reasons: table.wait_reasons.clone(),
            mstats: MStats::of(table)?,
            heap_stats: HeapStats::of(table)?,
            controller: Controller::of(table)?,
            heap: Heap::of(table)?,
            fix_alloc: FixAlloc::of(table)?,
            p: P::of(table)?,
            mcache: MCache::of(table)?,
            mspan: MSpan::of(table)?,
            sched: Sched::of(table)?,
            g: G::of(table)?,
            m: M::of(table)?,
            bucket: Bucket::of(table)?,
            record: Record::of(table)?,
            cycle: Cycle::of(table)?,
            module_data: ModuleData::of(table)?,
        })
    }

    /// Whether all offsets and sizes are less than this.
    pub fn is_below(&self, limit: u64) -> bool {
        self.mstats.is_below(limit)
            && self.heap_stats.is_below(limit)
            && self.controller.is_below(limit)
            && self.heap.is_below(limit)
            && self.fix_alloc.is_below(limit)
            && self.p.is_below(limit)
            && self.mcache.is_below(limit)
            && self.mspan.is_below(limit)
            && self.sched.is_below(limit)
            && self.g.is_below(limit)
            && self.m.is_below(limit)
            && self.bucket.is_below(limit)
            && self.record.is_below(limit)
            && self.cycle.is_below(limit)
            && self.module_data.is_below(limit)
    }
}
