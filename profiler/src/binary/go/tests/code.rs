//! Single instructions and votes, by hand.

use std::collections::HashMap;

use super::super::Span;
use super::super::image::GoFile;
use super::super::layout::Table;
use super::super::recovery::recover;
use super::super::references::references;

const CODE: u64 = 0x40_1000;
const DATA: Span = Span { start: 0x50_0000, end: 0x60_0000 };

/// A file with this code at [`CODE`], for the machine of that number.
pub fn file(machine: u16, code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 120];
    let mut put = |at: usize, value: u64, size: usize| {
        file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    // The header: 64 bit, little-endian, a program; one program header of 56 bytes at 64.
    put(0, 0x0001_0102_464c_457f, 8);
    for (at, value, size) in
        [(16, 2, 2), (18, machine.into(), 2), (20, 1, 4), (32, 64, 8), (52, 64, 2), (54, 56, 2), (56, 1, 2)]
    {
        put(at, value, size);
    }
    let length = code.len() as u64;
    for (at, value, size) in
        [(64, 1, 4), (68, 5, 4), (72, 120, 8), (80, CODE, 8), (96, length, 8), (104, length, 8)]
    {
        put(at, value, size);
    }
    file.extend_from_slice(code);
    file
}

fn found(machine: u16, code: &[u8]) -> Vec<(String, u64)> {
    let file = file(machine, code);
    let file = GoFile::read(&file).unwrap();
    let function = Span { start: CODE, end: CODE + code.len() as u64 };
    let found = references(&file, function, &[DATA]);
    found.into_iter().map(|reference| (reference.signature, reference.target)).collect()
}

/// Bytes as `objdump` shows them.
#[test]
fn instructions_of_x86_64_refer_to_data_relative_to_the_next() {
    let code = [
        &[0x48, 0x8b, 0x05, 0xf9, 0xff, 0x0f, 0x00][..], // mov 0xffff9(%rip),%rax
        &[0x48, 0x8d, 0x0d, 0xf2, 0xff, 0x0f, 0x00],     // lea 0xffff2(%rip),%rcx
        &[0x83, 0x3d, 0xeb, 0xff, 0x0f, 0x00, 0x01],     // cmpl $1,0xfffeb(%rip)
        &[0x48, 0x8b, 0x05, 0xf9, 0xff, 0xff, 0x00],     // beyond the data
        &[0x48, 0x8b, 0x40, 0x08],                       // mov 8(%rax),%rax
    ]
    .concat();
    let expected = [("mov/8", 0x50_1000), ("lea/8", 0x50_1000), ("cmp/4", 0x50_1000)];
    assert_eq!(found(62, &code), expected.map(|(signature, target)| (signature.to_owned(), target)));
}

/// Words as `go tool objdump` shows them, with the pages that it computes.
#[test]
fn pairs_of_instructions_of_arm64_refer_to_data_by_page_and_offset() {
    let words: [u32; 11] = [
        0xd000_081b, // ADRP 1056768(PC), R27
        0xb987_9b63, // MOVW 1944(R27), R3
        0xd000_081b, // ADRP 1056768(PC), R27
        0x9104_237b, // ADD $264, R27, R27
        0xd000_081b, // ADRP 1056768(PC), R27
        0xf900_8b64, // MOVD R4, 272(R27)
        0xd000_081b, // ADRP 1056768(PC), R27
        0x397d_c364, // MOVBU 3952(R27), R4
        0xf940_8764, // MOVD 264(R27), R4: belongs to no page
        0xd000_0800, // ADRP 1056768(PC), R0
        0xf940_8764, // MOVD 264(R27), R4: of another register
    ];
    let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let page = CODE + 1_056_768;
    let expected = [("ldrs/4", 1944), ("add/8", 264), ("str/8", 272), ("ldr/1", 3952)];
    assert_eq!(found(183, &code), expected.map(|(signature, offset)| (signature.to_owned(), page + offset)));
}

/// A table of twelve functions, each of which reads and takes the address of the same global, and the program's functions.
fn twelve(program: impl Fn(u64) -> Vec<u64>) -> (Table, Vec<u8>, HashMap<&'static str, Span>) {
    const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let mut table = Table {
        sizes: [].into(),
        structs: [].into(),
        class_to_size: vec![],
        wait_reasons: vec![],
        code: [].into(),
    };
    let (mut code, mut functions) = (Vec::new(), HashMap::new());
    for (index, name) in NAMES.into_iter().enumerate() {
        let known =
            ["lea/8", "mov/8"].map(|signature| (signature.to_owned(), Some("runtime.x".to_owned()), 8));
        table.code.insert(name.to_owned(), known.to_vec());
        let start = CODE + code.len() as u64;
        for (number, target) in program(index as u64).into_iter().enumerate() {
            let next = CODE + code.len() as u64 + 7;
            code.extend_from_slice(if number == 0 { &[0x48, 0x8d, 0x0d] } else { &[0x48, 0x8b, 0x05] });
            code.extend_from_slice(&u32::try_from(target - next).unwrap().to_le_bytes());
        }
        functions.insert(name, Span { start, end: CODE + code.len() as u64 });
    }
    (table, code, functions)
}

fn recovered(program: impl Fn(u64) -> Vec<u64>) -> Result<Option<u64>, String> {
    let (table, code, functions) = twelve(program);
    let file = file(62, &code);
    let file = GoFile::read(&file).unwrap();
    recover(&file, &functions, &[DATA], &table).map(|found| found.globals.get("runtime.x").copied())
}

#[test]
fn four_of_five_votes_make_an_address_and_fewer_make_none() {
    let real = DATA.start + 0x108;
    assert_eq!(recovered(|_| vec![real, real]), Ok(Some(DATA.start + 0x100)));
    // Two functions of twelve mean another place: 20 of 24 votes.
    let mostly = |index| if index < 2 { vec![real + 64; 2] } else { vec![real; 2] };
    assert_eq!(recovered(mostly), Ok(Some(DATA.start + 0x100)));
    let less = |index| if index < 3 { vec![real + 64; 2] } else { vec![real; 2] };
    assert_eq!(recovered(less), Ok(None));
}

#[test]
fn where_too_few_functions_are_as_they_should_be_nothing_is_believed() {
    let real = DATA.start + 0x108;
    let some = |count| move |index| if index < count { vec![real; 2] } else { vec![real; 3] };
    assert_eq!(recovered(some(8)), Ok(Some(DATA.start + 0x100)));
    assert!(recovered(some(7)).unwrap_err().contains("only 7 of 12"));
}
