//! One question to one process, answered at once: gops' verbs, of any process, without its agent.

mod build;
mod memstats;
mod profiles;
mod stack;

use std::{io::Write as _, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use serde::Serialize;

pub use build::{modules, version};
pub use memstats::{memstats, stats};
pub use profiles::{GoroutineForm, HeapForm, goroutine_profile, heap_profile};
pub use stack::{Wish, stack};

use crate::{
    binary::go::GoImage,
    describe::{Described, Describer},
    runtime::{
        go::{
            GoError,
            attach::{FileId, GoRuntime},
            heap_profile::{self, BucketCache, HeapProfile},
        },
        reader,
    },
    target::{Process, ProcessMemory},
};

/// A target's memory may hang while it is read (`runtime::reader`): then the answer is that there is none.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Go program whose runtime can be read.
pub struct GoProgram {
    /// The process.
    pub process: Arc<Process>,
    /// What its file says.
    pub image: Arc<GoImage>,
    /// Its runtime.
    pub runtime: GoRuntime<ProcessMemory>,
    buckets: BucketCache,
}

impl GoProgram {
    /// Opens the runtime of a process whose program was looked at already.
    ///
    /// # Errors
    ///
    /// If its runtime can't be read: in words, and why.
    pub fn open(process: Arc<Process>, image: Arc<GoImage>, file: FileId) -> Result<Self, GoError> {
        let places = image.runtime.clone().map_err(GoError::Unavailable)?;
        let maps = process.maps_text().map_err(|error| GoError::Memory(error.to_string()))?;
        let memory = ProcessMemory::from(Arc::clone(&process));
        let runtime = GoRuntime::attach(&Arc::new(places), memory, &maps, file)?;
        Ok(Self { process, image, runtime, buckets: BucketCache::default() })
    }

    /// The profile of the heap that the runtime keeps.
    ///
    /// # Errors
    ///
    /// If there is none, or it can't be read.
    pub fn heap_profile(&mut self) -> Result<HeapProfile, GoError> {
        let Self { runtime, buckets, .. } = self;
        heap_profile::read(runtime.memory(), runtime.places(), runtime.bias().live(0), buckets)
    }
}

/// Looks at a process's program.
fn describe(pid: u32) -> anyhow::Result<(Arc<Process>, Described)> {
    let process = Arc::new(Process::open(pid)?);
    let described = Describer::default().look(&process)?;
    Ok((process, described))
}

/// A process that must be a Go program.
fn go_program(pid: u32) -> anyhow::Result<GoProgram> {
    let (process, described) = describe(pid)?;
    let Some(image) = described.go else {
        if let Some(trouble) = described.program.trouble() {
            bail!("process {pid}: its program can't be looked at: {trouble}");
        }
        bail!(
            "process {pid} ({}) is no Go program (it is {}): this is told of Go programs only",
            process.comm()?,
            described.runtime
        );
    };
    GoProgram::open(process, image, described.file).map_err(|why| anyhow!("process {pid}: {why}"))
}

/// Asks on a thread that may be lost.
fn ask<T: Send + 'static>(
    pid: u32,
    question: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    reader::once(PATIENCE, question)
        .map_err(|why| anyhow!("process {pid}: its memory can't be read: {why}"))?
}

/// Prints; whoever closes the pipe early has read enough.
fn print(text: &str) -> ExitCode {
    let _written = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn print_json(document: &impl Serialize) -> anyhow::Result<ExitCode> {
    Ok(print(&format!("{}\n", serde_json::to_string_pretty(document)?)))
}
