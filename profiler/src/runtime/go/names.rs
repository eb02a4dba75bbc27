//! Names for addresses of a running process: of goroutines' stacks, and of the heap profile.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    hunt::files::Files,
    stack::{Frame, Function, Place},
    target::{MappedObject, Process, TargetError, objects_of},
    text::clean,
    worker::{Code, CodeRange, FileKey, Limits, Worker, code_ranges},
};

/// Places whose names are kept; about 200 bytes each.
const KEPT: usize = 50_000;
/// Addresses that are named at once; the others are left without names. Programs have some thousand, a hostile one any number.
pub const MOST_AT_ONCE: usize = 100_000;
/// Places that are asked for at once: as many as the worker is told of at once.
const BATCH: usize = 256;
/// Naming takes no longer, unless the caller says so.
const LONGEST: Duration = Duration::from_secs(30);
/// What the process has mapped is read again this often at most, if an address is in nothing that was mapped before.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// An address in a process's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CodeAddress {
    /// What a call returns to: the call itself is meant, which lies before it and may be of another line or function.
    Return(u64),
    /// The instruction that is meant.
    Exact(u64),
}

impl CodeAddress {
    const fn meant(self) -> u64 {
        match self {
            Self::Return(address) => address.saturating_sub(1),
            Self::Exact(address) => address,
        }
    }
}

/// Names addresses of one process, with a worker of its own that lives as long as this: keep it while it is used often, and
/// drop it otherwise. When the process starts another program, make a new one.
pub struct Namer {
    worker: Worker,
    /// Knows the files by their contents, so that none is handed over twice.
    files: Files,
    /// By address.
    ranges: Vec<CodeRange>,
    objects: Vec<MappedObject>,
    /// The files that were needed, by device and inode: `None` if one can't be had.
    known: HashMap<((i32, i32), u64), Known>,
    names: HashMap<(FileKey, u64), Arc<[Function]>>,
    read: Instant,
}

/// A mapped file.
#[derive(Clone)]
struct Known {
    key: Option<FileKey>,
    build: Arc<str>,
    name: Arc<str>,
}

/// Where an address is.
struct Located {
    place: Place,
    object: Arc<str>,
    key: Option<FileKey>,
}

impl Namer {
    /// Looks at what the process has mapped. No file is read yet, and no process started.
    ///
    /// # Errors
    ///
    /// If the process has ended or can't be read.
    pub fn new(process: &Process, limits: Limits) -> Result<Self, TargetError> {
        let mut namer = Self {
            worker: Worker::new(limits),
            files: Files::default(),
            ranges: Vec::new(),
            objects: Vec::new(),
            known: HashMap::new(),
            names: HashMap::new(),
            read: Instant::now(),
        };
        namer.read_maps(process)?;
        Ok(namer)
    }

    /// A frame for each address, in their order, with the functions that are there, the innermost inlined one first: none if
    /// nobody knows. Of code that is in no file, and of what is no code, the place is the address itself.
    ///
    /// Addresses that the runtime has taken apart itself stand for one function each, the first of the frame: those of the
    /// heap profile (Go's src/runtime/mprof.go), where the callers of an inlined function come as addresses of their own.
    /// Those on a goroutine's stack stand for all of a frame's functions.
    ///
    /// Takes half a minute at most, and no more than [`Limits::symbolise`] for each 256 new places of a file; after that, and
    /// behind the first [`MOST_AT_ONCE`] addresses, places have no names.
    pub fn names(&mut self, process: &Process, addresses: &[CodeAddress]) -> Vec<Frame> {
        self.names_until(process, addresses, Instant::now() + LONGEST)
    }

    /// The same until that moment, or little longer: a question that was asked before is waited for.
    pub fn names_until(
        &mut self,
        process: &Process,
        addresses: &[CodeAddress],
        until: Instant,
    ) -> Vec<Frame> {
        if self.read.elapsed() > READ_AGAIN
            && addresses.iter().any(|address| self.range_of(address.meant()).is_none())
        {
            // A process that has ended has nothing mapped: what was known of it stays.
            let _old = self.read_maps(process);
        }
        let located: Vec<Located> =
            addresses.iter().map(|address| self.locate(process, address.meant(), until)).collect();
        self.ask(&located, until);
        located.into_iter().map(|located| self.frame(located)).collect()
    }

    fn read_maps(&mut self, process: &Process) -> Result<(), TargetError> {
        let maps = process.maps_text()?;
        if maps.is_empty() {
            return Err(TargetError::Gone(process.pid()));
        }
        self.read = Instant::now();
        self.ranges = code_ranges(&maps);
        self.ranges.sort_unstable_by_key(|range| range.start);
        self.objects = objects_of(&maps);
        // What couldn't be had may be had now.
        self.known.retain(|_, known| known.key.is_some());
        Ok(())
    }

    fn range_of(&self, address: u64) -> Option<&CodeRange> {
        let behind = self.ranges.partition_point(|range| range.start <= address);
        self.ranges.get(behind.checked_sub(1)?).filter(|range| address < range.end)
    }

    fn locate(&mut self, process: &Process, address: u64, until: Instant) -> Located {
        let unnamed = |code: Code| Located {
            place: Place { build: code.unnamed().unwrap_or("[anon]").into(), offset: address },
            object: "".into(),
            key: None,
        };
        let Some(range) = self.range_of(address) else { return unnamed(Code::Anonymous) };
        let offset = range.file_offset.saturating_add(address - range.start);
        let (file, code) = (range.file, range.unnamed);
        match file.and_then(|file| self.file(process, file, until)) {
            Some(Known { key, build, name }) => Located { place: Place { build, offset }, object: name, key },
            None => unnamed(code),
        }
    }

    /// A file that isn't known by `until` isn't looked at any more.
    fn file(&mut self, process: &Process, id: ((i32, i32), u64), until: Instant) -> Option<Known> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.clone());
        }
        if Instant::now() >= until {
            return None;
        }
        let object = self.objects.iter().find(|object| object.id() == id)?;
        let name: Arc<str> = clean(&object.path).into();
        let key = self.files.enter(&mut self.worker, process, object);
        let build = key.and_then(|key| self.worker.build(key)).cloned();
        // Without the file its size isn't known, either.
        let build = build.unwrap_or_else(|| Arc::clone(&name));
        let known = Known { key, build, name };
        self.known.insert(id, known.clone());
        Some(known)
    }

    /// Asks for all unknown places, file by file.
    fn ask(&mut self, located: &[Located], until: Instant) {
        if self.names.len() > KEPT {
            self.names.clear();
        }
        let mut unknown: HashMap<FileKey, Vec<u64>> = HashMap::new();
        for Located { place, key, .. } in located.iter().take(MOST_AT_ONCE) {
            if let Some(key) = key.filter(|key| !self.names.contains_key(&(*key, place.offset))) {
                unknown.entry(key).or_default().push(place.offset);
            }
        }
        for (key, mut offsets) in unknown {
            offsets.sort_unstable();
            offsets.dedup();
            for batch in offsets.chunks(BATCH) {
                if Instant::now() >= until {
                    return;
                }
                let named = self.worker.symbolise(key, batch);
                let places = batch.iter().map(|offset| (key, *offset));
                self.names.extend(places.zip(named.into_iter().map(Arc::from)));
            }
        }
    }

    fn frame(&self, Located { place, object, key }: Located) -> Frame {
        let functions = key.and_then(|key| self.names.get(&(key, place.offset)));
        Frame { functions: functions.map_or_else(Vec::new, |functions| functions.to_vec()), place, object }
    }
}
