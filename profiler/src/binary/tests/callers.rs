//! Who calls whom, on a small library that is built like glibc's allocator.

use std::collections::BTreeSet;
use std::ops::Range;

use profiler_common::alloc::{
    AllocFunction, BAD_ALIGNMENT_FAILS, NULL_COUNTED_ELSEWHERE, SMALL_ALIGNMENT_COUNTED_ELSEWHERE,
    ZERO_COUNTED_ELSEWHERE,
};

use super::{Assembler, Object};
use crate::binary::callers::ranges;
use crate::binary::{Hook, Image, LeftOutReason, analyse};

/// The parts of the library that the tests exchange.
struct Recipe {
    realloc: fn(&mut Assembler),
    reallocarray: fn(&mut Assembler),
    /// Behind everything else.
    more: fn(&mut Assembler),
    /// `.eh_frame_hdr` names the functions, local ones too.
    frames: bool,
    /// What stands before the jumps of the procedure linkage table.
    stub: &'static [u8],
    /// The local functions in `more`.
    locals: &'static [&'static str],
}

const PUSH_RBX: &[u8] = &[0x53];
const POP_RBX: &[u8] = &[0x5b];
const RET: &[u8] = &[0xc3];
const TEST_RDI: &[u8] = &[0x48, 0x85, 0xff];
const CALL: u64 = 5;

impl Default for Recipe {
    fn default() -> Self {
        Self {
            // NULL: jumps to malloc. Size 0: calls free. Else: calls malloc and free.
            realloc: |code| {
                code.raw(PUSH_RBX)
                    .raw(TEST_RDI)
                    .je("null")
                    .call("free")
                    .label("realloc free 1")
                    .call("malloc");
                code.label("realloc malloc").call("free").label("realloc free 2").raw(POP_RBX).raw(RET);
                code.label("null").raw(POP_RBX).jmp("malloc");
            },
            reallocarray: |code| {
                code.raw(&[0x48, 0xf7, 0xe6, 0x70, 0x05]).jmp("realloc@plt").raw(RET);
            },
            more: |_| (),
            frames: true,
            stub: &[],
            locals: &[],
        }
    }
}

/// All functions of the library: public ones, then local ones.
const PUBLIC: [&str; 10] = [
    "malloc",
    "free",
    "realloc",
    "reallocarray",
    "calloc",
    "aligned_alloc",
    "memalign",
    "posix_memalign",
    "cfree",
    "gnu_get_libc_version",
];
const LOCAL: [&str; 3] = ["mid", "shutdown", "client"];

impl Recipe {
    fn build(&self) -> (Assembler, Image) {
        let mut code = Assembler::default();
        for (stub, slot) in
            [("realloc@plt", "realloc slot"), ("malloc@plt", "malloc slot"), ("free@plt", "free slot")]
        {
            code.function(stub).raw(self.stub).jmp_slot(slot);
        }
        code.function("malloc").raw(PUSH_RBX).raw(POP_RBX).raw(RET);
        code.function("mid").raw(PUSH_RBX).je("small").raw(POP_RBX).raw(RET);
        code.label("small").raw(POP_RBX).jmp("malloc");
        code.function("free").label("cfree").raw(TEST_RDI).raw(&[0x74, 0]).raw(RET);
        code.function("shutdown").call("free").label("shutdown free").raw(RET);
        code.function("realloc");
        (self.realloc)(&mut code);
        code.function("reallocarray");
        (self.reallocarray)(&mut code);
        code.function("calloc").raw(PUSH_RBX).raw(POP_RBX).raw(RET);
        code.function("memalign").raw(TEST_RDI).jmp("mid");
        code.function("aligned_alloc").raw(TEST_RDI).jmp("mid");
        code.function("posix_memalign").raw(PUSH_RBX).call("mid").label("posix mid").raw(POP_RBX).raw(RET);
        code.function("client").raw(PUSH_RBX).call("malloc@plt").label("client malloc").call("free@plt");
        code.label("client free").call_slot("free slot").label("client free 2").raw(POP_RBX).raw(RET);
        code.function("gnu_get_libc_version").raw(RET);
        (self.more)(&mut code);
        let bytes = code.finish(&["realloc slot", "malloc slot", "free slot"]);
        let functions: Vec<_> = PUBLIC.iter().map(|name| (*name, code.address(name))).collect();
        let frames: Vec<_> =
            PUBLIC.iter().chain(&LOCAL).chain(self.locals).map(|name| code.address(name)).collect();
        let slots = [("realloc slot", "realloc"), ("malloc slot", "malloc"), ("free slot", "free")];
        let slots: Vec<_> = slots.iter().map(|(slot, name)| (code.address(slot), *name)).collect();
        let image = Object {
            code: &bytes,
            functions: &functions,
            slots: &slots,
            frames: if self.frames { &frames } else { &[] },
            soname: "libc.so.6",
            build_id: &[1, 2, 3],
            ..Object::default()
        };
        let image = analyse(&image.build()).unwrap();
        (code, image)
    }
}

fn hook(image: &Image, function: AllocFunction) -> &Hook {
    image
        .hooks
        .iter()
        .find(|hook| hook.function == function)
        .unwrap_or_else(|| panic!("{function:?}: {image:#?}"))
}

/// Checks the ranges of a hook by what must be inside and outside.
fn assert_internal(code: &Assembler, hook: &Hook, inside: &[&str], outside: &[&str]) {
    let is_inside =
        |label: &str| hook.internal_callers.iter().any(|range| range.contains(&code.address(label)));
    for label in inside {
        assert!(is_inside(label), "{label} at {:#x} not in {hook:x?}", code.address(label));
    }
    for label in outside {
        assert!(!is_inside(label), "{label} at {:#x} in {hook:x?}", code.address(label));
    }
}

#[test]
fn the_allocators_own_calls() {
    for frames in [true, false] {
        let (code, image) = Recipe { frames, ..Recipe::default() }.build();
        let malloc = hook(&image, AllocFunction::Malloc);
        let clients = ["client malloc", "client free", "client free 2"];
        assert_internal(&code, malloc, &["realloc malloc", "posix mid"], &clients);
        let free = hook(&image, AllocFunction::Free);
        assert_internal(&code, free, &["realloc free 1", "realloc free 2", "shutdown free"], &clients);
        assert_eq!(free.names, ["free", "cfree"]);
        assert!(hook(&image, AllocFunction::Calloc).internal_callers.is_empty());
        for hook in &image.hooks {
            assert!(hook.notes.is_empty(), "{hook:x?}");
            assert!(hook.internal_callers.iter().all(|range| range.start < range.end));
        }
    }
}

#[test]
fn flags_follow_the_jumps() {
    let (_, image) = Recipe::default().build();
    let flags = |image: &Image, function| hook(image, function).flags;
    assert_eq!(flags(&image, AllocFunction::Realloc), NULL_COUNTED_ELSEWHERE);
    assert_eq!(flags(&image, AllocFunction::Memalign), SMALL_ALIGNMENT_COUNTED_ELSEWHERE);
    let own = SMALL_ALIGNMENT_COUNTED_ELSEWHERE | BAD_ALIGNMENT_FAILS;
    assert_eq!(flags(&image, AllocFunction::AlignedAlloc), own, "not the same function as memalign");
    assert_eq!(flags(&image, AllocFunction::PosixMemalign), BAD_ALIGNMENT_FAILS);
    assert_eq!(flags(&image, AllocFunction::Malloc), 0);

    let realloc: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("malloc").raw(TEST_RDI).raw(POP_RBX).jmp("free");
    };
    let (_, image) = Recipe { realloc, ..Recipe::default() }.build();
    assert_eq!(flags(&image, AllocFunction::Realloc), ZERO_COUNTED_ELSEWHERE, "calls malloc, jumps to free");
}

#[test]
fn reallocarray_is_a_wrapper() {
    let wrapper = |image: &Image| {
        image.left_out.iter().any(|left| {
            left.function == AllocFunction::Reallocarray
                && left.reason == LeftOutReason::WrapperOf(AllocFunction::Realloc)
        })
    };
    let (_, image) = Recipe::default().build();
    assert!(wrapper(&image), "through the procedure linkage table");
    assert!(hook(&image, AllocFunction::Realloc).internal_callers.is_empty());

    // By direct branches: still the program's calls, and so are direct calls of reallocarray itself.
    let ways: [fn(&mut Assembler); 4] = [
        |code| {
            code.raw(&[0x70, 0x05]).jmp("realloc").raw(RET);
        },
        |code| {
            code.raw(PUSH_RBX).call("realloc").label("array realloc").raw(POP_RBX).raw(RET);
        },
        |code| {
            code.raw(&[0x70, 0x06]).jmp_slot("realloc slot").raw(RET);
        },
        |code| {
            code.raw(PUSH_RBX).call("realloc@plt").raw(POP_RBX).raw(RET);
        },
    ];
    for reallocarray in ways {
        let more: fn(&mut Assembler) = |code| {
            code.function("user").call("reallocarray").raw(RET);
        };
        let (_, image) = Recipe { reallocarray, more, ..Recipe::default() }.build();
        assert!(wrapper(&image));
        assert_eq!(hook(&image, AllocFunction::Realloc).internal_callers, [], "{image:x?}");
    }

    let reallocarray: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).raw(POP_RBX).raw(RET);
    };
    let (_, image) = Recipe { reallocarray, ..Recipe::default() }.build();
    assert!(!wrapper(&image), "does its own work");
    hook(&image, AllocFunction::Reallocarray);
}

#[test]
fn the_programs_calls_split_the_ranges() {
    // Two of the allocator's calls with the program's between them, often: more runs than ranges.
    let more: fn(&mut Assembler) = |code| {
        code.function("mixed");
        code.call("malloc").label("own 1").call("malloc@plt").label("program 1");
        code.call("malloc").label("own 2").call_slot("malloc slot").label("program 2");
        code.call("malloc").label("own 3").call("malloc@plt").label("program 3");
        code.raw(RET);
    };
    // The stubs as older and newer linkers write them, also for indirect branch tracking: `endbr64`, `bnd jmp`.
    for stub in [&[][..], &[0xf2], &[0xf3, 0x0f, 0x1e, 0xfa], &[0xf3, 0x0f, 0x1e, 0xfa, 0xf2]] {
        let (code, image) = Recipe { more, stub, ..Recipe::default() }.build();
        let malloc = hook(&image, AllocFunction::Malloc);
        assert_internal(
            &code,
            malloc,
            &["realloc malloc", "posix mid"],
            &["program 1", "program 2", "program 3"],
        );
        assert_eq!(
            malloc.notes,
            ["2 places from which the allocator calls itself are counted as the program"]
        );
    }
}

#[test]
fn what_is_not_exact_is_told() {
    // A local function that jumps to free and that nothing calls directly.
    let more: fn(&mut Assembler) = |code| {
        code.function("by pointer").raw(TEST_RDI).jmp("free");
    };
    let (_, image) = Recipe { more, locals: &["by pointer"], ..Recipe::default() }.build();
    let notes = &hook(&image, AllocFunction::Free).notes;
    assert!(notes.len() == 1 && notes[0].contains("nothing calls it directly"), "{notes:?}");

    let reallocarray: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).raw(POP_RBX).raw(TEST_RDI).jmp("malloc");
    };
    let (_, image) = Recipe { reallocarray, ..Recipe::default() }.build();
    let notes = &hook(&image, AllocFunction::Reallocarray).notes;
    assert!(notes.iter().any(|note| note.contains("counted at both")), "{notes:?}");

    let more: fn(&mut Assembler) = |code| {
        code.function("everyone");
        for _ in 0..30 {
            code.call("malloc");
        }
        code.raw(RET);
    };
    let (_, image) = Recipe { more, ..Recipe::default() }.build();
    let notes = &hook(&image, AllocFunction::Malloc).notes;
    assert!(notes.iter().any(|note| note.contains("all taken for the allocator itself")), "{notes:?}");
}

#[test]
fn calls_behind_a_chain_of_jumps() {
    // exit calls one, which jumps to two, which jumps to free: free sees a return address in exit. With and without
    // unwind tables, by long and short jumps.
    let more: fn(&mut Assembler) = |code| {
        code.function("two").raw(TEST_RDI).jmp("free");
        code.function("one").raw(TEST_RDI).raw(&[0xeb, 0xeb]);
        code.function("exit").raw(PUSH_RBX).call("one").label("exit free").raw(POP_RBX).raw(RET);
    };
    for frames in [true, false] {
        let (code, image) =
            Recipe { more, frames, locals: &["one", "two", "exit"], ..Recipe::default() }.build();
        assert_eq!(code.address("one") + 5 - 0x15, code.address("two"), "the short jump's displacement");
        assert_internal(&code, hook(&image, AllocFunction::Free), &["exit free", "shutdown free"], &[]);
    }
}

#[test]
fn ranges_are_narrow_and_avoid_the_program() {
    let set = |addresses: &[u64]| addresses.iter().copied().collect::<BTreeSet<u64>>();
    let of = |internal: &[u64], program: &[u64]| {
        let mut notes = Vec::new();
        (ranges(&set(internal), &set(program), &mut notes), notes.len())
    };
    let none: Vec<Range<u64>> = Vec::new();
    let one = |address: u64| std::iter::once(address..address + 1).collect::<Vec<_>>();
    assert_eq!(of(&[], &[5]), (none, 0));
    assert_eq!(of(&[7], &[]), (one(7), 0));
    assert_eq!(of(&[10, 20, 100], &[]), (vec![10..21, 100..101], 0), "cut at the widest gap");
    assert_eq!(of(&[10, 20, 100], &[15]), (vec![10..11, 20..101], 0), "cut where the program calls");
    assert_eq!(of(&[10, 20, 30, 40], &[15, 25]), (vec![10..11, 30..41], 1), "the fuller ones stay");
    assert_eq!(of(&[10, 20], &[10]), (one(20), 0), "the program's own place");
    let (ranges, _) = of(&[CALL, u64::MAX], &[]);
    assert_eq!(ranges.len(), 2);
}

#[test]
fn a_part_split_off_is_entered_in_its_middle() {
    // What compilers put into .text.unlikely has a start of its own and is entered anywhere.
    let more: fn(&mut Assembler) = |code| {
        code.function("cold").raw(POP_RBX).raw(RET).label("cold middle").raw(POP_RBX).jmp("free");
        code.function("whole").raw(PUSH_RBX).je("cold middle").raw(POP_RBX).raw(RET);
        code.function("exit").raw(PUSH_RBX).call("whole").label("exit free").raw(POP_RBX).raw(RET);
    };
    let locals = &["whole", "cold", "exit"];
    let (code, image) = Recipe { more, locals, ..Recipe::default() }.build();
    let free = hook(&image, AllocFunction::Free);
    assert_internal(&code, free, &["exit free", "shutdown free"], &["client free"]);
}
