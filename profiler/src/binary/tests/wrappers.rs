//! Functions that pass their calls on, and those that only look like it.

use profiler_common::alloc::{AllocFunction, AllocOp, Register};

use super::recipe::{POP_RBX, PUSH_RBX, RET, TEST_RDI};
use super::{Assembler, Object};
use crate::binary::{Allocator, Image, Layer, LeftOutReason, analyse};

/// A library with these functions, and stubs for what it imports.
fn library(
    functions: &[&'static str],
    imports: &[&'static str],
    write: impl Fn(&mut Assembler),
) -> (Assembler, Image) {
    let mut code = Assembler::default();
    for import in imports {
        code.function(import).jmp_slot(slot(import));
    }
    write(&mut code);
    let slots: Vec<&'static str> = imports.iter().map(|import| slot(import)).collect();
    let bytes = code.finish(&slots);
    let names: Vec<_> = functions.iter().map(|name| (*name, code.address(name))).collect();
    let imported: Vec<_> = imports
        .iter()
        .map(|import| (code.address(slot(import)), import.strip_suffix("@plt").unwrap()))
        .collect();
    let frames: Vec<u64> = names.iter().map(|(_, address)| *address).collect();
    let object = Object {
        code: &bytes,
        functions: &names,
        imports: &imported,
        frames: &frames,
        soname: "libx.so",
        ..Object::default()
    };
    let image = analyse(&object.build(), None).unwrap();
    (code, image)
}

fn slot(import: &str) -> &'static str {
    match import {
        "malloc@plt" => "malloc slot",
        "free@plt" => "free slot",
        "dlsym@plt" => "dlsym slot",
        "handler@plt" => "handler slot",
        "__errno_location@plt" => "errno slot",
        other => panic!("{other}"),
    }
}

fn reason(image: &Image, name: &str) -> Option<LeftOutReason> {
    image
        .left_out
        .iter()
        .find(|left| left.name.split(", ").any(|one| one == name))
        .map(|left| left.reason.clone())
}

fn hooked(image: &Image) -> Vec<&str> {
    image.hooks.iter().map(|hook| hook.names[0].as_str()).collect()
}

/// Does what an allocator does: takes a block out of a list.
fn work(code: &mut Assembler) -> &mut Assembler {
    // mov (%rdi),%rax; mov %rax,8(%rdi); ret
    code.raw(&[0x48, 0x8b, 0x07, 0x48, 0x89, 0x47, 0x08]).raw(RET)
}

#[test]
fn operators_that_call_the_allocator_of_another_object() {
    let (_, image) =
        library(&["_Znwm", "_Znam", "_ZdlPv"], &["malloc@plt", "free@plt", "handler@plt"], |code| {
            // Calls malloc until the handler gives up.
            code.function("_Znwm").raw(PUSH_RBX).label("again").call("malloc@plt");
            code.raw(&[0x48, 0x85, 0xc0, 0x75, 0x0b]).call("handler@plt").jmp("again").raw(&[0x90]);
            code.raw(POP_RBX).raw(RET);
            code.function("_Znam").jmp("_Znwm");
            code.function("_ZdlPv").jmp("free@plt");
        });
    assert_eq!(image.hooks, []);
    assert_eq!(reason(&image, "_Znwm"), Some(LeftOutReason::WrapperOf(AllocFunction::Malloc)));
    assert_eq!(reason(&image, "_Znam"), Some(LeftOutReason::WrapperOf(AllocFunction::OperatorNew)));
    assert_eq!(reason(&image, "_ZdlPv"), Some(LeftOutReason::WrapperOf(AllocFunction::Free)));
}

#[test]
fn a_way_on_which_nothing_is_handed_out_does_not_matter() {
    const OVERFLOW: &[u8] = &[0x48, 0xf7, 0xe6, 0x70, 0x05]; // mul %rsi; jo over the jump
    let of = |calloc: fn(&mut Assembler)| {
        let imports = &["handler@plt", "__errno_location@plt"];
        let (_, image) = library(&["malloc", "free", "calloc"], imports, |code| {
            code.function("malloc");
            work(code).function("free");
            work(code).function("calloc");
            calloc(code);
        });
        assert!(hooked(&image).contains(&"malloc"));
        reason(&image, "calloc") == Some(LeftOutReason::WrapperOf(AllocFunction::Malloc))
    };
    assert!(of(|code| {
        code.raw(OVERFLOW).jmp("malloc").raw(&[0x31, 0xc0]).raw(RET);
    }));
    // errno = ENOMEM
    assert!(of(|code| {
        code.raw(OVERFLOW).jmp("malloc").call("__errno_location@plt");
        code.raw(&[0xc7, 0x00, 0x0c, 0, 0, 0, 0x31, 0xc0]).raw(RET);
    }));
    // Whatever else is done, where a null pointer is returned.
    assert!(of(|code| {
        code.raw(OVERFLOW)
            .jmp("malloc")
            .raw(PUSH_RBX)
            .call("handler@plt")
            .raw(POP_RBX)
            .raw(&[0x31, 0xc0])
            .raw(RET);
    }));
    // But not what may return a block of its own:
    assert!(!of(|code| {
        code.raw(OVERFLOW).jmp("malloc").raw(PUSH_RBX).call("handler@plt").raw(POP_RBX).raw(RET);
    }));
    assert!(!of(|code| {
        code.raw(OVERFLOW).jmp("malloc");
        work(code);
    }));
    // and a null pointer that is overwritten is none.
    assert!(!of(|code| {
        code.raw(OVERFLOW).jmp("malloc").raw(&[0x31, 0xc0]);
        work(code);
    }));
}

#[test]
fn functions_of_another_kind_make_no_wrapper() {
    let (code, image) = library(&["malloc", "free", "realloc"], &[], |code| {
        code.function("malloc");
        work(code).function("free");
        work(code).function("realloc").raw(PUSH_RBX).call("malloc").label("in realloc").call("free");
        code.label("behind").raw(POP_RBX).raw(RET);
    });
    // They stand on each other: what realloc calls is its own.
    assert_eq!(hooked(&image), ["malloc", "free", "realloc"]);
    let internal = |name: &str| {
        let hook = image.hooks.iter().find(|hook| hook.names[0] == name).unwrap();
        hook.internal_calls.iter().map(|call| call.address + 5).collect::<Vec<_>>()
    };
    assert_eq!(internal("malloc"), [code.address("in realloc")]);
    assert_eq!(internal("free"), [code.address("behind")]);
    assert_eq!(internal("realloc"), Vec::<u64>::new());
}

#[test]
fn calls_from_outside_the_allocators_object_are_the_programs() {
    let (code, image) = library(&["x_malloc", "x_free", "x_realloc", "client"], &[], |code| {
        code.function("before").call("x_malloc").raw(RET);
        code.function("x_malloc");
        work(code).function("x_free");
        work(code).function("x_realloc").raw(PUSH_RBX).call("x_malloc").label("own").je("cold");
        code.raw(POP_RBX).raw(RET);
        // Symbols have no size here: what is so far away is no part of the last function.
        code.raw(&[0xcc; 5000]).function("client").raw(PUSH_RBX).call("x_malloc").raw(POP_RBX).raw(RET);
        // What compilers split off is the function's all the same.
        code.function("cold").call("x_malloc").label("split off").raw(POP_RBX).raw(RET);
    });
    let malloc = image.hooks.iter().find(|hook| hook.names[0] == "x_malloc").unwrap();
    let places: Vec<u64> = malloc.internal_calls.iter().map(|call| call.address + 5).collect();
    assert_eq!(places, [code.address("own"), code.address("split off")], "{image:#x?}");
}

#[test]
fn two_that_pass_on_to_each_other_are_not_both_left_out() {
    let (_, image) = library(&["malloc", "valloc", "free"], &[], |code| {
        code.function("malloc").raw(TEST_RDI).jmp("valloc");
        code.function("valloc").raw(TEST_RDI).jmp("malloc");
        code.function("free");
        work(code);
    });
    assert_eq!(
        image.hooks.iter().filter(|hook| hook.function != AllocFunction::Free).count(),
        1,
        "{image:#x?}"
    );
}

#[test]
fn tail_calls_of_the_allocators_own_are_counted_once() {
    let (code, image) = library(&["malloc", "valloc", "memalign", "free"], &[], |code| {
        code.function("malloc");
        work(code);
        // Works itself, or leaves it to malloc: by a jump that is always taken, or a conditional one.
        code.function("valloc")
            .raw(PUSH_RBX)
            .raw(&[0x74, 0x09])
            .raw(&[0x48, 0x89, 0x47, 0x08])
            .raw(POP_RBX)
            .raw(RET);
        code.raw(&[0x90; 3]).raw(POP_RBX).jmp("malloc").label("tail");
        code.function("memalign").raw(TEST_RDI).je("malloc");
        work(code).function("free");
        work(code);
    });
    let malloc = image.hooks.iter().find(|hook| hook.names[0] == "malloc").unwrap();
    let places: Vec<u64> = malloc.internal_calls.iter().map(|call| call.address + 5).collect();
    assert_eq!(places, [code.address("tail")], "{image:#x?}");
    assert!(malloc.notes.iter().any(|note| note.starts_with("conditional jumps in 1 place")), "{malloc:x?}");
}

#[test]
fn who_passes_on_through_a_pointer_is_not_counted() {
    let forward = |imports: &[&'static str]| {
        let (_, image) = library(&["malloc", "free"], imports, |code| {
            // mov pointer,%rax; jmp *%rax
            code.function("malloc").raw(&[0x48, 0x8b, 0x05, 0, 0x10, 0, 0, 0xff, 0xe0]);
            code.function("free").raw(&[0x48, 0x8b, 0x05, 0, 0x10, 0, 0, 0xff, 0xe0]);
        });
        image
    };
    let image = forward(&["dlsym@plt"]);
    assert_eq!(image.hooks, []);
    assert_eq!(reason(&image, "malloc"), Some(LeftOutReason::Forwards));
    // Without a way to find another malloc, it must be one itself.
    assert_eq!(forward(&[]).hooks.len(), 2);
}

#[test]
fn prefixes_of_allocators_and_others() {
    let own = |names: &[&'static str], deep: bool| {
        let (_, image) = library(names, &["malloc@plt"], |code| {
            code.function("pool").raw(PUSH_RBX);
            if deep {
                code.call("malloc@plt");
            }
            code.raw(POP_RBX).raw(RET);
            for name in names {
                code.function(name)
                    .raw(PUSH_RBX)
                    .call("pool")
                    .raw(&[0x48, 0x89, 0x47, 0x08])
                    .raw(POP_RBX)
                    .raw(RET);
            }
        });
        image
    };
    let image = own(&["x_malloc", "x_free", "x_calloc"], false);
    assert_eq!(hooked(&image), ["x_malloc", "x_free", "x_calloc"]);
    assert!(image.hooks.iter().all(|hook| hook.layer == Layer::Allocator(Allocator::Other)));
    // One that has its memory from malloc is counted there: all of it or nothing.
    let image = own(&["x_malloc", "x_free", "x_calloc"], true);
    assert_eq!(image.hooks, []);
    assert_eq!(reason(&image, "x_free"), Some(LeftOutReason::StandsOn("malloc".to_string())));
    // Names alone.
    assert_eq!(own(&["x_malloc", "x_free"], false).hooks, []);
    assert_eq!(own(&["x_malloc", "x_realloc"], false).hooks, []);
    assert_eq!(own(&["_int_malloc", "_int_free", "_int_realloc"], false).hooks, []);
    // jemalloc and mimalloc with those functions only that a program uses.
    let layer = |names: &[&'static str]| own(names, false).hooks.first().map(|hook| hook.layer);
    assert_eq!(layer(&["_rjem_mallocx", "_rjem_sdallocx"]), Some(Layer::Allocator(Allocator::Jemalloc)));
    assert_eq!(layer(&["mi_malloc_aligned", "mi_free"]), Some(Layer::Allocator(Allocator::Mimalloc)));
    assert_eq!(layer(&["mi_free"]), None);
}

#[test]
fn functions_that_copy_a_text() {
    let functions = &["mi_malloc", "mi_free", "mi_heap_strdup", "mi_strdup", "mi_mbsdup"];
    let (_, image) = library(functions, &[], |code| {
        code.function("mi_malloc");
        work(code).function("mi_free");
        work(code).function("mi_heap_strdup").raw(PUSH_RBX).raw(POP_RBX);
        work(code).function("mi_strdup").jmp("mi_heap_strdup");
        code.function("mi_mbsdup").raw(PUSH_RBX).call("mi_malloc").raw(POP_RBX).raw(RET);
    });
    assert_eq!(hooked(&image), ["mi_malloc", "mi_free", "mi_heap_strdup"]);
    let hook = &image.hooks[2];
    assert_eq!((hook.function, hook.op), (AllocFunction::Strdup, AllocOp::AllocateCopy));
    assert_eq!(hook.registers[0], Register::Rsi, "the heap comes first");
    assert!(hook.notes.iter().any(|note| note.contains("without their bytes")), "{hook:x?}");
    assert_eq!(reason(&image, "mi_strdup"), Some(LeftOutReason::WrapperOf(AllocFunction::Strdup)));
    assert_eq!(reason(&image, "mi_mbsdup"), Some(LeftOutReason::WrapperOf(AllocFunction::Malloc)));
}

#[test]
fn who_takes_blocks_without_a_call_is_told_of() {
    let functions = &["mi_malloc", "mi_free", "mi_realpath", "mi_dupenv_s", "mi_reallocarr"];
    let (_, image) = library(functions, &["handler@plt"], |code| {
        code.function("mi_malloc");
        work(code).function("mi_free");
        work(code).function("pool");
        work(code);
        // Asks another object and the allocator's public function.
        code.function("mi_realpath")
            .raw(PUSH_RBX)
            .call("handler@plt")
            .call("mi_malloc")
            .raw(POP_RBX)
            .raw(RET);
        // Takes it from within.
        code.function("mi_dupenv_s").raw(PUSH_RBX).call("handler@plt").call("pool").raw(POP_RBX).raw(RET);
        // Isn't there at all.
        code.function("mi_reallocarr").raw(&[0x31, 0xc0]).raw(RET);
    });
    let clients: Vec<&str> = image.left_out.iter().map(|left| left.name.as_str()).collect();
    assert_eq!(clients, ["mi_dupenv_s"]);
    assert_eq!(reason(&image, "mi_dupenv_s"), Some(LeftOutReason::Client));
}

#[test]
fn the_dynamic_linkers_own_functions_are_not_in_use() {
    let code = &[0x55, 0xc3];
    let functions: Vec<_> = ["malloc", "free", "calloc", "realloc"].map(|name| (name, super::BASE)).into();
    let object = |soname| Object { code, functions: &functions, soname, ..Object::default() }.build();
    assert_eq!(analyse(&object("ld-linux-x86-64.so.2"), None).unwrap().hooks, []);
    assert_ne!(analyse(&object("libx.so"), None).unwrap().hooks, []);
}
