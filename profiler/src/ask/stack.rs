//! `profiler stack`: what every goroutine does, as a panic would print it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    process::ExitCode,
};

use serde::Serialize;
use serde_json::Value;

use super::{GoProgram, ask, go_program, print, print_json};
use crate::{
    export::goroutines::{self as export, Names},
    kernel::{now_ns, sample_threads},
    runtime::go::{
        GoError,
        goroutines::{self, Goroutines, Options, ThreadSample},
        names::{CodeAddress, Namer},
    },
    target::{Process, TargetError},
    worker::Limits,
};

/// How goroutines are shown.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Equal stacks once.
    pub group: bool,
    /// The runtime's own, too.
    pub system: bool,
    /// For programs.
    pub json: bool,
}

/// Prints the stacks of a Go program's goroutines.
///
/// # Errors
///
/// If the process is no Go program, or its goroutines can't be read.
pub fn stack(pid: u32, wish: Wish) -> anyhow::Result<ExitCode> {
    let (version, goroutines, names) = ask(pid, move || {
        let program = go_program(pid)?;
        let (goroutines, names) = named(&program)?;
        Ok((program.image.version.clone(), goroutines, names))
    })?;
    let shown = export::Wish { system: wish.system, now_ns: now_ns() };
    if wish.json {
        #[derive(Serialize)]
        struct Answer {
            pid: u32,
            version: String,
            #[serde(flatten)]
            goroutines: Value,
        }
        let goroutines = export::json(&goroutines, &names, &shown);
        return print_json(&Answer { pid, version, goroutines });
    }
    let show = if wish.group { export::grouped } else { export::text };
    Ok(print(&show(&goroutines, &names, &shown)))
}

/// Reads all goroutines, and names the places where they are.
///
/// # Errors
///
/// If they can't be read.
pub fn named(program: &GoProgram) -> Result<(Goroutines, Names), GoError> {
    let runtime = &program.runtime;
    let namer = RefCell::new(namer(program)?);
    let starts: RefCell<HashMap<u64, bool>> = RefCell::default();
    let is_runtime = |address: u64| {
        *starts.borrow_mut().entry(address).or_insert_with(|| {
            let frames = namer.borrow_mut().names(&program.process, &[CodeAddress::Exact(address)]);
            let function = frames.first().and_then(|frame| frame.functions.last());
            function.is_some_and(|function| function.name.starts_with("runtime."))
        })
    };
    let sample = |threads: &[u32]| sample(&program.process, threads);
    let options = Options { is_runtime: &is_runtime, sample: &sample };
    let goroutines = goroutines::read(runtime.memory(), runtime.places(), runtime.bias().live(0), &options)?;
    let names = names(program, &mut namer.borrow_mut(), export::addresses(&goroutines));
    Ok((goroutines, names))
}

/// What threads do on the CPU, as far as we may see it. Their ids are those that the process says of itself: in a container
/// they are others than ours, and a process could name any.
fn sample(process: &Process, own_ids: &[u32]) -> BTreeMap<u32, ThreadSample> {
    let Ok(threads) = process.threads_by_own_ids(own_ids) else { return BTreeMap::new() };
    let ours: Vec<u32> = threads.values().copied().collect();
    let mut samples = sample_threads(process.pid(), &ours).unwrap_or_else(|error| {
        tracing::debug!("running goroutines can't be seen: {error}");
        BTreeMap::new()
    });
    let named = threads.into_iter().filter_map(|(own, ours)| Some((own, samples.remove(&ours)?)));
    named.map(|(own, one)| (own, ThreadSample { sp: one.sp, stack: one.stack })).collect()
}

/// Gives names to addresses of a program.
///
/// # Errors
///
/// If the process has ended.
pub fn namer(program: &GoProgram) -> Result<Namer, GoError> {
    let gone = |error: TargetError| GoError::Memory(error.to_string());
    Namer::new(&program.process, Limits::default()).map_err(gone)
}

/// Frames by the addresses that are meant.
pub fn names(program: &GoProgram, namer: &mut Namer, meant: Vec<u64>) -> Names {
    let wanted: Vec<_> = meant.iter().map(|address| CodeAddress::Exact(*address)).collect();
    let frames = namer.names(&program.process, &wanted);
    meant.into_iter().zip(frames).collect()
}
