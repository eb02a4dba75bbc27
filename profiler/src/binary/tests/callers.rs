//! Who calls whom, on a small library that is built like glibc's allocator.

use profiler_common::alloc::{
    AllocFunction, BAD_ALIGNMENT_FAILS, NULL_COUNTED_ELSEWHERE, POINTER_ALIGNMENT, RESULT_IN_MEMORY,
    SMALL_ALIGNMENT_COUNTED_ELSEWHERE, ZERO_COUNTED_ELSEWHERE,
};

use super::Assembler;
use super::recipe::{CALL, POP_RBX, PUSH_RBX, RET, Recipe, TEST_RDI, assert_internal, hook};
use crate::binary::{Image, LeftOutReason, MAX_INTERNAL_CALLS};

#[test]
fn the_allocators_own_calls() {
    for frames in [true, false] {
        let (code, image) = Recipe { frames, ..Recipe::default() }.build();
        assert_internal(&code, hook(&image, AllocFunction::Malloc), &["realloc malloc"]);
        let free = hook(&image, AllocFunction::Free);
        assert_internal(&code, free, &["realloc free 1", "realloc free 2", "shutdown free"]);
        assert_eq!(free.names, ["free", "cfree"]);
        for hook in &image.hooks {
            assert!(hook.notes.is_empty(), "{hook:x?}");
            let some = matches!(hook.function, AllocFunction::Malloc | AllocFunction::Free);
            assert_eq!(!hook.internal_calls.is_empty(), some, "{hook:x?}");
        }
    }
}

#[test]
fn a_function_that_begins_anew_is_counted_once() {
    // As in glibc 2.42 and later: the first call of a thread sets its cache up and jumps back to the entry.
    let malloc: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).je("set up").raw(POP_RBX).raw(RET);
        code.label("set up").raw(POP_RBX).jmp("malloc").label("begins anew").raw(RET);
    };
    let (code, image) = Recipe { malloc, ..Recipe::default() }.build();
    let malloc = hook(&image, AllocFunction::Malloc);
    let places: Vec<u64> = malloc.internal_calls.iter().map(|call| call.address + CALL).collect();
    assert_eq!(places, [code.address("begins anew"), code.address("realloc malloc")], "{malloc:x?}");
    assert!(malloc.internal_calls[0].instruction.starts_with("jmp"), "{malloc:x?}");
    // A jump that isn't always taken can't be told by a probe on it.
    let malloc: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).je("malloc").raw(POP_RBX).raw(RET);
    };
    let (_, image) = Recipe { malloc, ..Recipe::default() }.build();
    assert!(image.hooks.iter().all(|hook| hook.function != AllocFunction::Malloc), "{image:x?}");
}

#[test]
fn flags_follow_the_jumps() {
    let (_, image) = Recipe::default().build();
    let flags = |image: &Image, function| hook(image, function).flags;
    assert_eq!(flags(&image, AllocFunction::Realloc), NULL_COUNTED_ELSEWHERE);
    assert_eq!(flags(&image, AllocFunction::Memalign), SMALL_ALIGNMENT_COUNTED_ELSEWHERE);
    let own = SMALL_ALIGNMENT_COUNTED_ELSEWHERE | BAD_ALIGNMENT_FAILS;
    assert_eq!(flags(&image, AllocFunction::AlignedAlloc), own, "not the same function as memalign");
    let own = own | POINTER_ALIGNMENT | RESULT_IN_MEMORY;
    assert_eq!(flags(&image, AllocFunction::PosixMemalign), own, "by a call of what jumps to malloc");
    for function in [AllocFunction::Malloc, AllocFunction::Valloc, AllocFunction::Pvalloc] {
        assert_eq!(flags(&image, function), 0, "{function:?}");
    }

    let realloc: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("malloc").raw(TEST_RDI).raw(POP_RBX).jmp("free");
    };
    let (_, image) = Recipe { realloc, ..Recipe::default() }.build();
    assert_eq!(flags(&image, AllocFunction::Realloc), ZERO_COUNTED_ELSEWHERE, "calls malloc, jumps to free");
}

#[test]
fn small_alignments_are_counted_once() {
    let flags = |image: &Image| {
        [AllocFunction::Memalign, AllocFunction::AlignedAlloc, AllocFunction::PosixMemalign]
            .map(|function| hook(image, function).flags & SMALL_ALIGNMENT_COUNTED_ELSEWHERE != 0)
    };
    let notes =
        |image: &Image| image.hooks.iter().flat_map(|hook| hook.notes.clone()).collect::<Vec<_>>().join("; ");

    // A call instead of a jump: malloc's internal call, and each function counts for itself.
    let mid: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("malloc").label("mid malloc").raw(POP_RBX).raw(RET);
    };
    let (code, image) = Recipe { mid, ..Recipe::default() }.build();
    assert_eq!(flags(&image), [false; 3]);
    assert_internal(&code, hook(&image, AllocFunction::Malloc), &["mid malloc", "realloc malloc"]);
    assert_eq!(notes(&image), "");

    // Only posix_memalign has a copy of its own that calls.
    let posix_memalign: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("malloc").label("posix malloc").raw(POP_RBX).raw(RET);
    };
    let (code, image) = Recipe { posix_memalign, ..Recipe::default() }.build();
    assert_eq!(flags(&image), [true, true, false]);
    assert_internal(&code, hook(&image, AllocFunction::Malloc), &["posix malloc", "realloc malloc"]);
    assert_eq!(notes(&image), "");

    // Both ways, in the local function or in the public one: neither is taken away.
    let mid: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("malloc").raw(POP_RBX).raw(TEST_RDI).jmp("malloc");
    };
    let posix_memalign: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("malloc").call("mid").raw(POP_RBX).raw(RET);
    };
    for recipe in [Recipe { mid, ..Recipe::default() }, Recipe { posix_memalign, ..Recipe::default() }] {
        let (code, image) = recipe.build();
        assert_eq!(flags(&image), [true; 3]);
        assert_internal(&code, hook(&image, AllocFunction::Malloc), &["realloc malloc"]);
        assert!(notes(&image).contains("call it directly as well, in 1 place:"), "{}", notes(&image));
    }

    // The same in a local function that only posix_memalign calls.
    let posix_memalign: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("both").raw(POP_RBX).raw(RET);
    };
    let more: fn(&mut Assembler) = |code| {
        code.function("both").raw(PUSH_RBX).call("malloc").raw(POP_RBX).raw(TEST_RDI).jmp("malloc");
    };
    let (code, image) = Recipe { posix_memalign, more, locals: &["both"], ..Recipe::default() }.build();
    assert_eq!(flags(&image), [true; 3]);
    assert_internal(&code, hook(&image, AllocFunction::Malloc), &["realloc malloc"]);
    assert!(notes(&image).contains("call it directly as well, in 1 place:"), "{}", notes(&image));

    // What malloc itself calls isn't the family's, although all of malloc is in their flow.
    let malloc: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("malloc").label("malloc malloc").call("self").raw(POP_RBX).raw(RET);
    };
    let more: fn(&mut Assembler) = |code| {
        code.function("self").raw(TEST_RDI).jmp("malloc");
    };
    let posix_memalign: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).raw(POP_RBX).jmp("malloc");
    };
    let (code, image) =
        Recipe { malloc, posix_memalign, more, locals: &["self"], ..Recipe::default() }.build();
    assert_eq!(flags(&image), [true, true, false], "what returns an error number can't leave it to malloc");
    assert!(hook(&image, AllocFunction::PosixMemalign).notes[0].contains("counted at both"));
    assert_internal(&code, hook(&image, AllocFunction::Malloc), &["malloc malloc", "realloc malloc"]);
    let note = &hook(&image, AllocFunction::Malloc).notes;
    assert!(note.len() == 1 && note[0].starts_with("1 place in the library call functions"), "{note:?}");

    // Other functions that jump to malloc are no way for alignments; and the flag says nothing of what jumps elsewhere.
    let posix_memalign: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("realloc").call("to free").raw(POP_RBX).raw(RET);
    };
    let more: fn(&mut Assembler) = |code| {
        code.function("to free").raw(TEST_RDI).jmp("free");
    };
    let (_, image) = Recipe { posix_memalign, more, locals: &["to free"], ..Recipe::default() }.build();
    assert_eq!(flags(&image), [true, true, false]);
    let posix_memalign: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("mid").call("to free").raw(POP_RBX).raw(RET);
    };
    let recipe = Recipe { posix_memalign, more, locals: &["to free"], ..Recipe::default() };
    for image in [image, recipe.build().1] {
        let note = &hook(&image, AllocFunction::Free).notes;
        assert!(note.len() == 1 && note[0].starts_with("1 place in the library call functions"), "{note:?}");
    }

    // Through the public function.
    let posix_memalign: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("memalign").label("posix memalign").raw(POP_RBX).raw(RET);
    };
    let (code, image) = Recipe { posix_memalign, ..Recipe::default() }.build();
    assert_eq!(flags(&image), [true; 3]);
    assert_internal(&code, hook(&image, AllocFunction::Memalign), &["posix memalign"]);
    assert_eq!(notes(&image), "");

    // Somebody else.
    let more: fn(&mut Assembler) = |code| {
        code.function("other")
            .raw(PUSH_RBX)
            .call("mid")
            .call("memalign")
            .call("realloc")
            .call("pvalloc")
            .raw(POP_RBX)
            .raw(RET);
    };
    let (_, image) = Recipe { more, locals: &["other"], ..Recipe::default() }.build();
    let note = |function| match hook(&image, function).notes.as_slice() {
        [note] => note.clone(),
        other => panic!("{other:?}"),
    };
    assert!(note(AllocFunction::Malloc).starts_with("1 place in the library call functions that lead here"));
    assert!(note(AllocFunction::Memalign).contains("runs on into malloc"));
    assert!(note(AllocFunction::Realloc).contains("runs on into malloc"));
    assert_eq!(hook(&image, AllocFunction::Realloc).internal_calls.len(), 1);
    let pvalloc = hook(&image, AllocFunction::Pvalloc);
    assert!(pvalloc.internal_calls.len() == 1 && pvalloc.notes.is_empty(), "never small: {pvalloc:x?}");
}

#[test]
fn a_probe_sits_on_an_instruction_only() {
    let notes = |more: fn(&mut Assembler), frames| {
        let recipe = Recipe { more, frames, locals: &["strange"], ..Recipe::default() };
        let (code, image) = recipe.build();
        let malloc = hook(&image, AllocFunction::Malloc);
        assert_internal(&code, malloc, &["realloc malloc"]);
        let [note] = malloc.notes.as_slice() else { panic!("{malloc:x?}") };
        let place = format!("at {:#x}, can't be proven", code.address("false call"));
        assert!(note.contains(&place), "{note}");
    };
    let strange: [fn(&mut Assembler); 6] = [
        // In the middle of `mov $imm64,%rax`.
        |code| {
            code.function("strange")
                .raw(&[0x48, 0xb8])
                .label("false call")
                .call("malloc")
                .raw(&[0; 3])
                .raw(RET);
        },
        // Behind a prefix: the instruction begins with that.
        |code| {
            code.function("strange").raw(&[0x66]).label("false call").call("malloc").raw(RET);
        },
        // Behind a return, where nothing leads.
        |code| {
            code.function("strange").raw(RET).label("false call").call("malloc").raw(RET);
        },
        // `je` into the middle of `test $imm32,%eax`: there the bytes are a call, and what stands before is another
        // instruction that has them, too.
        |code| {
            code.function("strange").raw(&[0x74, 0x01, 0xa9]).label("false call").call("malloc");
            code.raw(&[0x90; 8]).raw(RET);
        },
        // The same with one that begins before the call and ends behind it.
        |code| {
            code.function("strange").raw(&[0x74, 0x02, 0x48, 0xb8]).label("false call").call("malloc");
            code.raw(&[0x90; 8]).raw(RET);
        },
        // The same with an instruction that begins within the call: `jmp` to the displacement, which ends in ff.
        |code| {
            code.function("strange")
                .raw(&[0x74, 0x04])
                .label("false call")
                .call("malloc")
                .raw(&[0xc0])
                .raw(RET);
        },
    ];
    for more in strange {
        notes(more, true);
    }
    // Where local functions are unknown.
    notes(strange[0], false);
    notes(strange[2], false);
}

#[test]
fn reallocarray_is_a_wrapper() {
    let wrapper = |image: &Image| {
        image.left_out.iter().any(|left| {
            left.name == AllocFunction::Reallocarray.name()
                && left.reason == LeftOutReason::WrapperOf(AllocFunction::Realloc)
        })
    };
    let (_, image) = Recipe::default().build();
    assert!(wrapper(&image), "through the procedure linkage table");
    assert!(hook(&image, AllocFunction::Realloc).internal_calls.is_empty());

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
        let (code, image) = Recipe { reallocarray, more, ..Recipe::default() }.build();
        assert!(wrapper(&image));
        let realloc = hook(&image, AllocFunction::Realloc);
        assert!(realloc.internal_calls.is_empty() && realloc.notes.is_empty(), "{realloc:x?}");
        // What realloc itself calls stays internal, also where the wrapper runs on into it.
        assert_internal(&code, hook(&image, AllocFunction::Malloc), &["realloc malloc"]);
    }

    let reallocarray: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).raw(POP_RBX).raw(RET);
    };
    let (_, image) = Recipe { reallocarray, ..Recipe::default() }.build();
    assert!(!wrapper(&image), "does its own work");
    let reallocarray: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).call("helper").raw(POP_RBX).raw(RET);
    };
    let more: fn(&mut Assembler) = |code| {
        code.function("helper").call_slot("realloc slot").raw(RET);
    };
    let (_, image) = Recipe { reallocarray, more, locals: &["helper"], ..Recipe::default() }.build();
    assert!(!wrapper(&image), "what it calls is no stub");
    hook(&image, AllocFunction::Reallocarray);
}

#[test]
fn calls_through_the_linkage_table_are_the_programs() {
    let more: fn(&mut Assembler) = |code| {
        code.function("mixed");
        code.call("malloc").label("own 1").call("malloc@plt");
        code.call("malloc").label("own 2").call_slot("malloc slot");
        code.call("malloc").label("own 3").call("malloc@plt");
        code.raw(RET);
    };
    // The stubs as older and newer linkers write them, also for indirect branch tracking: `endbr64`, `bnd jmp`.
    for stub in [&[][..], &[0xf2], &[0xf3, 0x0f, 0x1e, 0xfa], &[0xf3, 0x0f, 0x1e, 0xfa, 0xf2]] {
        let (code, image) = Recipe { more, stub, locals: &["mixed"], ..Recipe::default() }.build();
        let malloc = hook(&image, AllocFunction::Malloc);
        assert_internal(&code, malloc, &["realloc malloc", "own 1", "own 2", "own 3"]);
        assert!(malloc.notes.is_empty(), "{malloc:x?}");
        assert!(
            !image.hooks.iter().any(|hook| hook.function == AllocFunction::Reallocarray),
            "stub {stub:x?}"
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

    // One of them is realloc's.
    let most: fn(&mut Assembler) = |code| {
        code.function("everyone");
        for _ in 1..MAX_INTERNAL_CALLS {
            code.call("malloc");
        }
        code.raw(RET);
    };
    let (_, image) = Recipe { more: most, locals: &["everyone"], ..Recipe::default() }.build();
    let malloc = hook(&image, AllocFunction::Malloc);
    assert!(malloc.internal_calls.len() == MAX_INTERNAL_CALLS && malloc.notes.is_empty(), "{malloc:x?}");
    let too_many: fn(&mut Assembler) = |code| {
        code.function("everyone");
        for _ in 0..MAX_INTERNAL_CALLS {
            code.call("malloc");
        }
        code.raw(RET);
    };
    let (_, image) = Recipe { more: too_many, locals: &["everyone"], ..Recipe::default() }.build();
    let malloc = hook(&image, AllocFunction::Malloc);
    assert!(malloc.internal_calls.is_empty(), "{malloc:x?}");
    let [note] = malloc.notes.as_slice() else { panic!("{malloc:x?}") };
    assert!(note.starts_with("25 places") && note.contains("too many"), "{note}");
}

/// The one note of `free`, of which nothing but the usual calls are internal.
fn note_of_free(code: &Assembler, image: &Image) -> String {
    let free = hook(image, AllocFunction::Free);
    assert_internal(code, free, &["realloc free 1", "realloc free 2", "shutdown free"]);
    let [note] = free.notes.as_slice() else { panic!("{free:x?}") };
    note.clone()
}

#[test]
fn calls_behind_a_chain_of_jumps() {
    // exit calls one, which jumps to two, which jumps to free. With and without unwind tables, by long and short jumps.
    let more: fn(&mut Assembler) = |code| {
        code.function("two").raw(TEST_RDI).jmp("free");
        code.function("one").raw(TEST_RDI).raw(&[0xeb, 0xeb]);
        code.function("exit").raw(PUSH_RBX).call("one").call("one").raw(POP_RBX).raw(RET);
    };
    for frames in [true, false] {
        let (code, image) =
            Recipe { more, frames, locals: &["one", "two", "exit"], ..Recipe::default() }.build();
        assert_eq!(code.address("one") + 5 - 0x15, code.address("two"), "the short jump's displacement");
        let note = note_of_free(&code, &image);
        assert!(note.starts_with("2 places in the library call functions that lead here"), "{note}");
    }
}

#[test]
fn a_part_split_off_is_entered_in_its_middle() {
    // What compilers put into .text.unlikely has a start of its own and is entered anywhere.
    let more: fn(&mut Assembler) = |code| {
        code.function("cold").raw(POP_RBX).raw(RET).label("cold middle").raw(POP_RBX).jmp("free");
        code.function("whole").raw(PUSH_RBX).je("cold middle").raw(POP_RBX).raw(RET);
        code.function("exit").raw(PUSH_RBX).call("whole").raw(POP_RBX).raw(RET);
    };
    let locals = &["whole", "cold", "exit"];
    let (code, image) = Recipe { more, locals, ..Recipe::default() }.build();
    let note = note_of_free(&code, &image);
    assert!(note.starts_with("1 place in the library call functions that lead here"), "{note}");

    // A call in such a part of a hooked function.
    let realloc: fn(&mut Assembler) = |code| {
        code.raw(PUSH_RBX).je("cold middle").raw(POP_RBX).raw(RET);
    };
    let more: fn(&mut Assembler) = |code| {
        code.function("cold").raw(POP_RBX).raw(RET);
        code.label("cold middle").call("malloc").label("cold malloc").raw(POP_RBX).raw(RET);
    };
    let (code, image) = Recipe { realloc, more, locals: &["cold"], ..Recipe::default() }.build();
    let malloc = hook(&image, AllocFunction::Malloc);
    assert_internal(&code, malloc, &["cold malloc"]);
    assert!(malloc.notes.is_empty(), "{malloc:x?}");
}
