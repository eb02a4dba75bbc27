//! The public functions of allocators, by name: what a call does, and which arguments tell it.
//!
//! Sources: ISO C and POSIX for the C interface; the Itanium C++ ABI for the operators' names; `jemalloc(3)`; mimalloc's
//! `include/mimalloc.h` and `include/mimalloc-override.h`; gperftools' `src/gperftools/tcmalloc.h.in`.

use profiler_common::alloc::{AllocFunction, AllocOp, Register};

/// Bytes of the longest prefix that is taken for one: `_rjem_` has 6.
const MAX_PREFIX: usize = 24;
/// Bytes of the longest name that can be one.
const MAX_NAME: usize = 64;

/// What calls of a function do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub function: AllocFunction,
    pub op: AllocOp,
    /// Which of the function's arguments (from 0) are those of the operation.
    pub arguments: [u8; 3],
}

/// Which way the blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Allocating,
    Resizing,
    Freeing,
}

impl Role {
    const fn new(function: AllocFunction, op: AllocOp, arguments: [u8; 3]) -> Self {
        Self { function, op, arguments }
    }

    /// Where the operation's arguments are at the function's entry.
    pub fn registers(&self) -> [Register; 3] {
        self.arguments.map(|position| Register::ARGUMENTS[usize::from(position).min(5)])
    }

    pub const fn kind(&self) -> Kind {
        match self.op {
            AllocOp::Allocate | AllocOp::AllocateArray | AllocOp::AllocateAligned | AllocOp::AllocateCopy => {
                Kind::Allocating
            }
            AllocOp::Resize | AllocOp::ResizeArray => Kind::Resizing,
            AllocOp::Free => Kind::Freeing,
        }
    }
}

/// Whose name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family<'a> {
    /// The C interface, with what stands before the names: nothing in most cases.
    C(&'a str),
    /// C++ operators.
    Operators,
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A function whose calls may be counted.
    Role(Family<'a>, Role),
    /// A function of an allocator's library that asks for blocks in the program's name, as `mi_realpath`; whether, its
    /// arguments don't tell.
    Client(Family<'a>),
    /// A name that tells which allocator it is.
    Companion,
}

use AllocFunction as F;
use AllocOp as O;

const fn role(function: AllocFunction, op: AllocOp, arguments: [u8; 3]) -> Role {
    Role::new(function, op, arguments)
}

const ALLOCATE: [u8; 3] = [0, 1, 2];

/// The C interface and jemalloc's own functions. All may stand behind a prefix.
const C_NAMES: [(&str, Role); 18] = [
    ("malloc", role(F::Malloc, O::Allocate, ALLOCATE)),
    ("calloc", role(F::Calloc, O::AllocateArray, ALLOCATE)),
    ("realloc", role(F::Realloc, O::Resize, ALLOCATE)),
    ("reallocarray", role(F::Reallocarray, O::ResizeArray, ALLOCATE)),
    // The first argument is where the block's address is stored.
    ("posix_memalign", role(F::PosixMemalign, O::AllocateAligned, [1, 2, 0])),
    ("aligned_alloc", role(F::AlignedAlloc, O::AllocateAligned, ALLOCATE)),
    ("memalign", role(F::Memalign, O::AllocateAligned, ALLOCATE)),
    ("valloc", role(F::Valloc, O::Allocate, ALLOCATE)),
    ("pvalloc", role(F::Pvalloc, O::Allocate, ALLOCATE)),
    ("free", role(F::Free, O::Free, ALLOCATE)),
    // An old name of `free`, kept for old binaries since glibc 2.26.
    ("cfree", role(F::Free, O::Free, ALLOCATE)),
    // C23.
    ("free_sized", role(F::Free, O::Free, ALLOCATE)),
    ("free_aligned_sized", role(F::Free, O::Free, ALLOCATE)),
    // FreeBSD's and mimalloc's: frees the block when it fails.
    ("reallocf", role(F::Realloc, O::Resize, ALLOCATE)),
    ("mallocx", role(F::Mallocx, O::Allocate, ALLOCATE)),
    ("rallocx", role(F::Rallocx, O::Resize, ALLOCATE)),
    ("dallocx", role(F::Dallocx, O::Free, ALLOCATE)),
    ("sdallocx", role(F::Dallocx, O::Free, ALLOCATE)),
];

/// What mimalloc has besides, behind `mi_`; also behind `mi_heap_`, where a heap comes first.
const MIMALLOC_NAMES: [(&str, Role); 36] = [
    ("zalloc", role(F::Malloc, O::Allocate, ALLOCATE)),
    ("malloc_small", role(F::Malloc, O::Allocate, ALLOCATE)),
    ("zalloc_small", role(F::Malloc, O::Allocate, ALLOCATE)),
    ("mallocn", role(F::Calloc, O::AllocateArray, ALLOCATE)),
    ("reallocn", role(F::Reallocarray, O::ResizeArray, ALLOCATE)),
    ("rezalloc", role(F::Realloc, O::Resize, ALLOCATE)),
    ("recalloc", role(F::Reallocarray, O::ResizeArray, ALLOCATE)),
    // The size comes first.
    ("malloc_aligned", role(F::AlignedAlloc, O::AllocateAligned, [1, 0, 2])),
    ("malloc_aligned_at", role(F::AlignedAlloc, O::AllocateAligned, [1, 0, 2])),
    ("zalloc_aligned", role(F::AlignedAlloc, O::AllocateAligned, [1, 0, 2])),
    ("zalloc_aligned_at", role(F::AlignedAlloc, O::AllocateAligned, [1, 0, 2])),
    ("calloc_aligned", role(F::Calloc, O::AllocateArray, ALLOCATE)),
    ("calloc_aligned_at", role(F::Calloc, O::AllocateArray, ALLOCATE)),
    ("realloc_aligned", role(F::Realloc, O::Resize, ALLOCATE)),
    ("realloc_aligned_at", role(F::Realloc, O::Resize, ALLOCATE)),
    ("rezalloc_aligned", role(F::Realloc, O::Resize, ALLOCATE)),
    ("rezalloc_aligned_at", role(F::Realloc, O::Resize, ALLOCATE)),
    ("recalloc_aligned", role(F::Reallocarray, O::ResizeArray, ALLOCATE)),
    ("recalloc_aligned_at", role(F::Reallocarray, O::ResizeArray, ALLOCATE)),
    ("aligned_recalloc", role(F::Reallocarray, O::ResizeArray, ALLOCATE)),
    ("aligned_offset_recalloc", role(F::Reallocarray, O::ResizeArray, ALLOCATE)),
    ("free_size", role(F::Free, O::Free, ALLOCATE)),
    ("free_size_aligned", role(F::Free, O::Free, ALLOCATE)),
    ("free_aligned", role(F::Free, O::Free, ALLOCATE)),
    ("alloc_new", role(F::OperatorNew, O::Allocate, ALLOCATE)),
    ("strdup", role(F::Strdup, O::AllocateCopy, ALLOCATE)),
    ("strndup", role(F::Strdup, O::AllocateCopy, ALLOCATE)),
    ("mbsdup", role(F::Strdup, O::AllocateCopy, ALLOCATE)),
    ("wcsdup", role(F::Strdup, O::AllocateCopy, ALLOCATE)),
    // Since version 3: the same, telling the block's real size through a pointer behind all other arguments.
    ("umalloc", role(F::Malloc, O::Allocate, ALLOCATE)),
    ("umalloc_small", role(F::Malloc, O::Allocate, ALLOCATE)),
    ("ucalloc", role(F::Calloc, O::AllocateArray, ALLOCATE)),
    ("urealloc", role(F::Realloc, O::Resize, ALLOCATE)),
    ("ufree", role(F::Free, O::Free, ALLOCATE)),
    ("umalloc_aligned", role(F::AlignedAlloc, O::AllocateAligned, [1, 0, 2])),
    ("uzalloc_aligned", role(F::AlignedAlloc, O::AllocateAligned, [1, 0, 2])),
];

/// Those of mimalloc's that stand for C++ operators, behind `mi_`.
const MIMALLOC_OPERATORS: [(&str, Role); 8] = [
    ("new", role(F::OperatorNew, O::Allocate, ALLOCATE)),
    ("new_nothrow", role(F::OperatorNew, O::Allocate, ALLOCATE)),
    ("new_aligned", role(F::OperatorNew, O::Allocate, ALLOCATE)),
    ("new_aligned_nothrow", role(F::OperatorNew, O::Allocate, ALLOCATE)),
    ("new_n", role(F::OperatorNew, O::AllocateArray, ALLOCATE)),
    ("new_realloc", role(F::Realloc, O::Resize, ALLOCATE)),
    ("new_reallocn", role(F::Reallocarray, O::ResizeArray, ALLOCATE)),
    ("heap_alloc_new_n", role(F::OperatorNew, O::AllocateArray, [1, 2, 3])),
];

/// mimalloc's functions that allocate for the program, or don't, as their arguments don't tell; behind `mi_` or `mi_heap_`.
const MIMALLOC_CLIENTS: [&str; 4] = ["realpath", "dupenv_s", "wdupenv_s", "reallocarr"];

/// How the names end by which a prefix shows: no allocator is without them.
const SIGNS: [&str; 3] = ["malloc", "mallocx", "sdallocx"];

/// Names that tell the allocator: see `candidates`.
const COMPANIONS: [&str; 13] = [
    "gnu_get_libc_version",
    "malloc_usable_size",
    "MallocExtension_ReleaseFreeMemory",
    "TCMallocInternalMalloc",
    "__dls3",
    "__libc_malloc_impl",
    "__malloc_donate",
    "__malloc_atfork",
    "__bin_chunk",
    // glibc's, at the end of a thread: inside the allocator's object file, for tests.
    "__malloc_arena_thread_freeres",
    "__libc_freeres",
    "_dl_debug_state",
    "mallctl",
];

/// Prefixes of internal functions which are no allocator of their own or have other arguments: glibc's allocator
/// proper (`_int_malloc(arena, size)`), the dynamic linker's before there is another, jemalloc's for FreeBSD's start.
const NOT_PREFIXES: [&str; 4] = ["_int_", "__minimal_", "__rtld_", "_dl_"];

/// The meaning of a name, if it has one here.
pub(super) fn meaning(name: &str) -> Option<Meaning<'_>> {
    if name.len() > MAX_NAME {
        return None;
    }
    if COMPANIONS.contains(&name) {
        return Some(Meaning::Companion);
    }
    if let Some(role) = operator(name) {
        return Some(Meaning::Role(Family::Operators, role));
    }
    if let Some(rest) = name.strip_prefix("mi_") {
        return mimalloc(rest);
    }
    // Names of other systems and old ones, behind which mimalloc and tcmalloc stand as well.
    match name {
        "__posix_memalign" => return meaning("posix_memalign"),
        "_aligned_malloc" => return meaning("mi_aligned_alloc"),
        "vfree" => return meaning("mi_free"),
        "reallocarr" => return meaning("mi_reallocarr"),
        _ => (),
    }
    if let Some(role) = name.strip_prefix("tc_").and_then(tcmalloc) {
        return Some(Meaning::Role(Family::C("tc_"), role));
    }
    // The longest that fits: `free_sized` before nothing, `reallocarray` before nothing, `cfree` before `free`.
    let fits = C_NAMES
        .iter()
        .filter(|(base, _)| name.ends_with(base) && is_prefix(&name[..name.len() - base.len()]));
    if let Some((base, role)) = fits.max_by_key(|(base, _)| base.len()) {
        return Some(Meaning::Role(Family::C(&name[..name.len() - base.len()]), *role));
    }
    let companion = name.strip_suffix("mallctl").is_some_and(is_prefix);
    companion.then_some(Meaning::Companion)
}

/// What a name says, if it is one by which an allocator shows: many libraries have hundreds of functions that only end like
/// one (`SSL_free`).
pub(super) fn sign(name: &str) -> Option<Meaning<'_>> {
    let begins = ["_Z", "mi_", "tc_"].iter().any(|begin| name.starts_with(begin));
    let ends = SIGNS.iter().any(|end| name.ends_with(end));
    let meaning =
        (begins || ends || COMPANIONS.contains(&name) || name.ends_with("mallctl")).then(|| meaning(name));
    meaning.flatten()
}

fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= MAX_PREFIX
        && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !NOT_PREFIXES.contains(&prefix)
        && !prefix.ends_with("bootstrap_")
}

fn mimalloc(rest: &str) -> Option<Meaning<'_>> {
    const FAMILY: Family<'_> = Family::C("mi_");
    let find = |name: &str| {
        let mut all = C_NAMES.iter().chain(&MIMALLOC_NAMES);
        all.find(|(base, _)| *base == name).map(|(_, role)| *role)
    };
    if let Some((_, role)) = MIMALLOC_OPERATORS.iter().find(|(base, _)| *base == rest) {
        return Some(Meaning::Role(FAMILY, *role));
    }
    // `mi_theap_`: since version 3, what was a heap before.
    let heap = rest.strip_prefix("heap_").or_else(|| rest.strip_prefix("theap_"));
    if MIMALLOC_CLIENTS.contains(&heap.unwrap_or(rest)) {
        return Some(Meaning::Client(FAMILY));
    }
    let Some(heap) = heap else { return find(rest).map(|role| Meaning::Role(FAMILY, role)) };
    // A block is given back without its heap: `mi_heap_free` would free the heap.
    let role = find(heap).filter(|role| role.kind() != Kind::Freeing)?;
    Some(Meaning::Role(FAMILY, Role { arguments: role.arguments.map(|position| position + 1), ..role }))
}

fn tcmalloc(rest: &str) -> Option<Role> {
    if rest.starts_with("new") {
        return Some(role(F::OperatorNew, O::Allocate, ALLOCATE));
    }
    if rest.starts_with("delete") {
        return Some(role(F::OperatorDelete, O::Free, ALLOCATE));
    }
    (rest == "malloc_skip_new_handler").then_some(role(F::Malloc, O::Allocate, ALLOCATE))
}

/// The operators' alignment is a constant of the compiler's, always good, and so only the size matters.
fn operator(name: &str) -> Option<Role> {
    const NOTHROW: &str = "RKSt9nothrow_t";
    let forms = |rest: &str, sized: bool| {
        let rest = if sized { rest.strip_prefix('m').unwrap_or(rest) } else { rest };
        let rest = rest.strip_prefix("St11align_val_t").unwrap_or(rest);
        let rest = rest.strip_prefix(NOTHROW).unwrap_or(rest);
        // Google's tcmalloc has forms with a hint.
        let rest = rest.strip_prefix("12__hot_cold_t").unwrap_or(rest);
        rest.is_empty()
    };
    if let Some(rest) = name.strip_prefix("_Znwm").or_else(|| name.strip_prefix("_Znam")) {
        return forms(rest, false).then_some(role(F::OperatorNew, O::Allocate, ALLOCATE));
    }
    let rest = name.strip_prefix("_ZdlPv").or_else(|| name.strip_prefix("_ZdaPv"))?;
    forms(rest, true).then_some(role(F::OperatorDelete, O::Free, ALLOCATE))
}
