//! A program that knows the truth about itself: it allocates, leaks, waits for a lock and burns CPU time, and counts
//! all of it. `cargo xtask demo` compares its numbers with the profiler's.
//!
//! `demo_workload [LIFETIME_SECONDS]` writes `ready PID` and is idle. After the line `start` on standard input it
//! works, until the line `stop`, the end of its lifetime, or the end of standard input. Then it writes one line of JSON
//! and is idle again until standard input ends.
//!
//! The numbers can be exact because nothing else allocates from `ready` to the end: the counted calls go straight to
//! the C library, the threads exist from before `ready` until the process ends (a thread's start and end allocate and
//! free by themselves), and what is written goes through a fixed buffer and `write(2)`. While idle, every thread sleeps
//! in `read`, `poll` or `pause`, so that futex time is lock time and nothing else.

use std::ffi::c_void;
use std::hint::black_box;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// Allocations come in ticks, 64 a second.
const TICK: Duration = Duration::from_micros(15_625);
/// Leaked in each tick: 16 blocks of 64 bytes are 64 KiB a second.
const LEAKS: u64 = 16;
const LEAK_SIZE: usize = 64;
/// Allocated, in part resized, and freed in each tick; one of them is large.
const MALLOCS: usize = 200;
const CALLOCS: usize = 50;
const RESIZE_EVERY: usize = 5;
const LARGE: usize = 256 * 1024;

/// In each round one thread holds the lock this long while the other waits for it, ...
const HELD: Duration = Duration::from_millis(60);
/// ... and both leave it alone this long.
const APART: Duration = Duration::from_millis(40);

/// The busy thread computes for this much CPU time, then sleeps as long.
const BUSY: Duration = Duration::from_millis(50);

/// How long to live without an argument.
const LIFETIME_SECONDS: u32 = 60;
/// The signal that ends a process which hangs comes this much after its lifetime.
const GRACE_SECONDS: u32 = 10;

static STOP: AtomicBool = AtomicBool::new(false);
static LOCK: Mutex<()> = Mutex::new(());
static LOCK_IS_HELD: AtomicBool = AtomicBool::new(false);
static TOTAL: Mutex<Counts> = Mutex::new(Counts::NONE);

/// What the workload did.
#[derive(Clone, Copy)]
struct Counts {
    mallocs: u64,
    callocs: u64,
    reallocs: u64,
    frees: u64,
    bytes: u64,
    leaked_objects: u64,
    leaked_bytes: u64,
    lock_wait: Duration,
    cpu: Duration,
}

impl Counts {
    const NONE: Self = Self {
        mallocs: 0,
        callocs: 0,
        reallocs: 0,
        frees: 0,
        bytes: 0,
        leaked_objects: 0,
        leaked_bytes: 0,
        lock_wait: Duration::ZERO,
        cpu: Duration::ZERO,
    };

    fn add(&mut self, other: &Self) {
        self.mallocs += other.mallocs;
        self.callocs += other.callocs;
        self.reallocs += other.reallocs;
        self.frees += other.frees;
        self.bytes += other.bytes;
        self.leaked_objects += other.leaked_objects;
        self.leaked_bytes += other.leaked_bytes;
        self.lock_wait += other.lock_wait;
        self.cpu += other.cpu;
    }

    fn malloc(&mut self, size: usize) -> *mut c_void {
        self.mallocs += 1;
        self.bytes += size as u64;
        // SAFETY: malloc takes any size.
        touched(unsafe { libc::malloc(black_box(size)) })
    }

    fn calloc(&mut self, count: usize, size: usize) -> *mut c_void {
        self.callocs += 1;
        self.bytes += (count * size) as u64;
        // SAFETY: calloc takes any size.
        touched(unsafe { libc::calloc(black_box(count), black_box(size)) })
    }

    fn realloc(&mut self, block: *mut c_void, size: usize) -> *mut c_void {
        self.reallocs += 1;
        self.bytes += size as u64;
        // SAFETY: the block is from one of these functions, and the caller goes on with the result only.
        touched(unsafe { libc::realloc(block, black_box(size)) })
    }

    fn free(&mut self, block: *mut c_void) {
        self.frees += 1;
        // SAFETY: the block is from one of these functions and isn't used after this.
        unsafe { libc::free(block) }
    }
}

fn main() -> std::io::Result<()> {
    let lifetime = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(LIFETIME_SECONDS);
    // SAFETY: nothing but a timer; nobody handles its signal, so it ends the process.
    unsafe { libc::alarm(lifetime + GRACE_SECONDS) };
    let end = Instant::now() + Duration::from_secs(u64::from(lifetime));

    let workers = [allocate as fn(&mut Counts), hold_the_lock, wait_for_the_lock, compute];
    let (start, mut start_all) = std::io::pipe()?;
    let (mut done, tell_done) = std::io::pipe()?;
    let mut one_per_worker = [0; 4];
    for work in workers {
        let (start, tell_done) = (start.try_clone()?, tell_done.try_clone()?);
        spawn(move || worker(work, start, tell_done));
    }
    done.read_exact(&mut one_per_worker)?;
    say(format_args!("ready {}", std::process::id()));

    if wait_for(b"start", end) {
        start_all.write_all(&one_per_worker)?;
        wait_for(b"stop", end);
        STOP.store(true, SeqCst);
        done.read_exact(&mut one_per_worker)?;
        report();
        wait_for(b"", end);
    }
    // SAFETY: ends the process here and now; an ordinary end would free what the threads still use.
    unsafe { libc::_exit(0) }
}

/// Writes the one line of JSON.
fn report() {
    let Counts { mallocs, callocs, reallocs, frees, bytes, leaked_objects, leaked_bytes, lock_wait, cpu } =
        *TOTAL.lock().unwrap_or_else(PoisonError::into_inner);
    let (lock_wait, cpu) = (lock_wait.as_secs_f64(), cpu.as_secs_f64());
    say(format_args!(
        "{{\"mallocs\":{mallocs},\"callocs\":{callocs},\"reallocs\":{reallocs},\"frees\":{frees},\"bytes\":{bytes},\
         \"leaked_objects\":{leaked_objects},\"leaked_bytes\":{leaked_bytes},\
         \"lock_wait_seconds\":{lock_wait:.6},\"cpu_seconds\":{cpu:.6}}}"
    ));
}

/// A thread's whole life: works once between start and stop, and never ends.
fn worker(work: fn(&mut Counts), mut start: PipeReader, mut tell_done: PipeWriter) {
    // An allocator's own preparations for a new thread belong before `ready`.
    let mut unused = Counts::NONE;
    let block = unused.malloc(LEAK_SIZE);
    unused.free(block);
    let mut byte = [0];
    if tell_done.write_all(&byte).and_then(|()| start.read_exact(&mut byte)).is_ok() {
        let mut counts = Counts::NONE;
        let begin = thread_cpu_time();
        work(&mut counts);
        counts.cpu = thread_cpu_time() - begin;
        TOTAL.lock().unwrap_or_else(PoisonError::into_inner).add(&counts);
        // The one who listens is the main thread; without it there is no process.
        let _ = tell_done.write_all(&byte);
    }
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

/// Calls every function of the allocator a known number of times, and never frees a known part.
fn allocate(counts: &mut Counts) {
    let mut blocks = [std::ptr::null_mut(); MALLOCS + CALLOCS];
    let mut next = Instant::now();
    while !STOP.load(SeqCst) {
        let (with_malloc, with_calloc) = blocks.split_at_mut(MALLOCS);
        for (index, block) in with_malloc.iter_mut().enumerate() {
            *block = counts.malloc(if index == 0 { LARGE } else { 16 + index * 37 % 1000 });
        }
        for (index, block) in with_calloc.iter_mut().enumerate() {
            *block = counts.calloc(1 + index % 7, 48);
        }
        for (index, block) in blocks.iter_mut().step_by(RESIZE_EVERY).enumerate() {
            *block = counts.realloc(*block, 32 + index * 97 % 5000);
        }
        for _ in 0..LEAKS {
            counts.malloc(LEAK_SIZE);
            counts.leaked_objects += 1;
            counts.leaked_bytes += LEAK_SIZE as u64;
        }
        for block in &blocks {
            counts.free(*block);
        }
        next += TICK;
        sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Holds the lock in rounds, asleep.
fn hold_the_lock(_: &mut Counts) {
    while !STOP.load(SeqCst) {
        let held = LOCK.lock();
        LOCK_IS_HELD.store(true, SeqCst);
        sleep(HELD);
        LOCK_IS_HELD.store(false, SeqCst);
        drop(held);
        sleep(APART);
    }
}

/// Asks for the lock as soon as it is held, so that it has to wait.
fn wait_for_the_lock(counts: &mut Counts) {
    while !STOP.load(SeqCst) {
        if LOCK_IS_HELD.load(SeqCst) {
            let begin = Instant::now();
            drop(LOCK.lock());
            counts.lock_wait += begin.elapsed();
        }
        sleep(Duration::from_millis(1));
    }
}

/// Is on a CPU for half of the time.
fn compute(_: &mut Counts) {
    while !STOP.load(SeqCst) {
        let end = thread_cpu_time() + BUSY;
        while thread_cpu_time() < end {
            for number in 0..20_000_u64 {
                black_box(number.wrapping_mul(number));
            }
        }
        sleep(BUSY);
    }
}

/// The CPU time of the calling thread, by the kernel's account.
fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, and can't fail for the calling thread's own clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A block is there and gets used, which also keeps the compiler from removing the call.
fn touched(block: *mut c_void) -> *mut c_void {
    let block = black_box(block);
    if block.is_null() {
        // SAFETY: ends the process; without memory there is no truth to tell.
        unsafe { libc::_exit(1) }
    }
    // SAFETY: the block is at least one byte long.
    unsafe { block.cast::<u8>().write_volatile(1) };
    block
}

/// Waits for a line on standard input; an empty one stands for its end. False if the input or the lifetime ends first.
fn wait_for(line: &[u8], end: Instant) -> bool {
    let mut read = [0_u8; 64];
    let mut length = 0;
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_millis();
        let mut input = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which lives until poll returns.
        let ready = unsafe { libc::poll(&mut input, 1, i32::try_from(left).unwrap_or(i32::MAX)) };
        let mut byte = 0_u8;
        // SAFETY: at most one byte is written to one byte.
        let got = if ready > 0 { unsafe { libc::read(input.fd, (&raw mut byte).cast(), 1) } } else { 0 };
        if got != 1 {
            return false;
        }
        if byte != b'\n' {
            read[length % read.len()] = byte;
            length += 1;
        } else if !line.is_empty() && read.get(..length) == Some(line) {
            return true;
        } else {
            length = 0;
        }
    }
}

/// Writes a line to standard output without allocating.
fn say(text: std::fmt::Arguments<'_>) {
    let mut buffer = [0_u8; 512];
    let mut rest = &mut buffer[..];
    // All lines are shorter than the buffer.
    let _ = writeln!(rest, "{text}");
    let length = 512 - rest.len();
    // SAFETY: `length` bytes of the buffer are written. Who doesn't listen misses the line.
    unsafe { libc::write(libc::STDOUT_FILENO, buffer.as_ptr().cast(), length) };
}
