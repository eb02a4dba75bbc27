//! The library's readers, put together as a session does it, for one process.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    os::linux::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use profiler::{
    binary::go::{
        self, Found, GoImage, Places,
        lines::{COMPILER_MADE, Lines},
    },
    runtime::go::{
        GoRuntime,
        goroutines::{self, Goroutine, Options},
        heap_profile::{self, BucketCache},
    },
    target::{Process, ProcessMemory},
};
use serde_json::Value;

pub use profiler::runtime::go::figures::View;

use super::{
    dump::{Frame, Told},
    heap::Line,
};

/// A Go process seen from outside.
pub struct Outside {
    pub image: GoImage,
    runtime: RefCell<GoRuntime<ProcessMemory>>,
    lines: Option<Lines>,
    buckets: RefCell<BucketCache>,
}

impl Outside {
    /// Reads its file, and finds its runtime.
    pub fn of(pid: u32, program: &Path) -> Result<Self, String> {
        let file = std::fs::read(program).map_err(|error| error.to_string())?;
        let image = go::analyse(&file).map_err(|error| error.to_string())?.ok_or("it isn't Go's")?;
        let places = Arc::new(image.runtime.clone()?);
        let runtime = RefCell::new(attach(pid, program, &places)?);
        Ok(Self { image, runtime, lines: Lines::new(&file), buckets: RefCell::default() })
    }

    /// By which table, and how.
    pub fn found(&self) -> String {
        let Ok(places) = &self.image.runtime else { return String::new() };
        let how = match places.found {
            Found::Symbols => "symbols".to_owned(),
            Found::References { same, of } => format!("references {same}/{of}"),
        };
        format!("table {}{}, {how}", places.table, if places.exact { "" } else { " (near)" })
    }

    pub fn figures(&self, view: View) -> Result<Value, String> {
        let figures = self.runtime.borrow_mut().read(view).map_err(|error| error.to_string())?;
        serde_json::to_value(figures).map_err(|error| error.to_string())
    }

    /// System calls of the last reading of figures.
    pub fn calls(&self) -> u32 {
        self.runtime.borrow().cost().calls
    }

    /// Those that aren't the runtime's own.
    pub fn goroutines(&self) -> Result<Vec<Told>, String> {
        let is_runtime =
            |address| self.all_at(address).last().is_some_and(|frame| frame.name.starts_with("runtime."));
        // Those that run have no stack in the program's own dump of others.
        let options = Options {
            runtimes: &|starts| starts.iter().copied().filter(|start| is_runtime(*start)).collect(),
            sample: &|_| Ok(BTreeMap::new()),
            until: Instant::now() + Duration::from_secs(60),
        };
        let runtime = self.runtime.borrow();
        let read = goroutines::read(runtime.memory(), runtime.places(), runtime.bias().live(0), &options);
        let read = read.map_err(|error| error.to_string())?;
        if read.torn + read.left_out > 0 {
            return Err(format!("{} torn, {} left out", read.torn, read.left_out));
        }
        Ok(read
            .list
            .iter()
            .filter(|goroutine| !goroutine.system)
            .map(|goroutine| self.told(goroutine))
            .collect())
    }

    fn told(&self, goroutine: &Goroutine) -> Told {
        let (first, callers) =
            goroutine.stack.split_at(usize::from(goroutine.first_is_exact && !goroutine.stack.is_empty()));
        let mut frames: Vec<Frame> = first.iter().flat_map(|address| self.at(*address)).collect();
        frames.extend(self.callers(callers));
        if let Some(trouble) = &goroutine.trouble {
            frames.push(Frame { name: trouble.clone(), place: String::new() });
        }
        let made_by = goroutine.created_by.and_then(|(address, parent)| {
            Some((self.all_at(address.wrapping_sub(1)).last()?.name.clone(), parent))
        });
        Told { id: goroutine.id, state: goroutine.state.clone(), frames, made_by }
    }

    /// The rate of samples, and the records.
    pub fn heap(&self) -> Result<(u64, Vec<Line>), String> {
        let runtime = self.runtime.borrow();
        let mut buckets = self.buckets.borrow_mut();
        let profile =
            heap_profile::read(runtime.memory(), runtime.places(), runtime.bias().live(0), &mut buckets);
        let profile = profile.map_err(|error| error.to_string())?;
        if profile.left_out > 0 {
            return Err(format!("{} records left out", profile.left_out));
        }
        let line = |record: &heap_profile::Record| {
            let live = record.allocs - record.frees;
            Line {
                live,
                live_bytes: live * record.size,
                allocated: record.allocs,
                allocated_bytes: record.allocs * record.size,
                stack: record.stack.clone(),
            }
        };
        Ok((profile.rate, profile.records.iter().map(line).collect()))
    }

    /// What is at a stack's addresses, which calls return to.
    fn callers(&self, stack: &[u64]) -> Vec<Frame> {
        stack.iter().flat_map(|address| self.at(address.wrapping_sub(1))).collect()
    }

    /// The same of a profile's stack, in which the runtime has given every inlined function an address of its own
    /// (`tracebackPCs` in Go's src/runtime/traceback.go).
    pub fn frames(&self, stack: &[u64]) -> Vec<Frame> {
        stack.iter().filter_map(|address| self.at(address.wrapping_sub(1)).into_iter().next()).collect()
    }

    /// The functions at an address of the process that a traceback shows, the innermost inlined one first.
    fn at(&self, address: u64) -> Vec<Frame> {
        // What the compiler has made itself isn't shown.
        self.all_at(address).into_iter().filter(|frame| !frame.place.starts_with(COMPILER_MADE)).collect()
    }

    /// All functions at an address of the process, the innermost inlined one first.
    fn all_at(&self, address: u64) -> Vec<Frame> {
        let file = self.runtime.borrow().bias().file(address);
        let functions = self.lines.as_ref().map(|lines| lines.functions(file)).unwrap_or_default();
        let place = |file: Option<Arc<str>>, line| format!("{}:{line}", file.as_deref().unwrap_or_default());
        functions
            .into_iter()
            .map(|function| Frame {
                name: function.name.to_string(),
                place: place(function.file, function.line),
            })
            .collect()
    }
}

/// Finds a runtime in a process.
pub fn attach(pid: u32, program: &Path, places: &Arc<Places>) -> Result<GoRuntime<ProcessMemory>, String> {
    let process = Arc::new(Process::open(pid).map_err(|error| error.to_string())?);
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|error| error.to_string())?;
    let exe = std::fs::metadata(program).map_err(|error| error.to_string())?;
    let device = |device| (libc::major(device).cast_signed(), libc::minor(device).cast_signed());
    let file = (device(exe.st_dev()), exe.st_ino());
    GoRuntime::attach(places, ProcessMemory::from(process), &maps, file).map_err(|error| error.to_string())
}
