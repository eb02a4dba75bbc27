//! The programs, one file per family; `sample` is how all of them tell samples.

mod alloc;
mod call;
mod chosen;
mod empty;
mod growth;
mod loaded;
mod mapping;
mod oom;
mod process;
mod sample;
mod sched;
mod stops;
mod trial;
