//! The libraries of this machine: known facts, and a second opinion on every site in them.

use std::collections::HashSet;
use std::time::Instant;

use profiler_common::alloc::{
    AllocFunction, BAD_ALIGNMENT_FAILS, NULL_COUNTED_ELSEWHERE, POINTER_ALIGNMENT, RESULT_IN_MEMORY,
    Register, SMALL_ALIGNMENT_COUNTED_ELSEWHERE,
};

use super::walks::{Memory, check};
use super::{glibc, library};
use crate::binary::glibc::{C_FUNCTIONS, recipe};
use crate::binary::names::{Meaning, meaning};
use crate::binary::{
    Allocator, Class, Hook, Image, InternalCall, Layer, LeftOutReason, MAX_INTERNAL_CALLS, NotSampled, Site,
    SiteError, SiteKind, analyse, code_and_exports, site,
};

const GLIBCS: [&str; 3] = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    // Debian's libc6-amd64-cross and libc6-amd64-i386-cross: other builds.
    "/usr/x86_64-linux-gnu/lib/libc.so.6",
    "/usr/i686-linux-gnu/lib64/libc.so.6",
];
const OTHERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
    "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
    "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal_debug.so.4",
    "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2",
    "/usr/lib/x86_64-linux-musl/libc.so",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
];

/// Allocator functions beyond C's, with the number of their arguments.
const MORE: [(&str, usize); 26] = [
    ("cfree", 1),
    ("malloc_usable_size", 1),
    ("_Znwm", 1),
    ("_Znam", 1),
    ("_ZnwmRKSt9nothrow_t", 2),
    ("_ZnamRKSt9nothrow_t", 2),
    ("_ZnwmSt11align_val_t", 2),
    ("_ZnamSt11align_val_t", 2),
    ("_ZnwmSt11align_val_tRKSt9nothrow_t", 3),
    ("_ZnamSt11align_val_tRKSt9nothrow_t", 3),
    ("_ZdlPv", 1),
    ("_ZdaPv", 1),
    ("_ZdlPvm", 2),
    ("_ZdaPvm", 2),
    ("_ZdlPvRKSt9nothrow_t", 2),
    ("_ZdaPvRKSt9nothrow_t", 2),
    ("_ZdlPvSt11align_val_t", 2),
    ("_ZdaPvSt11align_val_t", 2),
    ("_ZdlPvmSt11align_val_t", 3),
    ("_ZdaPvmSt11align_val_t", 3),
    ("mallocx", 2),
    ("rallocx", 3),
    ("xallocx", 3),
    ("dallocx", 2),
    ("sdallocx", 3),
    ("tc_malloc", 1),
];

fn hook(image: &Image, function: AllocFunction) -> &Hook {
    image.hooks.iter().find(|hook| hook.function == function).unwrap()
}

/// The facts of Debian 12's glibc 2.36, built for this machine or another one: what was read off its disassembly.
#[test]
fn glibc_of_debian_12() {
    for path in GLIBCS {
        let Some(bytes) = library(path) else { continue };
        let image = analyse(&bytes, None).unwrap();
        assert_eq!(image.class, Class::Elf64X86_64);
        assert!(image.hooks.iter().all(|hook| hook.layer == Layer::Allocator(Allocator::Glibc)));
        assert_eq!(image.soname.as_deref(), Some("libc.so.6"));
        assert_eq!(image.build_id.as_ref().map(String::len), Some(40));
        let version = b"GNU C Library (Debian GLIBC 2.36-";
        if !bytes.windows(version.len()).any(|window| window == version) {
            println!("SKIPPED the facts of glibc 2.36: {path} is another version");
            continue;
        }
        let facts: [(AllocFunction, u64, &str, u32, &[&str]); 8] = [
            (AllocFunction::Malloc, 0, "push %r12", 0, &["malloc"]),
            (AllocFunction::Calloc, 0, "push %r13", 0, &["calloc"]),
            (AllocFunction::Realloc, 0, "push %r15", NULL_COUNTED_ELSEWHERE, &["realloc"]),
            (
                AllocFunction::PosixMemalign,
                7,
                "push %r12",
                BAD_ALIGNMENT_FAILS
                    | POINTER_ALIGNMENT
                    | SMALL_ALIGNMENT_COUNTED_ELSEWHERE
                    | RESULT_IN_MEMORY,
                &["posix_memalign"],
            ),
            (
                AllocFunction::AlignedAlloc,
                7,
                "je ",
                SMALL_ALIGNMENT_COUNTED_ELSEWHERE,
                &["aligned_alloc", "memalign"],
            ),
            (AllocFunction::Valloc, 7, "push %rbx", 0, &["valloc"]),
            (AllocFunction::Pvalloc, 7, "push %rbx", 0, &["pvalloc"]),
            (AllocFunction::Free, 3, "je ", 0, &["free", "cfree"]),
        ];
        assert_eq!(image.hooks.len(), facts.len());
        for (function, offset, instruction, flags, names) in facts {
            let hook = hook(&image, function);
            assert_eq!((hook.site.offset, hook.site.kind), (offset, SiteKind::Emulated), "{hook:x?}");
            assert!(hook.site.instruction.starts_with(instruction), "{hook:x?}");
            assert_eq!(hook.flags, flags, "{hook:x?}");
            assert_eq!(hook.names, names);
            assert!(hook.notes.is_empty(), "{hook:x?}");
            // None of them has moved the stack pointer before its site.
            let frees = function == AllocFunction::Free;
            assert_eq!(hook.not_sampled, frees.then_some(NotSampled::Frees), "{hook:x?}");
        }
        let reasons: Vec<_> =
            image.left_out.iter().map(|left| (left.name.as_str(), left.reason.clone())).collect();
        let expected = [
            ("reallocarray", LeftOutReason::WrapperOf(AllocFunction::Realloc)),
            ("memalign", LeftOutReason::SameAddressAs(AllocFunction::AlignedAlloc)),
        ];
        assert_eq!(reasons, expected);

        // Who calls itself: realloc (0x4df bytes long in both builds), and the end of a thread, which stands between free
        // and realloc.
        let [malloc, free, realloc] = [AllocFunction::Malloc, AllocFunction::Free, AllocFunction::Realloc]
            .map(|function| hook(&image, function));
        let in_realloc =
            |call: &InternalCall| (realloc.address..realloc.address + 0x4df).contains(&call.address);
        let in_thread_end = |call: &InternalCall| (free.address..realloc.address).contains(&call.address);
        let [first, second] = malloc.internal_calls.as_slice() else { panic!("{malloc:x?}") };
        assert!(in_realloc(first) && in_realloc(second), "{malloc:x?}");
        let [first, second, third] = free.internal_calls.as_slice() else { panic!("{free:x?}") };
        assert!(in_thread_end(first) && in_thread_end(second) && in_realloc(third), "{free:x?}");
        let others =
            image.hooks.iter().filter(|hook| ![malloc.address, free.address].contains(&hook.address));
        assert!(others.clone().count() == 6 && others.clone().all(|hook| hook.internal_calls.is_empty()));
        if image.build_id.as_deref() == Some("93ac61ec5a8eb1396f9fbd350e3169a558528a40") {
            // 2.36-9+deb12u14, as objdump shows it.
            let addresses = |hook: &Hook| hook.internal_calls.iter().map(|c| c.address).collect::<Vec<_>>();
            assert_eq!(addresses(malloc), [0x9945b, 0x99527]);
            assert_eq!(addresses(free), [0x9904d, 0x9907c, 0x99323]);
        }
    }
}

/// Every internal call is a call of the hooked function, byte for byte, and stands where disassembling its function in a
/// line from the begin puts an instruction.
#[test]
fn internal_calls_are_calls() {
    for bytes in GLIBCS.into_iter().filter_map(library) {
        let image = analyse(&bytes, None).unwrap();
        let (text, _) = code_and_exports(&bytes, &[]).unwrap();
        let mut calls = 0;
        for hook in &image.hooks {
            assert!(hook.internal_calls.len() <= MAX_INTERNAL_CALLS);
            assert!(hook.internal_calls.is_sorted_by(|a, b| a.address < b.address), "{hook:x?}");
            for call in &hook.internal_calls {
                assert_eq!(image.file_offset_of(call.address), Some(call.file_offset));
                let [0xe8 | 0xe9, displacement @ ..] = &bytes[call.file_offset as usize..][..5] else {
                    panic!("{call:x?}")
                };
                let displacement = i32::from_le_bytes(displacement.try_into().unwrap());
                let target = (call.address + 5).wrapping_add_signed(i64::from(displacement));
                assert_eq!(target, hook.address);
                assert_eq!(call.instruction, format!("call {target:#x}"));
                let mut at = text.start_before(call.address).unwrap();
                while at < call.address {
                    at = text.decode(at).unwrap().next_ip();
                }
                assert_eq!(at, call.address, "{call:x?}");
                calls += 1;
            }
        }
        assert!(calls >= 3, "realloc has some in every build");
    }
}

/// The site's file offset leads to the site's instruction, for all glibc versions.
#[test]
fn file_offsets_lead_to_the_instructions() {
    for bytes in GLIBCS.into_iter().filter_map(library) {
        let image = analyse(&bytes, None).unwrap();
        assert!(!image.hooks.is_empty());
        for hook in &image.hooks {
            let at = hook.address + hook.site.offset;
            assert_eq!(image.file_offset_of(at), Some(hook.site.file_offset));
            let bytes = &bytes[hook.site.file_offset as usize..];
            let first = match hook.site.instruction.split(' ').next().unwrap() {
                "push" => matches!(bytes, [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..]),
                "je" => matches!(bytes, [0x74, ..] | [0x0f, 0x84, ..]),
                "jmp" => matches!(bytes, [0xeb | 0xe9, ..]),
                other => panic!("unexpected {other}"),
            };
            assert!(first, "{hook:x?}");
        }
    }
}

#[test]
fn other_word_sizes_are_only_identified() {
    for path in ["/lib32/libc.so.6", "/usr/i686-linux-gnu/lib/libc.so.6"] {
        let Some(bytes) = library(path) else { continue };
        let image = analyse(&bytes, None).unwrap();
        assert_eq!(image.class, Class::Other { description: "32 bit x86".to_string() });
        assert_eq!(image.build_id.map(|id| id.len()), Some(40));
        assert!(image.hooks.is_empty());
    }
}

/// Every allocator function of every library: its site stands up to random walks, and so do the hooks'.
#[test]
fn sites_stand_up_to_random_walks() {
    let mut names: Vec<(&str, usize)> =
        C_FUNCTIONS.iter().map(|&function| (function.name(), recipe(function).0.arguments())).collect();
    names.extend(MORE);
    let plain: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    let mut checked = 0;
    for path in GLIBCS.into_iter().chain(OTHERS) {
        let Some(bytes) = library(path) else { continue };
        let (text, exports) = code_and_exports(&bytes, &plain).unwrap();
        let image = analyse(&bytes, None).unwrap();
        let memory = Memory { image: &bytes, segments: &image.segments };
        let mut starts: HashSet<u64> = exports.iter().map(|&(_, address)| address).collect();
        starts.extend(image.hooks.iter().map(|hook| hook.address));
        for (name, entry) in exports {
            let (name, arguments) = names[name];
            match site::choose(&text, entry, arguments) {
                Ok((Site { offset, instruction, .. }, registers)) => {
                    let arguments: Vec<_> = Register::ARGUMENTS.into_iter().zip(registers).collect();
                    check(&memory, entry, entry + offset, &arguments, &starts).unwrap_or_else(|error| {
                        panic!("{path} {name} at {entry:#x} +{offset} `{instruction}`: {error}")
                    });
                    checked += 1;
                }
                Err(SiteError::EntryRepeats { .. }) => (),
                Err(error) => panic!("{path} {name}: {error}"),
            }
        }
        let emulated = image.hooks.iter().filter(|hook| hook.site.kind == SiteKind::Emulated).count();
        println!("{path}: {emulated} of {} hooks at emulated instructions", image.hooks.len());
        for hook in &image.hooks {
            let Some(Meaning::Role(_, role)) = meaning(&hook.names[0]) else { panic!("{hook:x?}") };
            let count = hook.op.arguments();
            let arguments: Vec<_> = role.registers().into_iter().take(count).zip(hook.registers).collect();
            let site = hook.address + hook.site.offset;
            let reached = check(&memory, hook.address, site, &arguments, &starts)
                .unwrap_or_else(|error| panic!("{path} {hook:x?}: {error}"));
            println!(
                "  {:36} +{:<3} {:32} {:?} {reached:5} {}",
                hook.names[0],
                hook.site.offset,
                hook.site.instruction,
                &hook.registers[..count],
                hook.site.kind.name()
            );
            checked += 1;
        }
    }
    println!("{checked} functions");
}

#[test]
fn the_analysis_is_quick() {
    let Some(bytes) = glibc() else { return };
    let runs = (0..5).map(|_| {
        let start = Instant::now();
        let image = analyse(&bytes, None).unwrap();
        assert!(!image.hooks.is_empty());
        start.elapsed()
    });
    let best = runs.min().unwrap();
    println!("libc of {} bytes: {best:?}", bytes.len());
    let limit = if cfg!(debug_assertions) { 2000 } else { 60 };
    assert!(best.as_millis() < limit, "{best:?}");
}
