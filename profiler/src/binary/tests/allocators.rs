//! The allocators of this machine. What is expected was measured: a program made each call, with a uprobe on every public
//! function, and what was entered in which order told who passes on to whom.

use std::collections::BTreeSet;

use profiler_common::alloc::{AllocOp, BAD_ALIGNMENT_FAILS, NULL_FAILS, Register, ZERO_RESIZES};

use super::built::Workshop;
use super::library;
use crate::binary::{Allocator, Hook, Image, Layer, LeftOutReason, SiteKind, analyse};

fn hook<'a>(image: &'a Image, name: &str) -> &'a Hook {
    let here = |hook: &&Hook| hook.names.iter().any(|other| other == name);
    image.hooks.iter().find(here).unwrap_or_else(|| panic!("{name}: {image:#x?}"))
}

/// The hooked functions, each by its first name.
fn hooked(image: &Image) -> BTreeSet<&str> {
    image.hooks.iter().map(|hook| hook.names[0].as_str()).collect()
}

fn is_wrapper(image: &Image, name: &str) -> bool {
    image.left_out.iter().any(|left| {
        left.name.split(", ").any(|other| other == name) && matches!(left.reason, LeftOutReason::WrapperOf(_))
    })
}

fn notes(image: &Image) -> Vec<&String> {
    image.hooks.iter().flat_map(|hook| &hook.notes).collect()
}

#[test]
fn jemalloc_of_debian_12() {
    let Some(bytes) = library("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2") else { return };
    let image = analyse(&bytes, None).unwrap();
    let expected = [
        "malloc",
        "calloc",
        "realloc",
        "posix_memalign",
        "aligned_alloc",
        "memalign",
        "valloc",
        "free",
        "mallocx",
        "rallocx",
        "dallocx",
        "sdallocx",
        "_Znwm",
        "_ZnwmRKSt9nothrow_t",
        "_ZdlPvm",
        "_ZdaPvm",
    ];
    assert_eq!(hooked(&image), BTreeSet::from(expected));
    for wrapper in
        ["_Znam", "_ZnwmSt11align_val_t", "_ZdlPv", "_ZdaPvRKSt9nothrow_t", "_ZdlPvmSt11align_val_t"]
    {
        assert!(is_wrapper(&image, wrapper), "{wrapper}");
    }
    assert!(image.hooks.iter().all(|hook| hook.layer == Layer::Allocator(Allocator::Jemalloc)));
    assert_eq!(hook(&image, "realloc").flags, 0, "realloc(p, 0) frees");
    assert_eq!(hook(&image, "rallocx").flags, NULL_FAILS);
    assert_eq!(hook(&image, "aligned_alloc").flags, BAD_ALIGNMENT_FAILS);
    assert_eq!(notes(&image), <[&String; 0]>::default());
}

#[test]
fn tcmalloc_of_debian_12() {
    let Some(bytes) = library("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4") else { return };
    let image = analyse(&bytes, None).unwrap();
    let expected = [
        "malloc",
        "calloc",
        "realloc",
        "aligned_alloc",
        "free",
        "_ZdaPvm",
        "_ZdaPvRKSt9nothrow_t",
        "_ZdaPvSt11align_val_t",
        "_ZdaPvmSt11align_val_t",
        "_ZdaPvSt11align_val_tRKSt9nothrow_t",
        "_Znam",
        "_ZnamRKSt9nothrow_t",
        "_ZnamSt11align_val_t",
        "_ZnamSt11align_val_tRKSt9nothrow_t",
        "tc_malloc_skip_new_handler",
    ];
    assert_eq!(hooked(&image), BTreeSet::from(expected));
    for wrapper in ["posix_memalign", "valloc", "tc_pvalloc"] {
        assert!(is_wrapper(&image, wrapper), "{wrapper}");
    }
    assert!(hook(&image, "free").names.contains(&"_ZdlPv".to_string()));
    assert_eq!(hook(&image, "free").address, hook(&image, "tc_delete").address);
    assert_eq!((hook(&image, "realloc").flags, hook(&image, "memalign").flags), (0, 0));
    assert_eq!(notes(&image), <[&String; 0]>::default());
}

#[test]
fn mimalloc_of_debian_12() {
    let Some(bytes) = library("/usr/lib/x86_64-linux-gnu/libmimalloc.so.2") else { return };
    let image = analyse(&bytes, None).unwrap();
    for own in [
        "malloc",
        "calloc",
        "free",
        "mi_zalloc",
        "mi_malloc_small",
        "mi_heap_malloc",
        "mi_heap_realloc",
        "_Znwm",
        "mi_new_nothrow",
        "mi_new_n",
        "mi_heap_malloc_aligned_at",
        "mi_heap_realloc_aligned",
    ] {
        hook(&image, own);
    }
    for wrapper in [
        "realloc",
        "reallocarray",
        "mi_reallocf",
        "posix_memalign",
        "mi_posix_memalign",
        "mi_heap_malloc_aligned",
        "valloc",
        "_ZdlPvm",
        "_ZdlPvmSt11align_val_t",
        "mi_new_realloc",
        "mi_new_reallocn",
        "cfree",
        "mi_cfree",
        "mi_recalloc_aligned_at",
        "mi_new_aligned",
    ] {
        assert!(is_wrapper(&image, wrapper), "{wrapper}");
    }
    assert_eq!(hook(&image, "mi_heap_realloc").flags, ZERO_RESIZES);
    // The argument has moved to its place behind the heap; where malloc is called, it is still where it belongs.
    let malloc = hook(&image, "malloc");
    assert_eq!((malloc.registers[0], malloc.entry_registers[0]), (Register::Rsi, Register::Rdi));
    assert_eq!(malloc.site.kind, SiteKind::Emulated);
    // It moves a block by giving the old one back.
    assert!(!hook(&image, "mi_free").internal_calls.is_empty());
    for wrapper in ["mi_strdup", "mi_strndup", "mi_mbsdup", "mi_wcsdup"] {
        assert!(is_wrapper(&image, wrapper), "{wrapper}");
    }
    // A text's length is in no register; all else is exact.
    for hook in &image.hooks {
        let copies = ["mi_heap_strdup", "mi_heap_strndup"].contains(&hook.names[0].as_str());
        assert_eq!(hook.op == AllocOp::AllocateCopy, copies, "{hook:x?}");
        let notes: &[&str] = if copies { &["how many bytes"] } else { &[] };
        assert!(hook.notes.len() == notes.len() && hook.notes.iter().zip(notes).all(|(a, b)| a.contains(b)));
    }
    // They take their blocks by calls of the others.
    assert!(image.left_out.iter().all(|left| left.reason != LeftOutReason::Client), "{:?}", image.left_out);
}

#[test]
fn musl_of_debian_12() {
    let Some(bytes) = library("/usr/lib/x86_64-linux-musl/libc.so") else { return };
    let image = analyse(&bytes, None).unwrap();
    assert_eq!(hooked(&image), BTreeSet::from(["malloc", "free", "realloc", "aligned_alloc"]));
    for wrapper in ["calloc", "memalign", "posix_memalign", "valloc", "reallocarray"] {
        assert!(is_wrapper(&image, wrapper), "{wrapper}");
    }
    assert!(image.hooks.iter().all(|hook| hook.layer == Layer::Allocator(Allocator::Musl)));
    assert!(
        image.hooks.iter().all(|hook| hook.internal_calls.is_empty() && hook.notes.is_empty()),
        "{image:#x?}"
    );
    assert_eq!(hook(&image, "realloc").flags, ZERO_RESIZES);
    assert!(image.loader.is_some(), "it is the dynamic linker, too");
}

#[test]
fn libstdcxx_only_passes_on() {
    let Some(bytes) = library("/usr/lib/x86_64-linux-gnu/libstdc++.so.6") else { return };
    let image = analyse(&bytes, None).unwrap();
    assert_eq!(image.hooks, []);
    assert!(image.left_out.len() >= 20, "{:?}", image.left_out);
    assert!(image.left_out.iter().all(|left| matches!(left.reason, LeftOutReason::WrapperOf(_))));
}

#[test]
fn the_dynamic_linker_tells_of_libraries() {
    let Some(bytes) = library("/lib64/ld-linux-x86-64.so.2") else { return };
    let image = analyse(&bytes, None).unwrap();
    assert_eq!(image.hooks, []);
    assert!(image.loader.is_some());
}

/// glibc's allocator in a static program: the same hooks as in the library, and the program's own calls are none of the
/// allocator's.
#[test]
fn a_static_program() {
    let Some(workshop) = Workshop::with(&["gcc", "strip", "objcopy", "nm"]) else { return };
    workshop.build("gcc -static");
    let image = analyse(&workshop.read("program"), None).unwrap();
    assert!(image.is_static && !image.is_stripped && !image.wants_symbols);
    assert!(image.hooks.iter().all(|hook| hook.layer == Layer::Allocator(Allocator::Glibc)), "{image:#x?}");
    assert_eq!(notes(&image), <[&String; 0]>::default());
    let symbols = workshop.run("nm -n program");
    let at = |name: &str| {
        let line = symbols
            .lines()
            .find(|line| line.split(' ').nth(2) == Some(name))
            .unwrap_or_else(|| panic!("{name}"));
        u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
    };
    for (name, expected) in [("malloc", 2), ("free", 3)] {
        let hook = hook(&image, name);
        assert_eq!(hook.address, at(name));
        assert_eq!(hook.internal_calls.len(), expected, "{hook:x?}");
        // realloc and the end of a thread stand between free and memalign.
        let inside = at("__libc_free")..at("__libc_memalign");
        assert!(hook.internal_calls.iter().all(|call| inside.contains(&call.address)), "{hook:x?}");
    }
    let stripped = workshop.read("stripped");
    let bare = analyse(&stripped, None).unwrap();
    assert_eq!(bare.hooks, []);
    assert!(bare.wants_symbols && bare.lacks_symbols().is_some());
    let helped = analyse(&stripped, Some(&workshop.read("program.debug"))).unwrap();
    assert_eq!(helped.hooks, image.hooks);
    assert!(!helped.wants_symbols);
}

/// musl's allocator in a static program.
#[test]
fn a_static_program_with_musl() {
    let Some(workshop) = Workshop::with(&["musl-gcc", "strip", "objcopy"]) else { return };
    workshop.build("musl-gcc -static");
    let image = analyse(&workshop.read("program"), None).unwrap();
    assert!(image.hooks.iter().all(|hook| hook.layer == Layer::Allocator(Allocator::Musl)), "{image:#x?}");
    for name in ["calloc", "free", "realloc"] {
        assert!(is_wrapper(&image, name), "{name}");
    }
    // Its realloc gives a block back that it has moved.
    assert_eq!(hook(&image, "__libc_free").internal_calls.len(), 1);
    assert_eq!(hook(&image, "malloc").internal_calls, []);
}
