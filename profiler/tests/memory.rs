//! What is found in a process's memory, and what looking costs it, against what a helper says of itself.

mod common;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    can_observe,
    helper::{Helper, compiled},
};
use profiler::{
    target::{PAGE, PageState, Process},
    worker::references::{Block, References, SearchRange, search},
};
use serde_json::Value;

fn program() -> Option<PathBuf> {
    compiled("pages.c", &["-O2"])
}

fn say(helper: &mut Helper, line: &str) -> Value {
    helper.tell(line);
    helper.answer()
}

fn address(answer: &Value) -> u64 {
    answer["address"].as_u64().unwrap_or_else(|| panic!("an address: {answer}"))
}

/// The pages of a range, in the order of their addresses.
fn pages(first: u64, count: u64) -> Vec<u64> {
    (0..count).map(|page| first + page * PAGE).collect()
}

fn search_all(process: &Process, blocks: &[Block]) -> References {
    let plan = process.search_plan().expect("it can be searched");
    let ranges: Vec<SearchRange> =
        plan.ranges.into_iter().map(|(addresses, shared)| SearchRange { addresses, shared }).collect();
    let mut files = process.memory_files().expect("its memory can be opened");
    search(blocks, &ranges, &plan.roots, &mut files, || true).expect("it can be searched")
}

#[test]
fn pages_that_were_given_back_are_gone() {
    let (true, Some(program)) = (can_observe(), program()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let process = Process::open(helper.pid()).expect("it runs");
    let pagemap = process.pagemap().expect("its page table can be read");
    let states = |addresses: &[u64]| pagemap.states(addresses).expect("it can be read");
    let first = address(&say(&mut helper, "map 2000"));
    let all = pages(first, 2000);
    assert!(states(&all).iter().all(|state| *state == PageState::Own));
    say(&mut helper, &format!("dontneed {} 500", first + 100 * PAGE));
    say(&mut helper, &format!("unmap {} 300", first + 1000 * PAGE));
    for (index, state) in states(&all).into_iter().enumerate() {
        let gone = (100..600).contains(&index) || (1000..1300).contains(&index);
        assert_eq!(state == PageState::Gone, gone, "page {index}: {state:?}");
    }
    // Far apart, unsorted, and nowhere at all.
    let odd = [first, 0, first + 50 * PAGE + 77, u64::MAX, first + 200 * PAGE, 1 << 46];
    let expected = [true, false, true, false, false, false];
    assert_eq!(states(&odd).into_iter().map(PageState::is_own).collect::<Vec<_>>(), expected);
    helper.tell("exec");
    assert!(common::within(common::LONG, || states(&all).iter().all(|state| *state == PageState::Gone)));
}

#[test]
fn pages_of_files_are_told_from_those_that_were_written_to() {
    let (true, Some(program)) = (can_observe(), program()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let process = Process::open(helper.pid()).expect("it runs");
    let first = address(&say(&mut helper, "file 64"));
    let states = process.pagemap().map(|map| map.states(&pages(first, 64)).expect("readable"));
    for (index, state) in states.expect("readable").into_iter().enumerate() {
        assert_eq!(state, if index % 2 == 0 { PageState::Own } else { PageState::Shared }, "page {index}");
    }
    let space = process.address_space().expect("readable");
    use profiler::target::MappingUse;
    let usage = |address| space.at(address).map(|mapping| mapping.usage);
    assert_eq!(usage(first), Some(MappingUse::PrivateFile));
    assert_eq!(usage(address(&say(&mut helper, "map 2"))), None, "it came later");
    assert!(
        [MappingUse::Heap, MappingUse::Stack, MappingUse::Anonymous, MappingUse::Special]
            .into_iter()
            .all(|usage| space.mappings.iter().any(|mapping| mapping.usage == usage))
    );
}

#[test]
fn a_huge_page_is_told() {
    let (true, Some(program)) = (can_observe(), program()) else { return };
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if setting.is_empty() || setting.contains("[never]") {
        return common::skip("no transparent huge pages");
    }
    let mut helper = Helper::start::<&str>(&program, &[]);
    let process = Process::open(helper.pid()).expect("it runs");
    let mut pagemap = process.pagemap().expect("readable");
    let small = address(&say(&mut helper, "map 1"));
    if pagemap.is_huge(small).is_none() {
        return common::skip("this kernel doesn't tell huge pages");
    }
    let huge = address(&say(&mut helper, "huge"));
    assert_eq!(pagemap.is_huge(small), Some(false));
    assert_eq!(pagemap.is_huge(huge + 5 * PAGE), Some(true));
    assert_eq!(pagemap.is_huge(1 << 46), None);
}

#[test]
fn the_search_finds_exactly_the_blocks_that_are_lost() {
    let (true, Some(program)) = (can_observe(), program()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let answer = say(&mut helper, "blocks");
    let process = Process::open(helper.pid()).expect("it runs");
    let truth: Vec<(Block, bool)> = answer["blocks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|block| {
            let number = |index: usize| block[index].as_u64().expect("a number");
            (Block { start: number(0), size: number(1) }, number(2) == 1)
        })
        .collect();
    let blocks: Vec<Block> = truth.iter().map(|(block, _)| *block).collect();
    let found = search_all(&process, &blocks);
    assert!(found.is_complete(), "{found:?}");
    let wrong: Vec<_> = truth
        .iter()
        .zip(&found.referenced)
        .enumerate()
        .filter(|(_, ((_, kept), referenced))| kept != *referenced)
        .map(|(index, ((block, kept), _))| (index, *block, *kept))
        .collect();
    let lost = truth.iter().filter(|(_, kept)| !kept).count();
    assert!(lost == 700 && truth.len() == 1610, "{lost} of {}", truth.len());
    println!("{} of {lost} lost blocks are hidden", wrong.len());
    // None that is in use is called lost; a number that looks like a pointer may hide one or two that are.
    assert!(wrong.iter().all(|(_, _, kept)| !kept) && wrong.len() <= 2, "{:?}", &wrong[..wrong.len().min(9)]);
}

#[test]
fn searching_makes_nothing_resident() {
    let (true, Some(program)) = (can_observe(), program()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    let first = address(&say(&mut helper, "map 3000"));
    say(&mut helper, &format!("dontneed {first} 2999"));
    let process = Process::open(helper.pid()).expect("it runs");
    let before = process.usage().expect("readable");
    let found = search_all(&process, &[Block { start: first, size: 8 }]);
    let after = process.usage().expect("readable");
    assert!(found.searched > 0 && found.searched < 4 << 20, "{found:?}");
    assert_eq!(before.minor_faults, after.minor_faults);
    assert_eq!(before.anonymous_memory_bytes, after.anonymous_memory_bytes);
}

/// Prints; run by hand: how fast a gigabyte is searched, and how much slower a process maps memory meanwhile.
#[test]
// Measures.
fn what_a_search_costs() {
    if std::env::var_os("PROFILER_LONG_TESTS").is_none() {
        println!("left out: set PROFILER_LONG_TESTS to run it");
        return;
    }
    let (true, Some(program)) = (can_observe(), program()) else { return };
    let mut helper = Helper::start::<&str>(&program, &[]);
    say(&mut helper, "blocks");
    let first = address(&say(&mut helper, "map 131072"));
    let process = Process::open(helper.pid()).expect("it runs");
    let blocks: Vec<Block> = (0..65_536).map(|n| Block { start: first + 8000 * n, size: 100 }).collect();
    let begin = Instant::now();
    let found = search_all(&process, &blocks);
    println!("{} MB in {:?}", found.searched >> 20, begin.elapsed());
    for searching in [false, true, false, true] {
        helper.tell("maps 2000");
        let begin = Instant::now();
        let mut bytes = 0;
        while searching && begin.elapsed() < Duration::from_millis(1900) {
            bytes += search_all(&process, &blocks).searched;
        }
        let answer = helper.answer();
        let each = answer["ns"].as_f64().expect("a number") / answer["done"].as_f64().expect("a number");
        println!("mmap and munmap: {each:.0} ns, {} MB searched meanwhile", bytes >> 20);
    }
}
