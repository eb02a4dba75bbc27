//! The numbers that are compared: a helper's own, and profiler's of it. The one place that knows where they stand in
//! profiler's JSON.

use std::ops::Sub;

use serde_json::Value;

/// Calls and bytes of an allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub allocations: u64,
    pub frees: u64,
    pub bytes: u64,
    pub live: i64,
}

pub fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {value}"))
}

impl Totals {
    /// What a helper has counted.
    pub fn told(counts: &Value) -> Self {
        let (allocations, frees) = (number(counts, "allocations"), number(counts, "frees"));
        let live = allocations.cast_signed() - frees.cast_signed();
        Self { allocations, frees, bytes: number(counts, "bytes"), live }
    }

    /// What profiler has counted of a target, whatever it says of its completeness.
    pub fn counted(target: &Value) -> Self {
        Self {
            allocations: number(target, "allocations"),
            frees: number(target, "frees"),
            bytes: number(target, "allocated_bytes"),
            live: target["live_objects"].as_i64().expect("a number"),
        }
    }

    /// What is different in the other, named and signed; empty if nothing is.
    pub fn differences(&self, other: &Self) -> String {
        let signed = |one: u64| i128::from(one);
        let all = [
            ("allocations", signed(other.allocations) - signed(self.allocations)),
            ("frees", signed(other.frees) - signed(self.frees)),
            ("bytes", signed(other.bytes) - signed(self.bytes)),
            ("live objects", i128::from(other.live) - i128::from(self.live)),
        ];
        let different = all.iter().filter(|(_, by)| *by != 0);
        different.map(|(name, by)| format!("{name} {by:+}")).collect::<Vec<_>>().join(", ")
    }
}

impl Sub for Totals {
    type Output = Self;

    /// What came after an earlier reading.
    fn sub(self, earlier: Self) -> Self {
        Self {
            allocations: self.allocations - earlier.allocations,
            frees: self.frees - earlier.frees,
            bytes: self.bytes - earlier.bytes,
            live: self.live - earlier.live,
        }
    }
}

/// How well profiler says that it counts: `counting`, `partly`, or another word, and why.
pub fn state(target: &Value) -> (&str, &str) {
    let alloc = &target["alloc"];
    (alloc["state"].as_str().expect("a state"), alloc["reason"].as_str().unwrap_or_default())
}
