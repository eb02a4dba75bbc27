//! The Rust program of the matrix: strings, vectors that grow, maps, aligned buffers, refused requests, threads that end.
//! Its global allocator counts, and hands on to the one that it was built with.
//!
//! It works in parts; each begins with a line on standard input and ends with the counts up to there.

use std::alloc::{GlobalAlloc, Layout};
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Barrier, Mutex};

#[cfg(feature = "jemalloc")]
use tikv_jemallocator::Jemalloc as Inner;

#[cfg(feature = "mimalloc")]
use mimalloc::MiMalloc as Inner;

#[cfg(not(any(feature = "jemalloc", feature = "mimalloc")))]
use std::alloc::System as Inner;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static GLOBAL: Counting = Counting;

// SAFETY: everything is handed on to the inner allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(Inner.alloc(layout), 0, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(Inner.alloc_zeroed(layout), 0, layout.size())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        FREES.fetch_add(1, SeqCst);
        Inner.dealloc(block, layout)
    }

    // One allocation and one free, whether the block is resized or another takes its place.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(Inner.realloc(block, layout, size), 1, size)
    }
}

/// Counts a request that was granted.
fn count(block: *mut u8, frees: u64, bytes: usize) -> *mut u8 {
    if !block.is_null() {
        ALLOCATIONS.fetch_add(1, SeqCst);
        FREES.fetch_add(frees, SeqCst);
        BYTES.fetch_add(bytes as u64, SeqCst);
    }
    block
}

#[repr(align(256))]
struct Wide(#[allow(dead_code)] [u8; 512]);

fn collections(rounds: usize) {
    let mut texts: HashMap<String, Vec<u64>> = HashMap::new();
    let mut ordered = BTreeMap::new();
    for round in 0..rounds {
        let key = format!("a key that is long enough {}", round % 300);
        let list = texts.entry(key.clone()).or_default();
        list.extend((0..round as u64 % 50).rev());
        ordered.insert(key, vec![0_u8; round % 5000]);
        if round % 100 == 0 {
            texts.values_mut().for_each(Vec::shrink_to_fit);
            ordered.clear();
        }
        let mut growing = String::new();
        (0..round % 60).for_each(|_| growing.push_str("twenty characters ..."));
        black_box(growing);
    }
    // Large enough to be mapped one by one, and to grow by being moved.
    let mut large = Vec::new();
    for round in 0..40_usize {
        large.resize(round * 200_000, round as u8);
    }
    black_box(large);
}

fn aligned() {
    for round in 0..500_usize {
        black_box(Box::new(Wide([1; 512])));
        let mut growing = Vec::new();
        (0..round % 20).for_each(|_| growing.push(Wide([2; 512])));
        black_box(growing);
    }
    for power in 0..14 {
        for size in [1, 24, 100, 5000, 300_000] {
            let layout = Layout::from_size_align(size, 1 << power).unwrap();
            // SAFETY: the size isn't zero, and each block is given back with the layout it has then.
            unsafe {
                let block = black_box(std::alloc::alloc(layout));
                let block = black_box(std::alloc::realloc(block, layout, size * 3));
                std::alloc::dealloc(block, Layout::from_size_align(size * 3, 1 << power).unwrap());
                std::alloc::dealloc(black_box(std::alloc::alloc_zeroed(layout)), layout);
            }
        }
    }
}

/// The largest request that Rust allows is one that nobody grants; the block that was to grow stays.
fn refused() {
    for _ in 0..20 {
        let mut bytes = vec![1_u8; 100];
        let most = isize::MAX as usize;
        assert!(bytes.try_reserve_exact(most - 100).is_err());
        let mut none: Vec<u8> = Vec::new();
        assert!(none.try_reserve_exact(most).is_err());
        black_box((bytes, none));
    }
}

/// As the C library declares it (pthread.h); the attributes have room for those of any library.
extern "C" {
    fn pthread_attr_init(attributes: *mut [u64; 32]) -> i32;
    fn pthread_attr_setstacksize(attributes: *mut [u64; 32], size: usize) -> i32;
    fn pthread_create(
        id: *mut usize,
        attributes: *const [u64; 32],
        work: extern "C" fn(usize) -> usize,
        argument: usize,
    ) -> i32;
    fn pthread_join(id: usize, result: *mut usize) -> i32;
}

const THREADS: usize = 4;
static STEP: Barrier = Barrier::new(THREADS + 1);
static SHARED: [Mutex<Option<String>>; 256] = [const { Mutex::new(None) }; 256];

/// What one thread makes another frees.
extern "C" fn thread(me: usize) -> usize {
    // What a thread needs once is there after this.
    collections(10);
    STEP.wait();
    STEP.wait();
    for round in 0..5000 {
        let text = format!("made by {me} in round {round}");
        let other = SHARED[round * 7 % 256].lock().unwrap().replace(text);
        drop(other);
    }
    // A cache is full of these when its thread ends.
    black_box((0..64_u64).map(Box::new).collect::<Vec<_>>());
    0
}

/// Threads that live before the last part and end within it, with blocks in their caches. They are the C library's own:
/// those of std leave blocks to the C library, which frees them when they end.
struct Threads([usize; THREADS]);

impl Threads {
    fn start() -> Self {
        let mut ids = [0; THREADS];
        let mut attributes = [0; 32];
        // SAFETY: the pointers are to live values, and the threads get no pointer at all.
        unsafe {
            assert_eq!(pthread_attr_init(&mut attributes), 0);
            // Small enough for all stacks to stay in the C library's cache when their threads end.
            assert_eq!(pthread_attr_setstacksize(&mut attributes, 512 << 10), 0);
            for (me, id) in ids.iter_mut().enumerate() {
                assert_eq!(pthread_create(id, &attributes, thread, me), 0);
            }
        }
        STEP.wait();
        Self(ids)
    }

    fn work_and_end(self) {
        STEP.wait();
        for id in self.0 {
            // SAFETY: each is joined once.
            assert_eq!(unsafe { pthread_join(id, &mut 0) }, 0);
        }
    }
}

fn main() {
    let mut threads = Some(Threads::start());
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    collections(10);
    let mut line = [0_u8; 256];
    say(&mut output, &mut line, format_args!("ready"));
    [&ALLOCATIONS, &FREES, &BYTES].into_iter().for_each(|counter| counter.store(0, SeqCst));
    for part in ["collections", "aligned", "refused", "threads"] {
        hear(&mut input);
        match part {
            "collections" => collections(4000),
            "aligned" => aligned(),
            "refused" => refused(),
            _ => threads.take().unwrap().work_and_end(),
        }
        let (allocations, frees, bytes) = (ALLOCATIONS.load(SeqCst), FREES.load(SeqCst), BYTES.load(SeqCst));
        let more = part != "threads";
        let text = format_args!(
            "{{\"part\":\"{part}\",\"more\":{more},\"allocations\":{allocations},\"frees\":{frees},\"bytes\":{bytes}}}"
        );
        say(&mut output, &mut line, text);
    }
    hear(&mut input);
    std::process::exit(0);
}

/// Writes a line through a buffer that is there already.
fn say(output: &mut impl Write, line: &mut [u8; 256], text: std::fmt::Arguments<'_>) {
    let mut rest = &mut line[..];
    writeln!(rest, "{text}").unwrap();
    let length = 256 - rest.len();
    output.write_all(&line[..length]).and_then(|()| output.flush()).unwrap();
}

/// Waits for the end of a line, or of the input.
fn hear(input: &mut impl Read) {
    let mut byte = [0_u8];
    while matches!(input.read(&mut byte), Ok(1)) && byte[0] != b'\n' {}
}
