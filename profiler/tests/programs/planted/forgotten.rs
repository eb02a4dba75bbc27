//! forgotten [rate=NUMBER]: two leaks of Rust, half of the bytes per second each: a vector that is forgotten, and a box
//! that is leaked.

use std::{
    ffi::{c_int, c_short, c_ulong, c_void},
    hint::black_box,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

extern "C" {
    fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
    fn read(fd: c_int, buffer: *mut c_void, size: usize) -> isize;
    fn write(fd: c_int, buffer: *const c_void, size: usize) -> isize;
    fn alarm(seconds: u32) -> u32;
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
}

const CLOCK_MONOTONIC: c_int = 1;
const POLLIN: c_short = 1;

#[derive(Default)]
struct Site {
    objects: u64,
    bytes: u64,
}

impl Site {
    fn lost(&mut self, bytes: usize) {
        self.objects += 1;
        self.bytes += bytes as u64;
    }
}

#[inline(never)]
fn forget_vector(site: &mut Site, length: usize) {
    let numbers: Vec<u64> = vec![0x5a5a_5a5a; black_box(length)];
    site.lost(length * size_of::<u64>());
    std::mem::forget(black_box(numbers));
}

#[inline(never)]
fn leak_box(site: &mut Site) {
    let words = Box::new([0x5a5a_5a5a_u64; 80]);
    site.lost(size_of_val(&*words));
    black_box(Box::leak(words));
}

#[inline(never)]
fn forgotten_step(vectors: &mut Site, boxes: &mut Site, due: f64, random: &mut u64) {
    while (vectors.bytes as f64) < due {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        forget_vector(vectors, (*random % 240 + 10) as usize);
    }
    while (boxes.bytes as f64) < due {
        leak_box(boxes);
    }
}

fn say(text: &str) {
    let line = format!("{text}\n");
    // SAFETY: the bytes are there.
    unsafe { write(1, line.as_ptr().cast(), line.len()) };
}

/// Byte by byte, so that nothing is kept back. `None` at the end.
fn hear() -> Option<String> {
    let mut line = String::new();
    loop {
        let mut byte = 0_u8;
        // SAFETY: room for one byte.
        if unsafe { read(0, (&raw mut byte).cast(), 1) } != 1 {
            return None;
        }
        if byte == b'\n' {
            return Some(line);
        }
        line.push(byte as char);
    }
}

fn tell_truth(vectors: &Site, boxes: &Site, working: bool) {
    let site = |site: &Site| {
        let Site { objects, bytes } = site;
        format!(
            "{{\"allocated_objects\":{objects},\"allocated_bytes\":{bytes},\"freed_objects\":0,\
             \"freed_bytes\":0,\"lost_objects\":{objects},\"lost_bytes\":{bytes}}}"
        )
    };
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the kernel fills in what it is given.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &mut time) };
    let realtime = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    say(&format!(
        "{{\"monotonic_ns\":{},\"realtime_ns\":{realtime},\"working\":{working},\
         \"sites\":{{\"forget_vector\":{},\"leak_box\":{}}}}}",
        time.seconds * 1_000_000_000 + time.nanoseconds,
        site(vectors),
        site(boxes)
    ));
}

fn argument(name: &str, otherwise: f64) -> f64 {
    let value = std::env::args().find_map(|text| text.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    value.unwrap_or(otherwise)
}

fn main() {
    let (mut vectors, mut boxes) = (Site::default(), Site::default());
    let rate = argument("rate", 1e6) / 2.0;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id()) << 20;
    let mut worked = 0.0;
    let mut last: Option<Instant> = None;
    // SAFETY: ends this process after a while.
    unsafe { alarm(argument("lifetime", 900.0) as u32) };
    say("ready");
    loop {
        let mut input = PollFd { fd: 0, events: POLLIN, revents: 0 };
        // SAFETY: one entry.
        if unsafe { poll(&mut input, 1, if last.is_some() { 5 } else { -1 }) } > 0 {
            match hear().as_deref() {
                None => return,
                Some("truth") => tell_truth(&vectors, &boxes, last.is_some()),
                Some("start") => last = Some(Instant::now()),
                Some(_) => last = None,
            }
        }
        if let Some(before) = &mut last {
            let now = Instant::now();
            worked += (now - *before).as_secs_f64();
            *before = now;
            forgotten_step(&mut vectors, &mut boxes, rate * worked, &mut random);
        }
    }
}
