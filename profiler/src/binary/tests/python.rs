//! Python interpreters: a small one, built like those with and without a profile, and the ones of this machine.

use profiler_common::alloc::{AllocFunction, AllocOp, Register, ZERO_RESIZES};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Assembler, BASE, Object, library};
use crate::binary::python::{Bytes, Current, Domain, Python, PythonHook, find, table_pointers};
use crate::binary::{Layer, PythonDomain, SiteKind};

const NAMES: [[&str; 4]; 3] = [
    ["PyMem_RawMalloc", "PyMem_RawCalloc", "PyMem_RawRealloc", "PyMem_RawFree"],
    ["PyMem_Malloc", "PyMem_Calloc", "PyMem_Realloc", "PyMem_Free"],
    ["PyObject_Malloc", "PyObject_Calloc", "PyObject_Realloc", "PyObject_Free"],
];
/// The tables: context, malloc, calloc, realloc, free of raw, mem and object.
const SLOTS: [&str; 15] = [
    "raw",
    "raw malloc",
    "raw calloc",
    "raw realloc",
    "raw free",
    "mem",
    "mem malloc",
    "mem calloc",
    "mem realloc",
    "mem free",
    "object",
    "object malloc",
    "object calloc",
    "object realloc",
    "object free",
];

const RET: &[u8] = &[0xc3];
const CALL_RAX: &[u8] = &[0xff, 0xd0];
const PUSH_RBX: &[u8] = &[0x53];
const POP_RBX: &[u8] = &[0x5b];
/// `mov %rdi,%rsi`
const MOVE: &[u8] = &[0x48, 0x89, 0xfe];
const TEST_RDI: &[u8] = &[0x48, 0x85, 0xff];
/// `cmp $0x1234,%rax`
const COMPARE: &[u8] = &[0x48, 0x3d, 0x34, 0x12, 0, 0];
/// `mov %rbx,%rsi`
const SIZE_FROM_RBX: &[u8] = &[0x48, 0x89, 0xde];
/// `mov $0x20,%esi`
const SIZE_32: &[u8] = &[0xbe, 0x20, 0, 0, 0];
/// `mov 0x8(%rsp),%rsi`
const SIZE_FROM_STACK: &[u8] = &[0x48, 0x8b, 0x74, 0x24, 0x08];

impl Assembler {
    /// `mov slot(%rip),%rax`
    fn load_rax(&mut self, slot: &'static str) -> &mut Self {
        self.branch(&[0x48, 0x8b, 0x05], slot)
    }

    /// `mov slot(%rip),%rdi`
    fn load_rdi(&mut self, slot: &'static str) -> &mut Self {
        self.branch(&[0x48, 0x8b, 0x3d], slot)
    }

    fn jne(&mut self, to: &'static str) -> &mut Self {
        self.branch(&[0x0f, 0x85], to)
    }

    fn js(&mut self, to: &'static str) -> &mut Self {
        self.branch(&[0x0f, 0x88], to)
    }
}

/// An interpreter whose public functions are thin, with more code behind them, and pymalloc's function that frees.
fn interpreter(more: impl FnOnce(&mut Assembler)) -> (Vec<u8>, Assembler) {
    let mut code = Assembler::default();
    code.function("too large").raw(RET);
    for (domain, names) in NAMES.iter().enumerate() {
        for (index, name) in names.iter().enumerate() {
            code.function(name);
            match index {
                3 => code.raw(MOVE),
                _ => code.raw(TEST_RDI).js("too large").raw(MOVE),
            };
            code.load_rdi(SLOTS[5 * domain]).jmp_slot(SLOTS[5 * domain + 1 + index]);
        }
    }
    code.function("free").raw(&[0x48, 0x85, 0xf6]).je("nothing").raw(RET).label("nothing").raw(RET);
    code.function("malloc").raw(RET);
    more(&mut code);
    let mut bytes = code.finish(&SLOTS);
    let mut fill = |slot: &str, address: u64| {
        let at = (code.address(slot) - BASE) as usize;
        bytes[at..at + 8].copy_from_slice(&address.to_le_bytes());
    };
    for slot in ["mem free", "object free"] {
        fill(slot, code.address("free"));
    }
    for slot in ["mem malloc", "object malloc"] {
        fill(slot, code.address("malloc"));
    }
    fill("raw malloc", code.address("too large"));
    let functions: Vec<_> = NAMES.iter().flatten().map(|name| (*name, code.address(name))).collect();
    let frames: Vec<u64> =
        code.labels.iter().filter(|(_, at)| at.is_multiple_of(16)).map(|(_, at)| BASE + at).collect();
    let object = Object { code: &bytes, functions: &functions, frames: &frames, ..Object::default() };
    (object.build(), code)
}

fn found(more: impl FnOnce(&mut Assembler)) -> (Python, Assembler) {
    let (file, code) = interpreter(more);
    (find(&file).unwrap().expect("an interpreter"), code)
}

fn copies(python: &Python) -> Vec<&PythonHook> {
    python.hooks.iter().filter(|hook| hook.inlined).collect()
}

fn site(hook: &PythonHook) -> u64 {
    hook.hook.address + hook.hook.site.offset
}

#[test]
fn thin_functions_are_hooked_at_their_entries() {
    let (python, code) = found(|_| ());
    assert_eq!(python.hooks.len(), 12);
    assert!(python.notes.is_empty() && python.left_out.is_empty(), "{python:x?}");
    for hook in &python.hooks {
        let name = hook.hook.names[0].as_str();
        assert_eq!(hook.hook.address, code.address(name), "{name}");
        assert!(name.starts_with(["PyMem_Raw", "PyMem_", "PyObject_"][hook.domain as usize]), "{name}");
        let free = hook.hook.function == AllocFunction::Free;
        assert_eq!(hook.hook.site.kind == SiteKind::Emulated, !free, "{name}");
        assert_eq!(hook.hook.registers[0], Register::Rdi);
        let realloc = hook.hook.function == AllocFunction::Realloc;
        assert_eq!(hook.hook.flags, if realloc { ZERO_RESIZES } else { 0 });
        let raw = hook.domain == Domain::Raw;
        let layer = if raw { PythonDomain::Raw } else { PythonDomain::MemAndObject };
        assert_eq!(hook.hook.layer, Layer::Python(layer), "one allocator for two domains");
    }
    let pointers = table_pointers(&python);
    assert_eq!(pointers.len(), 12);
    assert!(pointers.contains(&(Domain::Object, AllocFunction::Realloc, code.address("object realloc"))));
    assert!(pointers.contains(&(Domain::Raw, AllocFunction::Free, code.address("raw free"))));
}

#[test]
fn a_copy_is_hooked_where_it_decides() {
    let (python, code) = found(|code| {
        code.function("maker").raw(PUSH_RBX).load_rax("object malloc").load_rdi("object").raw(COMPARE);
        code.label("decision").jne("other").raw(POP_RBX).raw(RET);
        code.label("other").raw(SIZE_FROM_RBX).raw(CALL_RAX).raw(POP_RBX).raw(RET);
    });
    let [hook] = copies(&python)[..] else { panic!("{python:x?}") };
    assert_eq!((hook.domain, hook.hook.function), (Domain::Object, AllocFunction::Malloc));
    assert_eq!((site(hook), hook.hook.address), (code.address("decision"), code.address("maker")));
    assert_eq!((hook.hook.site.kind, hook.hook.site.offset), (SiteKind::Emulated, 21));
    assert_eq!((hook.hook.op, hook.hook.registers[0]), (AllocOp::Allocate, Register::Rbx));
    assert_eq!(hook.bytes, Bytes::Counted);
}

#[test]
fn a_size_that_the_compiler_knew_is_told() {
    let (python, _) = found(|code| {
        for (maker, other, size) in [("a", "b", SIZE_32), ("c", "d", SIZE_FROM_STACK)] {
            code.function(maker).load_rax("mem malloc").raw(COMPARE).jne(other).raw(RET);
            code.label(other).raw(size).raw(CALL_RAX).raw(RET);
        }
    });
    let bytes: Vec<_> = copies(&python).iter().map(|hook| (hook.bytes, hook.hook.registers[0])).collect();
    let pointer = Register::Rax;
    assert_eq!(bytes, [(Bytes::Each(32), pointer), (Bytes::Unknown, pointer)], "never zero, never too large");
    let notes = "1 place have a copy of a function with its size in memory: the calls are counted, their bytes are not";
    assert_eq!(python.notes, [notes]);
}

#[test]
fn a_pointer_that_is_loaded_early_leads_to_every_decision() {
    // The compiler has moved a load in front of a test: either the first block is freed, or the second.
    let (python, code) = found(|code| {
        code.function("dealloc").load_rax("object free").raw(TEST_RDI).je("second");
        code.raw(COMPARE).label("one").jne("call").raw(RET);
        code.label("second").raw(COMPARE).label("two").jne("call").raw(RET);
        code.label("call").raw(MOVE).raw(CALL_RAX).raw(RET);
    });
    let sites: Vec<_> = copies(&python).iter().map(|hook| site(hook)).collect();
    assert_eq!(sites, [code.address("one"), code.address("two")]);
    assert!(copies(&python).iter().all(|hook| hook.hook.registers[0] == Register::Rdi));
}

#[test]
fn a_call_through_the_table_is_hooked_itself() {
    let (python, code) = found(|code| {
        code.function("direct").load_rdi("object").label("here").call_slot("object calloc").raw(RET);
        code.function("by register").load_rax("raw free").label("there").raw(CALL_RAX).raw(RET);
    });
    let [calloc, free] = copies(&python)[..] else { panic!("{python:x?}") };
    assert_eq!((site(calloc), site(free)), (code.address("here"), code.address("there")));
    assert_eq!(calloc.hook.op, AllocOp::AllocateArray);
    assert_eq!(calloc.hook.registers[..2], [Register::Rsi, Register::Rdx], "the context comes first");
    assert_eq!((free.domain, free.hook.registers[0]), (Domain::Raw, Register::Rsi));
    assert_eq!(calloc.hook.site.kind, SiteKind::SingleStepped);
}

#[test]
fn looking_at_a_table_is_no_call() {
    let (python, _) = found(|code| {
        // As `_PyObject_DebugMallocStats` does.
        code.function("is it pymalloc").load_rax("object malloc").raw(COMPARE).jne("no").raw(RET);
        code.label("no").raw(RET);
        // As `PyMem_GetAllocator` does: mov %rax,(%rsi)
        code.function("copy").load_rax("mem free").raw(&[0x48, 0x89, 0x06]).raw(RET);
        // Another call through the same register: mov %rbx,%rax
        code.function("overwritten").load_rax("mem free").raw(&[0x48, 0x89, 0xd8]).raw(CALL_RAX).raw(RET);
        // What looks like a load lies inside another instruction: movabs $..., %rbx
        code.function("inside").raw(&[0x48, 0xbb]).load_rax("mem malloc").raw(&[0x90]).raw(CALL_RAX).raw(RET);
    });
    assert!(copies(&python).is_empty(), "{:x?}", copies(&python));
}

#[test]
fn frees_are_counted_in_pymalloc_while_it_is_in_use() {
    let (python, code) = found(|code| {
        code.function("realloc").label("own").call("free").raw(RET);
    });
    let [release] = &python.releases[..] else { panic!("{python:x?}") };
    assert_eq!(site(release), code.address("free") + 3);
    assert_eq!((release.hook.registers[0], release.hook.site.kind), (Register::Rsi, SiteKind::Emulated));
    assert_eq!(release.hook.names, ["PyMem_Free", "PyObject_Free"]);
    let calls: Vec<_> = release.hook.internal_calls.iter().map(|call| call.address).collect();
    assert_eq!(calls, [code.address("own")]);

    let usual = [Current::System, Current::Pymalloc, Current::Pymalloc];
    assert_eq!(python.current(Domain::Object, code.address("malloc")), usual[2]);
    assert_eq!(python.current(Domain::Raw, code.address("too large")), usual[0]);
    assert_eq!(python.current(Domain::Object, code.address("too large")), Current::System);
    assert_eq!(python.current(Domain::Object, 0x1234), Current::Other);
    let frees = |current| {
        let chosen = python.choose(current);
        assert!(chosen.iter().filter(|hook| hook.hook.function != AllocFunction::Free).count() == 9);
        let frees = chosen.into_iter().filter(|hook| hook.hook.function == AllocFunction::Free);
        frees.map(|hook| hook.hook.names.join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(frees(usual), ["PyMem_RawFree", "PyMem_Free PyObject_Free"]);
    let public = ["PyMem_RawFree", "PyMem_Free", "PyObject_Free"];
    for other in [Current::System, Current::DebugHooks, Current::Other] {
        assert_eq!(frees([Current::System, Current::Pymalloc, other]), public, "{other:?}");
    }
}

#[test]
fn a_jump_into_the_function_that_frees_spoils_it() {
    let (python, _) = found(|code| {
        code.raw(&[0xcc; 300]).function("realloc").jmp("free");
    });
    assert!(python.releases.is_empty(), "{python:x?}");
}

#[test]
fn other_files_are_no_interpreters() {
    let object = Object { code: RET, functions: &[("PyObject_Malloc", BASE)], ..Object::default() };
    assert_eq!(find(&object.build()).unwrap(), None);
}

/// Debian's interpreter, built with a profile: nearly all calls are in copies. Its facts were found by hand, with `objdump`.
#[test]
fn the_interpreter_of_debian_12() {
    let Some(file) = library("/usr/bin/python3.11") else { return };
    let image = crate::binary::analyse(&file, None).unwrap();
    let python = find(&file).unwrap().expect("it is one");
    assert!(python.hooks.iter().all(|hook| {
        let at = image.file_offset_of(site(hook));
        at == Some(hook.hook.site.file_offset)
    }));
    if image.build_id.as_deref() != Some("571d98e01096d5c1c32420d229a6731a0a50d2a0") {
        return println!("SKIPPED: another build");
    }
    assert_eq!(python.hooks.len(), 521);
    let stepped = copies(&python).iter().filter(|hook| hook.hook.site.kind != SiteKind::Emulated).count();
    assert_eq!(stepped, 13, "calls through the table that are compared with nothing");
    let at = |address| python.hooks.iter().find(|hook| site(hook) == address);
    // PyUnicode_New: lea 0x31(%rsi),%rax; mov %rax,%rsi; cmp; jne
    let new = at(0x4fbaa1).expect("a copy of PyObject_Malloc");
    assert_eq!((new.hook.registers[0], new.bytes), (Register::Rsi, Bytes::Counted));
    // Two frees that share one load.
    assert!(at(0x5993a9).is_some() && at(0x599456).is_some());
    // _PyObject_DebugMallocStats compares only.
    assert!(at(0x470c2d).is_none() && at(0x470c49).is_none());
    let tables: Vec<_> = python.tables.iter().map(|table| table.address).collect();
    assert_eq!(tables, [0x95a060, 0x959f80, 0x959f40]);
    assert!(python.releases.is_empty(), "the public functions have cheap sites");
    // Read from processes: as usual, with PYTHONMALLOC=malloc, PYTHONMALLOC=debug and PYTHONTRACEMALLOC=1.
    let raw = [0x4f7350, 0x4f7350, 0x629b20, 0x64e220].map(|at| python.current(Domain::Raw, at));
    assert_eq!(raw, [Current::System, Current::System, Current::DebugHooks, Current::Other]);
    let object = [0x4fb450, 0x4f7350, 0x4fdf80, 0x5b4e60].map(|at| python.current(Domain::Object, at));
    assert_eq!(object, [Current::Pymalloc, Current::System, Current::DebugHooks, Current::Other]);
}

/// Shared libraries, where the functions stay what they are: each is hooked once, and its table found.
#[test]
fn shared_interpreters() {
    let Ok(directory) = std::fs::read_dir("/usr/lib/x86_64-linux-gnu") else { return };
    let names = directory.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names.filter(|name| name.starts_with("libpython3.") && name.ends_with(".so.1.0")) {
        let Some(file) = library(&format!("/usr/lib/x86_64-linux-gnu/{name}")) else { continue };
        let python = find(&file).unwrap().expect("it is one");
        assert_eq!(
            (python.tables.len(), python.left_out.len(), python.notes.len()),
            (3, 0, 0),
            "{python:x?}"
        );
        let public = python.hooks.iter().filter(|hook| !hook.inlined).count();
        assert_eq!(public, 12, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the code: an answer, and sites that lie in the file.
    #[test]
    fn any_code(code in vec(any::<u8>(), 1..3000), places in vec(0u64..3000, 12)) {
        let names = NAMES.iter().flatten().zip(&places).map(|(name, at)| (*name, BASE + at));
        let functions: Vec<_> = names.collect();
        let file = Object { code: &code, functions: &functions, ..Object::default() }.build();
        prop_assert!(find(&file).unwrap().is_some());
    }

    #[test]
    fn damaged_interpreters(flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let (mut file, _) = interpreter(|code| {
            code.function("maker").load_rax("object malloc").raw(COMPARE).jne("other").raw(RET);
            code.label("other").raw(SIZE_FROM_RBX).raw(CALL_RAX).raw(RET);
        });
        for (at, byte) in flips {
            let at = at.index(file.len());
            file[at] ^= byte;
        }
        if let Ok(Some(python)) = find(&file) {
            prop_assert!(python.hooks.iter().all(|hook| (hook.hook.site.file_offset as usize) < file.len()));
        }
    }
}
