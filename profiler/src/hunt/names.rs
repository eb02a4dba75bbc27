//! Names for the places of stacks, asked of the worker and kept.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::files::Files;
use crate::{
    stack::{Frame, Function, Place, RawStack, Stack},
    target::Process,
    worker::{FileKey, Worker, open_perf_map},
};

/// Places whose names are kept; about 200 bytes each.
const KEPT: usize = 50_000;
/// Named stacks that are kept.
const KEPT_STACKS: usize = 4_000;

/// Names of code that a process has made at run time that are kept.
const KEPT_MADE: usize = 20_000;
/// A perf map is read this often at most: it may have some megabytes, and grows.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// Reading it takes no more than this part of the time.
const READ_PACE: u32 = 50;

/// Names that were asked for.
#[derive(Default)]
pub struct Names {
    places: HashMap<Place, (Arc<str>, Arc<[Function]>)>,
    stacks: HashMap<RawStack, Arc<Stack>>,
    /// Of code that was made at run time, by process: the same address is another function in another one.
    made: HashMap<u32, Made>,
    /// Time that questions took. Each name is asked for once: this isn't what a picture costs.
    pub spent: Duration,
}

/// Code that a process has made at run time.
#[derive(Default)]
struct Made {
    names: HashMap<u64, Arc<str>>,
    /// When the perf map is looked at again.
    due: Option<Instant>,
}

/// Whether it is code that has no file, made at run time.
pub(super) fn is_made(place: &Place) -> bool {
    &*place.build == "[anon]"
}

impl Names {
    /// The stack with its names. After `until`, only with those that are known: the rest comes another time.
    ///
    /// `pids`: whose stack it may be.
    pub fn of(
        &mut self,
        (worker, files): (&mut Worker, &Files),
        raw: &RawStack,
        pids: &[u32],
        until: Instant,
    ) -> Arc<Stack> {
        let made = raw.places.iter().any(is_made);
        if let Some(stack) = self.stacks.get(raw).filter(|_| !made) {
            return Arc::clone(stack);
        }
        if self.places.len() > KEPT {
            self.places.clear();
        }
        if self.stacks.len() > KEPT_STACKS {
            self.stacks.clear();
        }
        // All unknown places of a file in one question.
        let mut unknown: HashMap<(FileKey, Arc<str>), Vec<&Place>> = HashMap::new();
        let mut complete = true;
        for place in raw.places.iter().filter(|place| !place.build.starts_with('[')) {
            if self.places.contains_key(place) {
                continue;
            }
            // A file that was closed tells no names any more.
            if let Some((key, name)) = files.of_build(&place.build) {
                unknown.entry((key, Arc::clone(name))).or_default().push(place);
            }
        }
        for ((key, name), places) in unknown {
            if Instant::now() >= until {
                complete = false;
                break;
            }
            let offsets: Vec<u64> = places.iter().map(|place| place.offset).collect();
            let asked = Instant::now();
            let names = worker.symbolise(key, &offsets);
            self.spent += asked.elapsed();
            for (place, functions) in places.into_iter().zip(names) {
                self.places.insert(place.clone(), (Arc::clone(&name), functions.into()));
            }
        }
        let stack = Arc::new(Stack {
            frames: raw.places.iter().map(|place| self.frame(place, pids)).collect(),
            end: raw.end,
        });
        if complete && !made {
            self.stacks.insert(raw.clone(), Arc::clone(&stack));
        }
        stack
    }

    /// Asks the perf maps of these processes for the names of code at these addresses that isn't known yet.
    pub fn ask_made<'a>(
        &mut self,
        worker: &mut Worker,
        processes: impl Iterator<Item = &'a Process>,
        addresses: &HashSet<u64>,
    ) {
        for process in processes {
            let made = self.made.entry(process.pid()).or_default();
            let unknown: Vec<u64> =
                addresses.iter().copied().filter(|address| !made.names.contains_key(address)).collect();
            let asked = Instant::now();
            if unknown.is_empty() || made.due.is_some_and(|due| asked < due) {
                continue;
            }
            let map =
                process.inner_id_and_user().map_err(|error| error.to_string()).and_then(|(pid, user)| {
                    open_perf_map(&process.root(), pid, user).map_err(|error| error.to_string())
                });
            match map {
                Ok(map) => {
                    if made.names.len() + unknown.len() > KEPT_MADE {
                        made.names.clear();
                    }
                    let names = worker.perf_map(&map, &unknown);
                    let known = unknown.into_iter().zip(names).filter_map(|(at, name)| Some((at, name?)));
                    made.names.extend(known);
                }
                Err(error) => tracing::debug!("{error}"),
            }
            made.due = Some(Instant::now() + READ_AGAIN.max(asked.elapsed() * READ_PACE));
        }
    }

    /// A process has ended or runs another program: its addresses mean something else.
    pub fn forget(&mut self, pid: u32) {
        self.made.remove(&pid);
    }

    fn made_at(&self, address: u64, pids: &[u32]) -> Option<&Arc<str>> {
        pids.iter().find_map(|pid| self.made.get(pid)?.names.get(&address))
    }

    fn frame(&self, place: &Place, pids: &[u32]) -> Frame {
        if let Some(name) =
            Some(place).filter(|place| is_made(place)).and_then(|place| self.made_at(place.offset, pids))
        {
            let function = Function { name: Arc::clone(name), file: None, line: 0 };
            return Frame { place: place.clone(), object: "[jit]".into(), functions: vec![function] };
        }
        let known = self.places.get(place);
        Frame {
            place: place.clone(),
            object: known.map_or_else(|| Arc::from(""), |(name, _)| Arc::clone(name)),
            functions: known.map_or_else(Vec::new, |(_, functions)| functions.to_vec()),
        }
    }
}
