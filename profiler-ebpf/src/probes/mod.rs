//! The programs, one file per family.

mod alloc;
mod empty;
mod mapping;
mod sched;
