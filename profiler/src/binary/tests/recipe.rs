//! A small library that is built like glibc's allocator, with parts that tests exchange.

use profiler_common::alloc::AllocFunction;

use super::{Assembler, Object, SKEW};
use crate::binary::{Hook, Image, analyse};

/// The parts of the library that the tests exchange.
pub struct Recipe {
    pub malloc: fn(&mut Assembler),
    pub realloc: fn(&mut Assembler),
    pub reallocarray: fn(&mut Assembler),
    /// What all functions with an alignment go through.
    pub mid: fn(&mut Assembler),
    pub posix_memalign: fn(&mut Assembler),
    /// Behind everything else.
    pub more: fn(&mut Assembler),
    /// `.eh_frame_hdr` names the functions, local ones too.
    pub frames: bool,
    /// What stands before the jumps of the procedure linkage table.
    pub stub: &'static [u8],
    /// The local functions in `more`.
    pub locals: &'static [&'static str],
}

pub const PUSH_RBX: &[u8] = &[0x53];
pub const POP_RBX: &[u8] = &[0x5b];
pub const RET: &[u8] = &[0xc3];
pub const TEST_RDI: &[u8] = &[0x48, 0x85, 0xff];
pub const CALL: u64 = 5;

impl Default for Recipe {
    fn default() -> Self {
        Self {
            malloc: |code| {
                code.raw(PUSH_RBX).raw(POP_RBX).raw(RET);
            },
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
            mid: |code| {
                code.raw(PUSH_RBX)
                    .je("small")
                    .raw(POP_RBX)
                    .raw(RET)
                    .label("small")
                    .raw(POP_RBX)
                    .jmp("malloc");
            },
            posix_memalign: |code| {
                code.raw(PUSH_RBX).call("mid").raw(POP_RBX).raw(RET);
            },
            more: |_| (),
            frames: true,
            stub: &[],
            locals: &[],
        }
    }
}

/// All functions of the library: public ones, then local ones.
pub const PUBLIC: [&str; 12] = [
    "malloc",
    "free",
    "realloc",
    "reallocarray",
    "calloc",
    "aligned_alloc",
    "memalign",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "cfree",
    "gnu_get_libc_version",
];
pub const LOCAL: [&str; 3] = ["mid", "shutdown", "client"];

impl Recipe {
    pub fn build(&self) -> (Assembler, Image) {
        let mut code = Assembler::default();
        for (stub, slot) in
            [("realloc@plt", "realloc slot"), ("malloc@plt", "malloc slot"), ("free@plt", "free slot")]
        {
            code.function(stub).raw(self.stub).jmp_slot(slot);
        }
        code.function("malloc");
        (self.malloc)(&mut code);
        code.function("mid");
        (self.mid)(&mut code);
        code.function("free").label("cfree").raw(TEST_RDI).raw(&[0x74, 0]).raw(RET);
        code.function("shutdown").call("free").label("shutdown free").raw(RET);
        code.function("realloc");
        (self.realloc)(&mut code);
        code.function("reallocarray");
        (self.reallocarray)(&mut code);
        code.function("calloc").raw(PUSH_RBX).raw(POP_RBX).raw(RET);
        code.function("memalign").raw(TEST_RDI).jmp("mid");
        code.function("aligned_alloc").raw(TEST_RDI).jmp("mid");
        code.function("posix_memalign");
        (self.posix_memalign)(&mut code);
        code.function("valloc").raw(PUSH_RBX).call("mid").raw(POP_RBX).raw(RET);
        code.function("pvalloc").raw(PUSH_RBX).raw(POP_RBX).jmp("mid");
        code.function("client").raw(PUSH_RBX).call("malloc@plt").call("free@plt");
        code.call_slot("free slot").raw(POP_RBX).raw(RET);
        code.function("gnu_get_libc_version").raw(PUSH_RBX).call("shutdown").raw(POP_RBX).raw(RET);
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
        let image = analyse(&image.build(), None).unwrap();
        (code, image)
    }
}

pub fn hook(image: &Image, function: AllocFunction) -> &Hook {
    image
        .hooks
        .iter()
        .find(|hook| hook.function == function)
        .unwrap_or_else(|| panic!("{function:?}: {image:#?}"))
}

/// Checks a hook's internal calls: exactly those in front of the labels.
pub fn assert_internal(code: &Assembler, hook: &Hook, labels: &[&str]) {
    let found: Vec<u64> = hook.internal_calls.iter().map(|call| call.address + CALL).collect();
    let mut expected: Vec<u64> = labels.iter().map(|label| code.address(label)).collect();
    expected.sort_unstable();
    assert_eq!(found, expected, "{labels:?}: {hook:x?}");
    for call in &hook.internal_calls {
        assert_eq!(call.file_offset, call.address - SKEW);
        assert_eq!(call.instruction, format!("call {:#x}", hook.address));
    }
}
