//! What the kernel side and the user side agree on.
//!
//! One file per probe family holds the records that cross the boundary; [`outcome`] lists everything that can be
//! lost or go wrong on the way. Every record is `repr(C)` and its size is pinned by a const assertion, so that a
//! change on one side only doesn't compile. Where a record lives, who writes it and who reads it is told in
//! `profiler-ebpf/src/maps.rs`.

#![no_std]

pub mod alloc;
pub mod mapping;
pub mod outcome;
pub mod process;
pub mod sample;
pub mod sched;
pub mod stops;

/// Marks a record that may be copied to and from a BPF map byte by byte.
///
/// # Safety
///
/// The type is `repr(C)`, has no padding, no pointers, and every bit pattern is a valid value of it.
pub unsafe trait Record: Copy + 'static {}
