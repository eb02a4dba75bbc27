//! What code refers to: the references to data in functions of the runtime that every program has, in order. From them
//! the runtime's globals are found in programs without a symbol table, by comparing with those of a program that has one.

use std::collections::{BTreeMap, HashMap};

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::Span;
use super::image::{GoFile, Machine, u32_at};

/// The functions that are compared: linked into every program, and between them they refer to all of [`GLOBALS`] that
/// the version has.
pub const FUNCTIONS: [&str; 39] = [
    "runtime.(*mcache).prepareForSweep",
    "runtime.(*mcache).refill",
    "runtime.(*mcache).releaseAll",
    "runtime.(*mheap).grow",
    "runtime.(*mheap).init",
    "runtime.allgadd",
    "runtime.allocmcache",
    "runtime.checkdead",
    "runtime.createfing",
    "runtime.forEachG",
    "runtime.forEachGRace",
    "runtime.gcControllerCommit",
    "runtime.gcMarkTermination",
    "runtime.gcPrepareMarkRoots",
    "runtime.gcResetMarkState",
    "runtime.gcStart",
    "runtime.gcSweep",
    "runtime.gfget",
    "runtime.gfput",
    "runtime.injectglist",
    "runtime.isSystemGoroutine",
    "runtime.lock2",
    "runtime.mProf_Flush",
    "runtime.mProf_FlushLocked",
    "runtime.mProf_Malloc",
    "runtime.mallocinit",
    "runtime.mcommoninit",
    "runtime.newproc1",
    "runtime.osinit",
    "runtime.persistentalloc1",
    "runtime.procresize",
    "runtime.profilealloc",
    "runtime.schedEnableUser",
    "runtime.schedinit",
    "runtime.schedtrace",
    "runtime.startTheWorldWithSema",
    "runtime.stkbucket",
    "runtime.stopTheWorldWithSema",
    "runtime.sysmon",
];

/// The globals that are looked for. Go 1.25 renamed `ncpu` to `numCPUStartup`.
pub const GLOBALS: [&str; 17] = [
    "runtime.memstats",
    "runtime.mheap_",
    "runtime.gcController",
    "runtime.sched",
    "runtime.allp",
    "runtime.allglen",
    "runtime.allgs",
    "runtime.allm",
    "runtime.mbuckets",
    "runtime.mProfCycle",
    "runtime.MemProfileRate",
    "runtime.emptymspan",
    "runtime.gomaxprocs",
    "runtime.ncpu",
    "runtime.numCPUStartup",
    "runtime.fingStatus",
    "runtime.fingRunning",
];

/// Sections that hold a program's variables.
const DATA: [&str; 4] = [".noptrdata", ".data", ".bss", ".noptrbss"];
/// Bytes of code that are read of a function; the largest of [`FUNCTIONS`] has about 6000.
const MAX_CODE: usize = 64 << 10;
/// References that are taken of a function; the most that one of [`FUNCTIONS`] has are about 100.
const MAX_REFERENCES: usize = 1024;

/// A reference to data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// What the instruction does with how many bytes, `mov/8`: the same wherever the program is linked.
    pub signature: String,
    /// The address that it refers to.
    pub target: u64,
}

/// Where a program's variables are, by its sections; without any, the parts that are mapped writable.
pub fn data_spans(file: &GoFile<'_>) -> Vec<Span> {
    let sections = DATA.iter().filter_map(|name| file.section(name));
    let span = |start: u64, size: u64| Span { start, end: start.saturating_add(size) };
    let spans: Vec<_> = sections.map(|section| span(section.address, section.size)).collect();
    if !spans.is_empty() {
        return spans;
    }
    let writable = file.segments.iter().filter(|segment| segment.writable);
    writable.map(|segment| span(segment.address, segment.memory_size)).collect()
}

/// The references to `data` in the function's code, in its order.
pub fn references(file: &GoFile<'_>, function: Span, data: &[Span]) -> Vec<Reference> {
    let Some(code) = file.at(function.start) else { return Vec::new() };
    let size = usize::try_from(function.end.saturating_sub(function.start)).unwrap_or(usize::MAX);
    let code = code.get(..size.min(MAX_CODE).min(code.len())).unwrap_or(&[]);
    let mut found = match file.machine {
        Machine::Amd64 => references_amd64(code, function.start),
        Machine::Arm64 => references_arm64(code, function.start),
        Machine::Other(_) => Vec::new(),
    };
    found.retain(|reference| data.iter().any(|span| (span.start..span.end).contains(&reference.target)));
    found.truncate(MAX_REFERENCES);
    found
}

/// Operands relative to the instruction pointer: how Go's code for x86-64 refers to variables.
fn references_amd64(code: &[u8], address: u64) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut instruction = Instruction::default();
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if !instruction.is_ip_rel_memory_operand() {
            continue;
        }
        let size = match instruction.mnemonic() {
            Mnemonic::Lea if instruction.op0_kind() == OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        };
        let mnemonic = format!("{:?}", instruction.mnemonic()).to_ascii_lowercase();
        let target = instruction.ip_rel_memory_address();
        found.push(Reference { signature: format!("{mnemonic}/{size}"), target });
    }
    found
}

/// Pairs of `ADRP` and what adds the rest (Arm ARM, C6.2: `ADD` immediate, `LDR` and `STR` with unsigned offset): Go's
/// assembler emits them one behind the other. A linker may make `ADR` of a pair.
fn references_arm64(code: &[u8], address: u64) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut page: Option<(u32, u64)> = None;
    for index in 0..code.len() / 4 {
        let Some(word) = u32_at(code, index * 4) else { break };
        let place = address.wrapping_add(index as u64 * 4);
        let (to, base, immediate) = (word & 31, (word >> 5) & 31, u64::from((word >> 10) & 0xfff));
        // 21 bits with a sign: the upper 19 here, the lower two there.
        let far = ((word >> 3) & 0x001f_fffc) | ((word >> 29) & 3);
        let far = i64::from((far << 11).cast_signed() >> 11);
        let paged = page.take().filter(|&(register, _)| register == base).map(|(_, page)| page);
        let mut push = |signature: String, target: u64| found.push(Reference { signature, target });
        if word & 0x9f00_0000 == 0x9000_0000 {
            page = Some((to, (place & !0xfff).wrapping_add_signed(far << 12)));
        } else if word & 0x9f00_0000 == 0x1000_0000 {
            push("add/8".to_owned(), place.wrapping_add_signed(far));
        } else if let Some(page) = paged {
            if word & 0xffc0_0000 == 0x9100_0000 {
                push("add/8".to_owned(), page.wrapping_add(immediate));
            } else if word & 0x3b00_0000 == 0x3900_0000 {
                let (vector, operation) = (word & (1 << 26) != 0, (word >> 22) & 3);
                let scale = if vector && operation >= 2 { 4 } else { word >> 30 };
                let name = match (vector, operation) {
                    (false, 0) => "str",
                    (false, 1) => "ldr",
                    (false, _) => "ldrs",
                    (true, 0 | 2) => "fstr",
                    (true, _) => "fldr",
                };
                push(format!("{name}/{}", 1_u32 << scale), page.wrapping_add(immediate << scale));
            }
        }
    }
    found
}

/// References by function, as [`super::layout::Table::code`] has them.
pub type CodeTable = BTreeMap<String, Vec<(String, Option<String>, i64)>>;

/// The table for programs of the same version, from one that has a symbol table.
///
/// # Errors
///
/// If the file can't be read, or has no symbols.
pub fn code_table(file: &[u8]) -> Result<CodeTable, String> {
    let file = GoFile::read(file).map_err(|error| error.to_string())?;
    let mut code = BTreeMap::new();
    let mut globals = Vec::new();
    let wanted: HashMap<&str, bool> =
        FUNCTIONS.iter().map(|name| (*name, true)).chain(GLOBALS.iter().map(|name| (*name, false))).collect();
    let longest = wanted.keys().map(|name| name.len()).max().unwrap_or(0);
    for (name, start, size) in file.all_symbols() {
        let Some(name) = super::image::terminated(name, 0, longest + 1) else { continue };
        let span = Span { start, end: start.saturating_add(size.max(1)) };
        match wanted.get(name) {
            Some(true) => drop(code.insert(name.to_owned(), span)),
            Some(false) => globals.push((name, span)),
            None => (),
        }
    }
    if code.is_empty() || globals.is_empty() {
        return Err("the file has no symbols of Go's runtime".to_owned());
    }
    let data = data_spans(&file);
    let named = |reference: Reference| {
        let Reference { signature, target } = reference;
        let global = globals.iter().find(|(_, span)| (span.start..span.end).contains(&target));
        let offset = global.map_or(0, |(_, span)| target.wrapping_sub(span.start).cast_signed());
        (signature, global.map(|&(name, _)| name.to_owned()), offset)
    };
    let table = code
        .into_iter()
        .map(|(name, span)| (name, references(&file, span, &data).into_iter().map(named).collect()));
    Ok(table.collect())
}
