//! The files that targets have mapped, as the worker knows them.

use std::{collections::HashMap, os::fd::OwnedFd, path::Path, sync::Arc};

use crate::{
    binary, symbols,
    target::{MappedObject, Process},
    text::clean,
    worker::{FileKey, Worker},
};

/// Files that are kept open at most: each takes one or two descriptors.
const MOST_FILES: usize = 2048;
/// The notes of a file, with its build id, lie in its first pages.
const HEAD: u64 = 64 << 10;

/// A file at one state of its contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    identity: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

/// What is known of a registered file.
struct Known {
    key: FileKey,
    build: Arc<str>,
    /// How many processes have it mapped.
    users: u32,
}

/// All files that were registered.
#[derive(Default)]
pub struct Files {
    known: HashMap<State, Known>,
    by_key: HashMap<FileKey, State>,
    by_build: HashMap<Arc<str>, (FileKey, Arc<str>)>,
    /// Files that had no place.
    pub refused: u64,
}

impl Files {
    /// Registers a mapped file for one more process; `None` if it can't be had.
    pub fn enter(
        &mut self,
        worker: &mut Worker,
        process: &Process,
        object: &MappedObject,
    ) -> Option<FileKey> {
        let pinned = process.pin(object).ok()?;
        let state = State { identity: pinned.identity(), size: pinned.size(), changed: pinned.changed() };
        if let Some(known) = self.known.get_mut(&state) {
            known.users += 1;
            return Some(known.key);
        }
        if self.known.len() >= MOST_FILES {
            self.refused += 1;
            return None;
        }
        let name: Arc<str> = clean(&object.path).into();
        let build_id = binary::build_id(&pinned.head(HEAD).unwrap_or_default());
        let debug = build_id.as_deref().and_then(|build_id| {
            let root = process.root();
            let places = [Path::new("/"), root.as_path()];
            places.into_iter().find_map(|root| symbols::open_debug_file(root, build_id))
        });
        let build: Arc<str> = build_id.map_or_else(|| format!("{name}:{}", pinned.size()).into(), Arc::from);
        let debug = debug.map(|file| Arc::new(OwnedFd::from(file)));
        let key = worker.add_file(Arc::new(pinned.into_file()), debug, Arc::clone(&build));
        self.by_build.insert(Arc::clone(&build), (key, name));
        self.known.insert(state, Known { key, build, users: 1 });
        self.by_key.insert(key, state);
        Some(key)
    }

    /// A process has it no more. The last one closes it, if others need the room.
    pub fn leave(&mut self, worker: &mut Worker, key: FileKey) {
        let Some(state) = self.by_key.get(&key) else { return };
        let crowded = self.known.len() >= MOST_FILES / 2;
        let Some(known) = self.known.get_mut(state) else { return };
        known.users = known.users.saturating_sub(1);
        if known.users == 0 && crowded {
            // While there is room, it stays: the next worker process of a server has the same libraries.
            worker.remove_file(key);
            if self.by_build.get(&known.build).is_some_and(|(its, _)| *its == key) {
                self.by_build.remove(&known.build);
            }
            self.known.remove(state);
            self.by_key.remove(&key);
        }
    }

    /// The registered file that goes by this build, with its name as the process has it that was seen first, cleaned.
    pub fn of_build(&self, build: &str) -> Option<(FileKey, &Arc<str>)> {
        self.by_build.get(build).map(|(key, name)| (*key, name))
    }
}
