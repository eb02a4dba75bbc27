//! What is read from a file's headers.

use profiler_common::alloc::AllocFunction;

use super::{Assembler, BASE, Object, SKEW};
use crate::binary::glibc::C_FUNCTIONS;
use crate::binary::{
    Allocator, BinaryError, Class, Layer, LeftOutReason, SiteError, analyse, code_and_exports,
};

const CODE: &[u8] = &[0x55, 0xc3];
const BOTH: &[(&str, u64)] = &[("malloc", BASE), ("free", BASE)];

#[test]
fn headers() {
    let functions = &[("malloc", BASE), ("mallocx", BASE)];
    let object =
        Object { code: CODE, functions, soname: "libx.so.1", build_id: &[0xab, 0x01], ..Object::default() };
    let image = analyse(&object.build(), None).unwrap();
    assert_eq!(image.class, Class::Elf64X86_64);
    assert_eq!(image.build_id.as_deref(), Some("ab01"));
    assert_eq!(image.soname.as_deref(), Some("libx.so.1"));
    assert_eq!((image.hooks.len(), image.left_out.len()), (0, 0), "no allocator: it can't free");
    assert_eq!(image.segments.len(), 2);
    assert!(!image.segments[0].executable && image.segments[1].executable);
    assert_eq!(image.file_offset_of(BASE), Some(BASE - SKEW));
    assert_eq!(image.file_offset_of(BASE + 1), Some(BASE + 1 - SKEW));
    assert_eq!(image.file_offset_of(BASE + 2), None);
    assert_eq!(image.file_offset_of(BASE - 1), None);
    // Another vendor's note of the same number is no build id.
    let mut other = object.build();
    let note = other.windows(4).position(|bytes| bytes == b"GNU\0").unwrap();
    other[note] = b'X';
    assert_eq!(analyse(&other, None).unwrap().build_id, None);
}

#[test]
fn names_are_compared_to_their_end() {
    for name in ["mallocx", "mallo", "xmalloc"] {
        let image = analyse(
            &Object { code: CODE, functions: &[(name, BASE), ("free", BASE)], ..Object::default() }.build(),
            None,
        )
        .unwrap();
        assert!(image.hooks.is_empty(), "{name}");
    }
}

#[test]
fn who_is_glibc() {
    let allocator = |functions: &[(&str, u64)], soname| {
        analyse(&Object { code: CODE, functions, soname, ..Object::default() }.build(), None)
            .unwrap()
            .hooks
            .first()
            .map(|hook| hook.layer)
    };
    let (glibc, other) = (Some(Layer::Allocator(Allocator::Glibc)), Some(Layer::Allocator(Allocator::Other)));
    let with_version = [BOTH, &[("gnu_get_libc_version", BASE)]].concat();
    assert_eq!(allocator(&with_version, ""), glibc);
    assert_eq!(allocator(&with_version[1..], ""), None, "no malloc");
    assert_eq!(allocator(BOTH, "libc.so.6"), other, "without its symbol versions");
    assert_eq!(allocator(BOTH, "libjemalloc.so.2"), other, "names tell, not the library's");
    let versions = |versions, soname| {
        let object = Object { code: CODE, functions: BOTH, versions, soname, ..Object::default() };
        analyse(&object.build(), None).unwrap().hooks.first().map(|hook| hook.layer)
    };
    assert_eq!(versions(&["libc.so.6", "GLIBC_2.2.5"], "libc.so.6"), glibc);
    assert_eq!(versions(&["libc.so.6", "X", "GLIBC_PRIVATE"], "libc.so.6"), glibc);
    assert_eq!(versions(&["libc.so.6", "GLIBC_2.2.55"], "libc.so.6"), other);
    assert_eq!(versions(&["libc.so.6", "GLIBC_2.2.5"], "libother.so"), other);
    assert_eq!(Allocator::Glibc.to_string(), "glibc");
}

#[test]
fn names_at_one_address_and_missing_ones() {
    let mut code = Assembler::default();
    code.function("malloc").raw(&[0x55, 0xc3]).function("memalign").raw(&[0x55, 0xc3]).function("free");
    code.raw(&[0xf4]).function("data");
    let bytes = code.finish(&[]);
    let at = |name| code.address(name);
    let functions = [
        ("gnu_get_libc_version", at("malloc")),
        ("malloc", at("malloc")),
        ("memalign", at("memalign")),
        ("aligned_alloc", at("memalign")),
        ("free", at("free")),
        ("calloc", 0x1000),
    ];
    let image =
        analyse(&Object { code: &bytes, functions: &functions, ..Object::default() }.build(), None).unwrap();
    let names: Vec<_> = image.hooks.iter().map(|hook| hook.names.join(" ")).collect();
    assert_eq!(names, ["malloc", "aligned_alloc memalign"]);
    let reason = |function: AllocFunction| {
        image.left_out.iter().find(|left| left.name == function.name()).map(|left| &left.reason)
    };
    assert_eq!(
        reason(AllocFunction::Memalign),
        Some(&LeftOutReason::SameAddressAs(AllocFunction::AlignedAlloc))
    );
    assert_eq!(reason(AllocFunction::Realloc), Some(&LeftOutReason::Missing));
    assert_eq!(reason(AllocFunction::Calloc), Some(&LeftOutReason::NoSite(SiteError::NoExecutableBytes)));
    assert!(matches!(reason(AllocFunction::Free), Some(LeftOutReason::NoSite(SiteError::Refused { .. }))));
    assert_eq!(
        image.hooks.len() + image.left_out.len(),
        C_FUNCTIONS.len(),
        "every function is accounted for"
    );
    assert_eq!(
        image.left_out.iter().find(|left| left.name == AllocFunction::Memalign.name()).unwrap().to_string(),
        "memalign has no probe: it is the same code as aligned_alloc, and counted under that name"
    );
    assert_eq!(
        image.left_out.iter().find(|left| left.name == AllocFunction::Free.name()).unwrap().to_string(),
        "free has no probe: the kernel accepts no probe on its first instruction, `hlt`"
    );
}

#[test]
fn other_kinds_of_files() {
    assert_eq!(analyse(b"", None), Err(BinaryError::NotElf));
    assert_eq!(analyse(b"#!/bin/sh\n", None), Err(BinaryError::NotElf));
    assert!(matches!(analyse(b"\x7fELF", None), Err(BinaryError::Header(_))));
    assert!(matches!(analyse(b"\x7fELF\x02\x01\x01", None), Err(BinaryError::Header(_))));
    let mut arm = Object { code: CODE, functions: BOTH, build_id: &[7], ..Object::default() }.build();
    arm[18] = 183;
    let image = analyse(&arm, None).unwrap();
    assert_eq!(image.class, Class::Other { description: "64 bit AArch64".to_string() });
    assert_eq!((image.build_id.as_deref(), image.hooks.len()), (Some("07"), 0));
    arm[18] = 99;
    let Class::Other { description } = analyse(&arm, None).unwrap().class else { panic!() };
    assert_eq!(description, "64 bit machine 99");
}

#[test]
fn damaged_tables_are_named() {
    let good = Object { code: CODE, functions: BOTH, ..Object::default() }.build();
    let with = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        analyse(&image, None)
    };
    let program_header = |index: usize, field: usize| 64 + 56 * index + field;
    assert!(matches!(with(56, &300u16.to_le_bytes()), Err(BinaryError::TooManySegments { count: 300, .. })));
    assert!(
        matches!(with(54, &55u16.to_le_bytes()), Err(BinaryError::Header(_))),
        "size of a program header"
    );
    assert!(
        matches!(with(32, &u64::MAX.to_le_bytes()), Err(BinaryError::Header(_))),
        "offset of the headers"
    );
    let outside = Err(BinaryError::Segment { index: 1 });
    assert_eq!(with(program_header(1, 8), &u64::MAX.to_le_bytes()), outside, "offset");
    assert_eq!(with(program_header(1, 32), &u64::MAX.to_le_bytes()), outside, "size in the file");
    assert_eq!(with(program_header(1, 40), &1u64.to_le_bytes()), outside, "less in memory than in the file");
    assert_eq!(with(program_header(1, 16), &(u64::MAX - 1).to_le_bytes()), outside, "wraps around");
    // The dynamic section's entries, by tag.
    let entry = |tag: u64| {
        let mut at = u64::from_le_bytes(good[program_header(2, 8)..][..8].try_into().unwrap()) as usize;
        while good[at..at + 8] != tag.to_le_bytes() {
            at += 16;
        }
        at + 8
    };
    for (tag, table) in [(5, "string table"), (4, "hash table"), (6, "symbol table")] {
        for wild in [0, 1 << 40, u64::MAX] {
            assert_eq!(with(entry(tag), &wild.to_le_bytes()), Err(BinaryError::Table { table }), "{wild:#x}");
        }
    }
    assert_eq!(with(entry(10), &u64::MAX.to_le_bytes()), Err(BinaryError::Table { table: "string table" }));
    assert!(matches!(with(entry(2), &u64::MAX.to_le_bytes()), Err(BinaryError::TableTooLong { .. })));
    assert_eq!(analyse(&good[..good.len() - 1], None), Err(BinaryError::Segment { index: 1 }), "truncated");
    assert!(analyse(&good, None).is_ok());
}

#[test]
fn the_contents_need_no_alignment() {
    let image =
        Object { code: CODE, functions: BOTH, build_id: &[1], soname: "x", ..Object::default() }.build();
    let expected = analyse(&image, None).unwrap();
    for shift in 1..8 {
        let moved = [vec![0; shift], image.clone()].concat();
        assert_eq!(analyse(&moved[shift..], None).unwrap(), expected, "{shift}");
    }
}

#[test]
fn code_of_allocators_without_hooks() {
    let image = Object { code: CODE, functions: &[("je_malloc", BASE)], ..Object::default() }.build();
    let (text, exports) = code_and_exports(&image, &["je_free", "je_malloc"]).unwrap();
    assert_eq!(exports, [(1, BASE)]);
    assert_eq!(crate::binary::site::choose(&text, BASE, 1).unwrap().0.instruction, "push %rbp");
}

#[test]
fn only_defined_functions_count() {
    let defines = |info, section| {
        let object = Object {
            code: CODE,
            functions: &[("free", BASE)],
            others: &[("malloc", info, section)],
            ..Object::default()
        };
        !analyse(&object.build(), None).unwrap().hooks.is_empty()
    };
    assert!(defines(0x12, 1), "a global function");
    assert!(defines(0x22, 1), "a weak function");
    assert!(!defines(0x12, 0), "an import");
    assert!(!defines(0x11, 1), "a variable");
    assert!(!defines(0x1a, 1), "an indirect function: the address is its resolver's");
}

#[test]
fn the_default_version_is_hooked() {
    let code = [0x55, 0xc3, 0x53, 0xc3];
    let functions = &[("malloc", BASE), ("malloc", BASE + 2), ("free", BASE), ("gnu_get_libc_version", BASE)];
    let object = Object { code: &code, functions, hidden: &[0], ..Object::default() };
    let image = analyse(&object.build(), None).unwrap();
    let malloc = image.hooks.iter().find(|hook| hook.function == AllocFunction::Malloc).unwrap();
    assert_eq!(malloc.address, BASE + 2);
    assert_eq!(malloc.notes, ["another version of it, at 0x10000, is not counted"]);
}
