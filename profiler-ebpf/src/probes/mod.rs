//! The programs, one file per family.

mod alloc;
mod empty;
mod loaded;
mod process;
mod mapping;
mod sched;
mod trial;
