//! What names mean.

use profiler_common::alloc::{AllocFunction, AllocOp, Register};

use crate::binary::names::{Family, Meaning, meaning, sign};

#[test]
fn the_arguments_of_each_function() {
    use AllocFunction as F;
    use AllocOp as O;
    use Register::{Rcx, Rdi, Rdx, Rsi};
    let cases: [(&str, &str, F, O, &[Register]); 27] = [
        ("malloc", "", F::Malloc, O::Allocate, &[Rdi]),
        ("calloc", "", F::Calloc, O::AllocateArray, &[Rdi, Rsi]),
        ("realloc", "", F::Realloc, O::Resize, &[Rdi, Rsi]),
        ("reallocarray", "", F::Reallocarray, O::ResizeArray, &[Rdi, Rsi, Rdx]),
        ("posix_memalign", "", F::PosixMemalign, O::AllocateAligned, &[Rsi, Rdx]),
        ("aligned_alloc", "", F::AlignedAlloc, O::AllocateAligned, &[Rdi, Rsi]),
        ("cfree", "", F::Free, O::Free, &[Rdi]),
        ("free_aligned_sized", "", F::Free, O::Free, &[Rdi]),
        ("_rjem_malloc", "_rjem_", F::Malloc, O::Allocate, &[Rdi]),
        ("je_reallocarray", "je_", F::Reallocarray, O::ResizeArray, &[Rdi, Rsi, Rdx]),
        ("_rjem_sdallocx", "_rjem_", F::Dallocx, O::Free, &[Rdi]),
        ("je_rallocx", "je_", F::Rallocx, O::Resize, &[Rdi, Rsi]),
        ("tc_newarray_aligned_nothrow", "tc_", F::OperatorNew, O::Allocate, &[Rdi]),
        ("tc_deletearray_sized", "tc_", F::OperatorDelete, O::Free, &[Rdi]),
        ("tc_posix_memalign", "tc_", F::PosixMemalign, O::AllocateAligned, &[Rsi, Rdx]),
        ("mi_malloc_aligned_at", "mi_", F::AlignedAlloc, O::AllocateAligned, &[Rsi, Rdi]),
        ("mi_heap_malloc_aligned", "mi_", F::AlignedAlloc, O::AllocateAligned, &[Rdx, Rsi]),
        ("mi_heap_malloc", "mi_", F::Malloc, O::Allocate, &[Rsi]),
        ("mi_theap_realloc", "mi_", F::Realloc, O::Resize, &[Rsi, Rdx]),
        ("mi_heap_recalloc", "mi_", F::Reallocarray, O::ResizeArray, &[Rsi, Rdx, Rcx]),
        ("mi_heap_alloc_new_n", "mi_", F::OperatorNew, O::AllocateArray, &[Rsi, Rdx]),
        ("mi_new_reallocn", "mi_", F::Reallocarray, O::ResizeArray, &[Rdi, Rsi, Rdx]),
        ("mi_free_size_aligned", "mi_", F::Free, O::Free, &[Rdi]),
        ("mi_strdup", "mi_", F::Strdup, O::AllocateCopy, &[Rdi]),
        ("mi_heap_strndup", "mi_", F::Strdup, O::AllocateCopy, &[Rsi]),
        ("mi_theap_strdup", "mi_", F::Strdup, O::AllocateCopy, &[Rsi]),
        ("mi_zalloc_small", "mi_", F::Malloc, O::Allocate, &[Rdi]),
    ];
    for (name, prefix, function, op, registers) in cases {
        let Some(Meaning::Role(family, role)) = meaning(name) else { panic!("{name}") };
        assert_eq!((family, role.function, role.op), (Family::C(prefix), function, op), "{name}");
        assert_eq!(&role.registers()[..op.arguments()], registers, "{name}");
    }
}

#[test]
fn operators_in_all_forms() {
    for name in ["_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamSt11align_val_tRKSt9nothrow_t"] {
        let Some(Meaning::Role(Family::Operators, role)) = meaning(name) else { panic!("{name}") };
        assert_eq!((role.function, role.registers()[0]), (AllocFunction::OperatorNew, Register::Rdi));
    }
    for name in
        ["_ZdlPv", "_ZdaPvm", "_ZdlPvSt11align_val_t", "_ZdaPvmSt11align_val_t", "_ZdlPvRKSt9nothrow_t"]
    {
        let Some(Meaning::Role(Family::Operators, role)) = meaning(name) else { panic!("{name}") };
        assert_eq!(role.function, AllocFunction::OperatorDelete);
    }
    // Placement new takes its place as an argument.
    for name in ["_ZnwmPv", "_ZdlPvS_", "_ZnwRKSt9nothrow_t", "_Znw", "_ZdlPvx"] {
        assert_eq!(meaning(name), None, "{name}");
    }
}

#[test]
fn names_that_only_look_like_it() {
    let long = format!("{}malloc", "a".repeat(25));
    for name in ["mallo", "malloc_trim", "malloc2", "", "x-malloc", &long, "_int_malloc", "__minimal_free"] {
        assert_eq!(meaning(name), None, "{name}");
    }
    for name in
        ["mi_expand", "mi_usable_size", "mi_heap_free", "mi_heap_new", "nallocx", "xallocx", "je_sallocx"]
    {
        assert!(!matches!(meaning(name), Some(Meaning::Role(..))), "{name}");
    }
    assert!(matches!(meaning("mi_heap_realpath"), Some(Meaning::Client(_))));
    // Of the many that end in `free`, none is a sign of an allocator.
    assert!(sign("SSL_free").is_none() && sign("free").is_none());
    assert!(sign("je_malloc").is_some() && sign("mi_free").is_some() && sign("_rjem_sdallocx").is_some());
}
