use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Memory as a test wants it: pages by address.
#[derive(Clone, Default)]
struct Fake {
    pages: BTreeMap<u64, Vec<u64>>,
    unreadable: Vec<u64>,
    swapped: u64,
    gone: bool,
}

impl Fake {
    fn write(&mut self, at: u64, value: u64) {
        let page = self.pages.entry(at & !(PAGE - 1)).or_insert_with(|| vec![0; 512]);
        page[(at % PAGE / 8) as usize] = value;
    }

    fn words(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pages.iter().flat_map(|(page, words)| {
            words.iter().enumerate().map(move |(index, word)| (page + 8 * index as u64, *word))
        })
    }

    fn range(&self) -> SearchRange {
        SearchRange { addresses: 0..1 << 47, shared: false }
    }
}

impl Memory for Fake {
    fn pages(&mut self, range: &SearchRange) -> io::Result<Option<Pages>> {
        if self.gone {
            return Ok(None);
        }
        let inside = self.pages.range(range.addresses.clone());
        let resident = inside.map(|(page, _)| *page..page + PAGE).collect();
        Ok(Some(Pages { resident, swapped: self.swapped, next: range.addresses.end }))
    }

    fn read(&mut self, address: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.unreadable.contains(&address) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let page = self.pages.get(&address).ok_or(io::ErrorKind::NotFound)?;
        for (bytes, word) in into.chunks_exact_mut(8).zip(page) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(into.len().min(PAGE as usize))
    }
}

fn found(blocks: &[Block], memory: &mut Fake, roots: &[u64]) -> References {
    let range = memory.range();
    search(blocks, &[range], roots, memory, || true).unwrap()
}

const HEAP: u64 = 0x5555_0000_0000;

#[test]
fn a_word_points_to_a_block_if_it_lies_in_it_whatever_its_tags() {
    let blocks: Vec<Block> = (0..12).map(|n| Block { start: HEAP + 256 * n, size: 64 }).collect();
    let mut memory = Fake::default();
    let pointers = [
        (0, HEAP, true),
        (1, HEAP + 256 + 40, true),
        (2, HEAP + 512 + 63, true),
        (3, HEAP + 768 + 5, true),
        (4, (HEAP + 1024) | 0xabcd << 48, true),
        (5, HEAP + 5 * 256 + 64, false),
        (6, HEAP + 6 * 256 - 1, false),
        (7, (HEAP + 7 * 256) ^ HEAP, false),
        (8, (HEAP + 8 * 256).rotate_left(17), false),
    ];
    for (index, value, _) in pointers {
        memory.write(0x7000_0000 + 8 * index, value);
    }
    let answer = found(&blocks, &mut memory, &[HEAP + 9 * 256]);
    for (index, value, expected) in pointers {
        assert_eq!(answer.referenced[index as usize], expected, "{value:#x}");
    }
    assert_eq!(answer.referenced[9..], [true, false, false], "a root, and nothing");
    assert!(answer.is_complete() && answer.searched == PAGE);
}

#[test]
fn blocks_that_only_themselves_or_lost_ones_point_to_are_lost() {
    let at = |n: u64| HEAP + 128 * n;
    let blocks: Vec<Block> = (0..8).map(|n| Block { start: at(n), size: 128 }).collect();
    let mut memory = Fake::default();
    memory.write(at(0) + 8, at(0)); // itself
    memory.write(at(1) + 8, at(2)); // a ring of two
    memory.write(at(2) + 8, at(1));
    memory.write(at(3) + 8, at(4)); // a chain that something holds
    memory.write(at(4) + 8, at(5) + 100);
    memory.write(at(6), at(7)); // a chain that nothing holds
    memory.write(0x7000_0000, at(3));
    let answer = found(&blocks, &mut memory, &[]);
    assert_eq!(answer.referenced, [false, false, false, true, true, true, false, false]);
}

#[test]
fn glibcs_pointer_to_a_free_chunk_behind_a_block_is_none_to_the_block() {
    // Sizes of which glibc makes chunks of 32, 32, 112, 112 and 128 bytes: malloc_usable_size + 8.
    let sizes = [(1, 32), (24, 32), (100, 112), (104, 112), (105, 128)];
    let at = |n: usize| HEAP + 4096 * n as u64;
    let blocks: Vec<Block> =
        sizes.iter().enumerate().map(|(n, (size, _))| Block { start: at(n), size: *size }).collect();
    let mut memory = Fake::default();
    for (n, (_, chunk)) in sizes.iter().enumerate() {
        // A chunk begins 16 bytes before its block.
        memory.write(0x7000_0000 + 8 * n as u64, at(n) + chunk - 16);
    }
    assert_eq!(found(&blocks, &mut memory, &[]).referenced, [false; 5]);
    memory.write(0x7000_1000, at(3) + 95);
    memory.write(0x7000_1008, at(4) + 104);
    assert_eq!(found(&blocks, &mut memory, &[]).referenced, [false, false, false, true, true]);
}

#[test]
fn the_answer_is_in_the_order_of_the_question() {
    let blocks = [3, 1, 2].map(|n| Block { start: HEAP + 4096 * n, size: 0 });
    let mut memory = Fake::default();
    memory.write(0x1000, HEAP + 4096);
    assert_eq!(found(&blocks, &mut memory, &[]).referenced, [false, true, false]);
}

#[test]
fn what_could_not_be_searched_is_told() {
    let blocks = [Block { start: HEAP, size: 8 }];
    let mut memory = Fake { unreadable: vec![0x2000], swapped: 3, ..Fake::default() };
    memory.write(0x1000, 1);
    memory.write(0x2000, HEAP);
    memory.write(0x3000, 1);
    let answer = found(&blocks, &mut memory, &[]);
    assert_eq!((answer.unreadable, answer.swapped_pages, answer.searched), (PAGE, 3, 2 * PAGE));
    assert!(!answer.is_complete());
    let range = memory.range();
    let mut asked = 0;
    let ended = search(&blocks, std::slice::from_ref(&range), &[], &mut memory, || {
        asked += 1;
        asked < 2
    });
    assert!(ended.is_ok_and(|answer| answer.ended_early && answer.searched == PAGE));
    memory.gone = true;
    let gone = search(&blocks, &[range], &[], &mut memory, || true);
    assert!(matches!(gone, Err(ReferencesError::Gone)));
}

#[test]
fn odd_questions_are_no_trouble() {
    let mut memory = Fake::default();
    memory.write(0x1000, u64::MAX);
    memory.write(0x1008, 0);
    for (start, size) in [(0, 0), (u64::MAX, u64::MAX), (0, u64::MAX), (HEAP, u64::MAX), (1 << 63, 8)] {
        let blocks = vec![Block { start, size }; 100];
        assert_eq!(found(&blocks, &mut memory, &[]).referenced.len(), 100);
    }
    assert!(found(&[], &mut memory, &[1, 2]).referenced.is_empty());
    let blocks = vec![Block { start: 0, size: 0 }; MOST_BLOCKS + 1];
    assert!(matches!(search(&blocks, &[], &[], &mut memory, || true), Err(ReferencesError::TooMany(_))));
}

/// The same question, answered without any haste.
fn plainly(blocks: &[Block], memory: &Fake) -> Vec<bool> {
    let holder = |address: u64| {
        blocks.iter().position(|block| block.start <= address && address - block.start < block.size.max(1))
    };
    let mut referenced = vec![false; blocks.len()];
    loop {
        let before = referenced.clone();
        for (place, word) in memory.words() {
            let word = word & 0xffff_ffff_ffff;
            // See `glibcs_pointer_to_a_free_chunk_behind_a_block_is_none_to_the_block`.
            let behind = |block: &Block| block.start + (block.size + 23).max(32) / 16 * 16 - 16;
            if let Some(to) = holder(word).filter(|to| word != behind(&blocks[*to]))
                && holder(place).is_none_or(|from| from != to && referenced[from])
            {
                referenced[to] = true;
            }
        }
        if before == referenced {
            return referenced;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn the_fast_search_finds_what_the_plain_one_finds(
        sizes in prop::collection::vec((0_u64..3000, 0_u64..20_000, prop::bool::weighted(0.05)), 1..60),
        pointers in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..3100, 0_u64..400_000, any::<u16>()), 0..200),
    ) {
        let mut at = HEAP;
        let blocks: Vec<Block> = sizes.iter().map(|(size, gap, large)| {
            at += gap & !15;
            let size = if *large { size * 100_000 } else { *size };
            let block = Block { start: at, size };
            at += (size.max(1) + 15) & !15;
            block
        }).collect();
        let mut memory = Fake::default();
        for (index, inside, place, tag) in &pointers {
            let target = index.get(&blocks);
            memory.write((HEAP + place) & !7, (target.start + inside) | u64::from(*tag) << 48);
        }
        let truth = plainly(&blocks, &memory);
        prop_assert_eq!(found(&blocks, &mut memory, &[]).referenced, truth);
    }
}
