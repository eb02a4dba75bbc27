//! The programs, one file per family.

mod alloc;
mod empty;
mod loaded;
mod mapping;
mod process;
mod sched;
mod trial;
