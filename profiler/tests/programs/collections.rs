//! A Rust program: strings, vectors that grow, maps, aligned buffers, threads. Its global allocator counts and hands on
//! to the system's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static GLOBAL: Counting = Counting;

// SAFETY: everything is handed on to the system's allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, 0, layout.size());
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, 0, layout.size());
        System.alloc_zeroed(layout)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, 1, 0);
        System.dealloc(block, layout)
    }

    // One allocation and one free, whether the system resizes the block or makes another.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, 1, size);
        System.realloc(block, layout, size)
    }
}

fn count(allocations: u64, frees: u64, bytes: usize) {
    ALLOCATIONS.fetch_add(allocations, SeqCst);
    FREES.fetch_add(frees, SeqCst);
    BYTES.fetch_add(bytes as u64, SeqCst);
}

#[repr(align(256))]
struct Wide([u8; 512]);

fn work(me: usize, rounds: usize) {
    let mut texts: HashMap<String, Vec<u64>> = HashMap::new();
    let mut ordered = BTreeMap::new();
    for round in 0..rounds {
        let key = format!("thread {me} key {}", round % 300);
        let list = texts.entry(key.clone()).or_default();
        list.extend((0..round as u64 % 50).rev());
        ordered.insert(key, vec![0_u8; round % 5000]);
        if round % 7 == 0 {
            black_box(Box::new(Wide([1; 512])));
            let mut wide = Vec::new();
            (0..round % 9).for_each(|_| wide.push(Wide([2; 512])));
            black_box(&wide);
        }
        if round % 100 == 0 {
            texts.values_mut().for_each(Vec::shrink_to_fit);
            ordered.clear();
        }
        let mut growing = String::new();
        (0..round % 60).for_each(|_| growing.push_str("twenty characters ..."));
        black_box(growing);
    }
}

fn main() {
    const THREADS: usize = 4;
    let begin = Arc::new(Barrier::new(THREADS + 1));
    let done = Arc::new(Barrier::new(THREADS + 1));
    for me in 0..THREADS {
        let (begin, done) = (Arc::clone(&begin), Arc::clone(&done));
        std::thread::spawn(move || {
            // What a thread needs once is there after this.
            work(me, 200);
            done.wait();
            begin.wait();
            work(me, 6000);
            done.wait();
            loop {
                std::thread::park();
            }
        });
    }
    done.wait();
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut line = [0_u8; 256];
    say(&mut output, &mut line, format_args!("ready"));
    hear(&mut input);
    [&ALLOCATIONS, &FREES, &BYTES].into_iter().for_each(|counter| counter.store(0, SeqCst));
    begin.wait();
    done.wait();
    let (allocations, frees, bytes) = (ALLOCATIONS.load(SeqCst), FREES.load(SeqCst), BYTES.load(SeqCst));
    let text = format_args!("{{\"allocations\":{allocations},\"frees\":{frees},\"bytes\":{bytes}}}");
    say(&mut output, &mut line, text);
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
