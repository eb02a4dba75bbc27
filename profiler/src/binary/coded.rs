//! How the contract's enums, which know nothing of serde, are written down: by their numbers.

use profiler_common::alloc::{AllocFunction, AllocOp, Register};
use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

const OPS: [AllocOp; 7] = [
    AllocOp::Allocate,
    AllocOp::AllocateArray,
    AllocOp::AllocateAligned,
    AllocOp::Free,
    AllocOp::Resize,
    AllocOp::ResizeArray,
    AllocOp::AllocateCopy,
];

fn find<T: Copy, E: serde::de::Error>(all: &[T], number: u8, of: impl Fn(T) -> u32) -> Result<T, E> {
    let found = all.iter().find(|one| of(**one) == u32::from(number));
    found.copied().ok_or_else(|| E::custom("no such number"))
}

/// An [`AllocFunction`].
pub mod function {
    use super::*;

    /// Its number.
    pub fn serialize<S: Serializer>(function: &AllocFunction, to: S) -> Result<S::Ok, S::Error> {
        (*function as u32 as u8).serialize(to)
    }

    /// The function with that number.
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<AllocFunction, D::Error> {
        find(&AllocFunction::ALL, u8::deserialize(from)?, |function| function as u32)
    }
}

/// An [`AllocOp`].
pub mod op {
    use super::*;

    /// Its number.
    pub fn serialize<S: Serializer>(op: &AllocOp, to: S) -> Result<S::Ok, S::Error> {
        (*op as u8).serialize(to)
    }

    /// The operation with that number.
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<AllocOp, D::Error> {
        find(&OPS, u8::deserialize(from)?, |op| u32::from(op as u8))
    }
}

/// Three [`Register`]s.
pub mod registers {
    use super::*;

    /// Their numbers.
    pub fn serialize<S: Serializer>(registers: &[Register; 3], to: S) -> Result<S::Ok, S::Error> {
        registers.map(|register| register as u8).serialize(to)
    }

    /// The registers with those numbers.
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<[Register; 3], D::Error> {
        let [first, second, third] = <[u8; 3]>::deserialize(from)?;
        let register = |number| find::<_, D::Error>(&Register::ALL, number, |register| register as u32);
        Ok([register(first)?, register(second)?, register(third)?])
    }
}
