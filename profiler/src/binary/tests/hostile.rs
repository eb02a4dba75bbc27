//! Files that are made to do harm: whatever the bytes, there is an answer, and soon.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Assembler, BASE, Object, glibc, text};
use crate::binary::flow::{Flow, MAX_INSTRUCTIONS};
use crate::binary::site::choose;
use crate::binary::{Hook, MAX_INTERNAL_CALLS, analyse};

/// Generous: tests run without optimisation, on a busy machine. (With it, libc takes about 10 ms.)
const SOON: Duration = Duration::from_secs(20);

pub fn soon<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    assert!(took < SOON, "took {took:?}");
    result
}

/// A small library that counts as glibc, around the given code; functions begin at the given places.
fn library_of(code: &[u8], places: &[u64]) -> Vec<u8> {
    let names = ["malloc", "free", "gnu_get_libc_version", "realloc", "reallocarray", "memalign", "calloc"];
    let functions: Vec<_> =
        names.iter().zip(places.iter().cycle()).map(|(name, at)| (*name, BASE + at)).collect();
    let slots = [(BASE, "malloc"), (BASE + 2, "realloc")];
    Object { code, functions: &functions, slots: &slots, ..Object::default() }.build()
}

/// Whatever the file: at the offsets of the internal calls there are direct calls of the function, or jumps back to it.
fn assert_calls(file: &[u8], hook: &Hook) {
    assert!(hook.internal_calls.len() <= MAX_INTERNAL_CALLS);
    assert!(hook.internal_calls.is_sorted_by(|a, b| a.address < b.address), "{hook:x?}");
    for call in &hook.internal_calls {
        let [0xe8 | 0xe9, displacement @ ..] = &file[call.file_offset as usize..][..5] else {
            panic!("{call:x?}")
        };
        let displacement = i32::from_le_bytes(displacement.try_into().unwrap());
        let target = call.address.wrapping_add(5).wrapping_add_signed(i64::from(displacement));
        assert_eq!(target, hook.address, "{call:x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..2000)) {
        let _ = soon(|| analyse(&bytes, None));
    }

    #[test]
    fn random_bytes_behind_a_good_header(bytes in vec(any::<u8>(), 0..2000)) {
        let mut image = Object { code: &[0x55], functions: &[("malloc", BASE)], ..Object::default() }.build();
        image.truncate(64);
        image.extend(bytes);
        let _ = soon(|| analyse(&image, None));
    }

    #[test]
    fn random_code(code in vec(any::<u8>(), 1..600), entry in 0u64..600, arguments in 0usize..9) {
        let _ = soon(|| choose(&text(&code, &[entry]), BASE + entry, arguments));
    }

    /// Mostly branches, jumping about in themselves.
    #[test]
    fn branches_everywhere(
        pieces in vec((prop_oneof![Just(0xe8u8), Just(0xe9), Just(0xeb), Just(0x74), Just(0x90)], any::<i8>()), 1..200),
        places in vec(0u64..1000, 1..8),
    ) {
        let long = |opcode| matches!(opcode, 0xe8 | 0xe9);
        let code: Vec<u8> = pieces.iter().flat_map(|&(opcode, to)| {
            let mut bytes = vec![opcode];
            bytes.extend(i32::from(to).to_le_bytes());
            bytes.truncate(if long(opcode) { 5 } else { 2 });
            bytes
        }).collect();
        let file = library_of(&code, &places);
        let image = soon(|| analyse(&file, None)).unwrap();
        for hook in &image.hooks {
            assert_calls(&file, hook);
            prop_assert_eq!(image.file_offset_of(hook.address + hook.site.offset), Some(hook.site.file_offset));
        }
    }
}

/// Numbers that sit on the edges of what the checks compare with.
pub fn wild() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..64,
        Just(u64::MAX),
        Just(u64::MAX - 7),
        Just(1 << 63),
        Just(u64::from(u32::MAX)),
        0x1d0000u64..0x1e0000
    ]
}

#[test]
fn a_real_library_with_damages() {
    let Some(good) = glibc() else { return };
    // Flips concentrate on the headers and tables, which lie in the first 160 KiB, and on .dynamic.
    let place = || prop_oneof![0usize..0x400, 0usize..0x28000, 0x1d0000usize..0x1d4000, 0usize..good.len()];
    let strategy = (
        vec((place(), any::<u8>()), 0..20),
        vec((place(), wild()), 0..6),
        prop_oneof![3 => Just(usize::MAX), 1 => 0..good.len()],
    );
    let config = ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcomes = std::cell::RefCell::new([0, 0, 0]);
    runner
        .run(&strategy, |(bytes, words, length)| {
            let mut file = good.clone();
            for (at, byte) in bytes {
                let at = at.min(file.len() - 1);
                file[at] ^= byte;
            }
            for (at, word) in words {
                let at = (at & !7).min(file.len() - 8);
                file[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            file.truncate(length);
            let result = soon(|| analyse(&file, None));
            if let Ok(image) = &result {
                image.hooks.iter().for_each(|hook| assert_calls(&file, hook));
            }
            let outcome = match result {
                Ok(image) if !image.hooks.is_empty() => 0,
                Ok(_) => 1,
                Err(_) => 2,
            };
            outcomes.borrow_mut()[outcome] += 1;
            Ok(())
        })
        .unwrap();
    let [whole, part, error] = outcomes.into_inner();
    println!("damaged libraries: {whole} analysed, {part} no longer glibc, {error} errors");
    assert!(whole > 0 && error > 0, "the damages should do both");
}

#[test]
fn a_flow_without_end() {
    // A megabyte of one function: the budget ends it, and says so.
    let code = [0x48, 0x85, 0xff].repeat(400_000);
    let text = text(&code, &[0]);
    let flow = soon(|| Flow::from(&text, BASE));
    assert!(!flow.complete);
    assert_eq!(flow.instructions.len(), MAX_INSTRUCTIONS);
    // Whoever chooses a site there says so, too.
    let long = [vec![0x55], code].concat();
    let (site, _) = choose(&super::text(&long, &[0]), BASE, 1).unwrap();
    assert!(site.reason.contains("as far as"), "{}", site.reason);
}

#[test]
fn nothing_but_branches_to_malloc() {
    // Callers, each a function of its own that jumps on, and calls and jumps through the slots of `library_of`.
    let mut code = Assembler::default();
    code.function("malloc").label("slot").raw(&[0x55, 0xc3]);
    for _ in 0..100_000 {
        code.call("malloc").jmp("malloc").jmp_slot("slot").call_slot("slot");
    }
    let code = code.finish(&[]);
    for places in [&[0][..], &[0, 5, 10, 15, 22, 27, 32]] {
        let image = library_of(&code, places);
        let image = soon(|| analyse(&image, None)).unwrap();
        assert!(!image.hooks.is_empty());
        assert!(image.hooks.iter().any(|hook| !hook.notes.is_empty()));
    }
}

#[test]
fn too_much_of_everything_is_an_error() {
    let code = [0xe8, 0, 0, 0, 0].repeat(3 << 20);
    assert!(soon(|| analyse(&library_of(&code, &[0]), None)).unwrap_err().to_string().contains("branches"));
    // Of more code, only what stands around the functions of interest is indexed.
    let code = [0xe8, 0, 0, 0, 0].repeat(5 << 20);
    assert!(!soon(|| analyse(&library_of(&code, &[0]), None)).unwrap().hooks.is_empty());
}

#[test]
fn overlapping_segments() {
    // A segment that isn't executable lies at the same addresses as the code and has its bytes from 16 further on, where
    // the same call stands: what is read and where a probe goes must be of one and the same segment.
    let call =
        [0x55, 0xe8, 0xea, 0xff, 0xff, 0xff, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];
    let plain =
        [0x55, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];
    let calls = |code: &[u8], shift: bool| {
        let mut file = library_of(code, &[0, 0, 0, 16]);
        // The program headers are 56 bytes each: the second is the code, the fourth the notes.
        let header = |index: usize| 64 + 56 * index..64 + 56 * (index + 1);
        if shift {
            let second = file[header(1)].to_vec();
            file[header(3)].copy_from_slice(&second);
            let at = header(1).start;
            file[at + 4..][..4].copy_from_slice(&4u32.to_le_bytes());
            file[at + 8..][..8].copy_from_slice(&(BASE - super::SKEW + 16).to_le_bytes());
            file[at + 32..][..8].copy_from_slice(&(code.len() as u64 - 16).to_le_bytes());
        }
        let image = analyse(&file, None).unwrap();
        image.hooks.iter().for_each(|hook| assert_calls(&file, hook));
        image.hooks.iter().map(|hook| hook.internal_calls.len()).sum::<usize>()
    };
    assert_eq!(calls(&[plain, call].concat(), false), 1);
    assert_eq!(calls(&[plain, call, plain].concat(), true), 1);
    assert_eq!(calls(&[plain, plain, call].concat(), true), 0);
}
