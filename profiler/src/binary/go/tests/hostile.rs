//! Damaged programs: whatever is in them, reading ends soon and well.

use std::time::{Duration, Instant};

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::super::{GoError, analyse};
use super::toolchain::{toolchains, without_sections, without_symbols};

/// A damaged file may take longer than a whole one, but not much: the most that is bounded only by the file's size are a
/// few passes over it.
const PATIENCE: Duration = Duration::from_secs(2);

fn survives(file: &[u8], what: &str) {
    let began = Instant::now();
    let _whatever = analyse(file);
    assert!(began.elapsed() < PATIENCE, "{what}: {:?}", began.elapsed());
}

fn random() -> TestRng {
    TestRng::deterministic_rng(RngAlgorithm::ChaCha)
}

#[test]
fn files_that_are_no_programs_are_refused_and_other_programs_are_no_go() {
    for file in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &[0; 4096], b"\x7fELF\x01\x01"] {
        assert!(matches!(analyse(file), Err(GoError::Elf(_))), "{file:?}");
    }
    let file = super::code::file(62, &[0xc3; 64]);
    assert_eq!(analyse(&file), Ok(None));
}

#[test]
fn a_program_that_is_cut_off_anywhere_is_survived() {
    for go in toolchains().into_iter().take(2) {
        for options in [&[][..], &["-buildmode=pie"]] {
            let file = without_symbols(&go.program(options, &[]));
            let mut random = random();
            for _ in 0..100 {
                let length = random.next_u32() as usize % file.len();
                survives(&file[..length], &format!("{} cut at {length}", go.version));
            }
        }
    }
}

#[test]
fn a_program_with_wrong_bytes_anywhere_is_survived() {
    for go in toolchains().into_iter().take(2) {
        for options in [&[][..], &["-buildmode=pie"]] {
            let whole = go.program(options, &[]);
            for file in [without_symbols(&whole), without_sections(&whole), whole] {
                damage(&file, &format!("{} {options:?}", go.version));
            }
        }
    }
}

/// Wrong bytes where they hurt: in headers, in the table of functions' header and records, in the linker's data, in the build
/// information.
fn damage(file: &[u8], what: &str) {
    let mut random = random();
    let place = |bytes: &[u8]| file.windows(bytes.len()).position(|window| window == bytes);
    let magic = place(&[0xff, 0xff, 0xff, 0, 0, 1, 8]).map(|at| at - 1);
    let info = place(b"\xff Go buildinf:");
    let areas = [(0, 1024), (magic.unwrap(), 128), (info.unwrap(), 512), (0, file.len())];
    let extremes = [0, 1, 0x7f, 0x80, 0xff];
    for round in 0..400 {
        let (start, length) = areas[round % areas.len()];
        let mut damaged = file.to_vec();
        for _ in 0..=random.next_u32() % if length == file.len() { 10_000 } else { 4 } {
            let at = start + random.next_u32() as usize % length;
            let number = random.next_u32() as usize;
            damaged[at] =
                if number.is_multiple_of(2) { extremes[number / 2 % extremes.len()] } else { number as u8 };
        }
        survives(&damaged, what);
    }
}

/// Counts and lengths that promise more than there is.
#[test]
fn numbers_beyond_all_bounds_are_survived() {
    for go in toolchains().into_iter().take(1) {
        let file = without_symbols(&go.program(&[], &[]));
        let magic = file.windows(7).position(|window| window == [0xff, 0xff, 0xff, 0, 0, 1, 8]).unwrap() - 1;
        for field in 1..9 {
            for value in [0, 1, 71, u64::from(u32::MAX), u64::MAX, 1 << 21] {
                let mut damaged = file.clone();
                damaged[magic + field * 8..magic + field * 8 + 8].copy_from_slice(&value.to_le_bytes());
                survives(&damaged, &format!("field {field} of the table of functions is {value}"));
            }
        }
        let info = file.windows(14).position(|window| window == b"\xff Go buildinf:").unwrap();
        for length in [&[0xff, 0xff, 0xff, 0x7f][..], &[0xff; 12], &[0x80, 0], &[0]] {
            let mut damaged = file.clone();
            damaged[info + 32..info + 32 + length.len()].copy_from_slice(length);
            survives(&damaged, &format!("length {length:?} in the build information"));
        }
    }
}
