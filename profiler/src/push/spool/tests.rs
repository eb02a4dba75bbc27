//! A spool on a simulated disk that crashes, and on a real one.

mod crashes;
mod every_crash;
mod real;
mod simulated;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment by its second.
fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

/// So many lines that no other batch has.
fn lines(number: usize, count: u32) -> String {
    (0..count)
        .map(|line| format!("m,batch={number} line={line}i,x={}i 1\n", number.wrapping_mul(2_654_435_761)))
        .collect()
}
