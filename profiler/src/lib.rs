//! profiler: where a running process's memory goes and why it stalls - without touching it.
//!
//! `docs/architecture.md` tells which room does what and who may call whom.

pub mod app;
pub mod ask;
pub mod binary;
pub mod build_info;
pub mod chooser;
pub mod cli;
pub mod config;
pub mod describe;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod history;
pub mod hunt;
pub mod keeping;
pub mod kernel;
pub mod launch;
pub mod leaks;
pub mod lookback;
pub mod own_file;
pub mod ps;
pub mod push;
pub mod runtime;
pub mod sampler;
pub mod screen;
pub mod server;
pub mod session;
pub mod snapshot;
pub mod stack;
pub mod stalls;
pub mod symbols;
pub mod target;
pub mod text;
pub mod version;
pub mod worker;

#[cfg(test)]
mod test_support;
