//! `profiler stack`: what every goroutine does, as a panic would print it.

use std::{
    cell::RefCell,
    collections::HashSet,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;

use super::{GoProgram, ask, go_program, print, print_json};
use crate::{
    export::goroutines::{self as export, Names},
    kernel::{now_ns, sample_threads},
    runtime::go::{
        GoError,
        goroutines::{self, Goroutines, Options, Samples, ThreadSample},
        names::{CodeAddress, MOST_AT_ONCE, Namer},
    },
    stack::Frame,
    target::{Process, TargetError},
    worker::Limits,
};

/// Goroutines are read for so long, and a question for names is answered for so long, of which there are two: together that is
/// less than the answer is waited for.
const READING: Duration = Duration::from_secs(15);
const NAMING: Duration = Duration::from_secs(15);

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
    let runtimes = |starts: &[u64]| -> HashSet<u64> {
        let names = names(program, &mut namer.borrow_mut(), starts.to_vec());
        let of_runtime = |frame: &Frame| {
            frame.functions.last().is_some_and(|function| function.name.starts_with("runtime."))
        };
        names.into_iter().filter(|(_, frame)| of_runtime(frame)).map(|(address, _)| address).collect()
    };
    let sample = |threads: &[u32]| sample(&program.process, threads);
    let options = Options { runtimes: &runtimes, sample: &sample, until: Instant::now() + READING };
    let goroutines = goroutines::read(runtime.memory(), runtime.places(), runtime.bias().live(0), &options)?;
    let names = names(program, &mut namer.borrow_mut(), export::addresses(&goroutines));
    Ok((goroutines, names))
}

/// What threads do on the CPU, as far as we may see it. Their ids are those that the process says of itself: in a container
/// they are others than ours, and a process could name any.
fn sample(process: &Process, own_ids: &[u32]) -> Samples {
    let threads = process.threads_by_own_ids(own_ids).map_err(|error| error.to_string())?;
    let ours: Vec<u32> = threads.values().copied().collect();
    let mut samples = sample_threads(process.pid(), &ours).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "to see where takes root's rights (perf_event_open)".to_owned(),
        _ => format!("perf_event_open says: {error}"),
    })?;
    let named = threads.into_iter().filter_map(|(own, ours)| Some((own, samples.remove(&ours)?)));
    Ok(named.map(|(own, one)| (own, ThreadSample { sp: one.sp, stack: one.stack })).collect())
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

/// Frames by the addresses that are meant, as many as get names in time.
pub fn names(program: &GoProgram, namer: &mut Namer, mut meant: Vec<u64>) -> Names {
    meant.truncate(MOST_AT_ONCE);
    let wanted: Vec<_> = meant.iter().map(|address| CodeAddress::Exact(*address)).collect();
    let frames = namer.names_until(&program.process, &wanted, Instant::now() + NAMING);
    meant.into_iter().zip(frames).collect()
}
