//! A disk that keeps after a crash what it has to, and of everything else whatever part it likes.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use super::super::Disk;

/// An error that a call gives.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub errno: i32,
    /// The call does its work all the same, as over a network.
    pub performed: bool,
}

/// A file, by the bytes that survive a crash and those that are seen until then. It only ever gets longer.
#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    seen: Vec<u8>,
    /// An fsync has failed: Linux takes the pages for written, and the next fsync says nothing.
    lost: bool,
}

/// A change of the directory that a crash may undo. A rename is two: it may be half done.
#[derive(Clone, Debug)]
enum Change {
    Add(String, usize),
    Remove(String),
}

impl Change {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Add(name, inode) => names.insert(name, inode),
            Self::Remove(name) => names.remove(&name),
        };
    }
}

#[derive(Clone, Debug, Default)]
pub struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    changes: Vec<Change>,
    /// Calls until now.
    pub calls: usize,
    /// During this call, the machine crashes.
    pub crash_at: Option<usize>,
    pub crashed: bool,
    pub faults: BTreeMap<usize, Fault>,
    /// Faults that have happened.
    pub failed: usize,
    /// What the clock that nobody sets shows.
    pub uptime: Duration,
}

impl State {
    /// Makes a call. During a crash, what isn't promised to last may have been done.
    fn call<T>(&mut self, lasting: bool, effect: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        let number = self.calls;
        self.calls += 1;
        let gone = || io::Error::other("the machine has crashed");
        if self.crashed {
            return Err(gone());
        }
        if self.crash_at == Some(number) {
            self.crashed = true;
            if !lasting {
                let _done = effect(self);
            }
            return Err(gone());
        }
        if let Some(fault) = self.faults.get(&number).copied() {
            self.failed += 1;
            // A call that was interrupted has done nothing, or who tries again would do it twice.
            if fault.performed && fault.errno != libc::EINTR {
                let _done = effect(self);
            }
            return Err(io::Error::from_raw_os_error(fault.errno));
        }
        effect(self)
    }

    fn change(&mut self, change: Change) {
        change.clone().apply(&mut self.names);
        self.changes.push(change);
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// The machine comes up again. `choose` says a number below the one it is given.
    pub fn reboot(&mut self, choose: &mut dyn FnMut(usize) -> usize) {
        for change in std::mem::take(&mut self.changes) {
            if choose(2) == 1 {
                change.apply(&mut self.durable);
            }
        }
        self.names = self.durable.clone();
        for inode in self.names.values() {
            let inode = &mut self.inodes[*inode];
            let (kept, whole) = (inode.durable.len(), inode.seen.len());
            if inode.seen != inode.durable {
                let torn = kept + choose(whole - kept + 1);
                inode.seen.truncate(torn);
                // Zeroes where nothing was written yet.
                if torn < whole && choose(2) == 1 {
                    inode.seen.resize(whole, 0);
                }
            }
            inode.durable = inode.seen.clone();
            inode.lost = false;
        }
        self.crashed = false;
        self.crash_at = None;
    }

    /// All names, with how many bytes a file takes.
    pub fn names(&self) -> BTreeMap<String, u64> {
        let size = |inode: &usize| allocated(&self.inodes[*inode]);
        self.names.iter().map(|(name, inode)| (name.clone(), size(inode))).collect()
    }

    /// Changes a file behind everybody's back.
    pub fn damage(&mut self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let inode = &mut self.inodes[self.names[name]];
        change(&mut inode.seen);
        inode.durable = inode.seen.clone();
    }
}

/// In blocks, as on a disk.
fn allocated(inode: &Inode) -> u64 {
    (inode.seen.len() as u64).div_ceil(512) * 512
}

/// The disk, to be given to one spool after the other.
#[derive(Clone, Debug, Default)]
pub struct Simulated(Arc<Mutex<State>>);

impl Simulated {
    pub fn of(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Disk for Simulated {
    type File = usize;

    fn path(&self) -> &Path {
        Path::new("/simulated")
    }

    fn uptime(&self) -> Duration {
        self.state().uptime
    }

    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<()> {
        let names = self.state().call(false, |state| Ok(state.names()))?;
        names.keys().for_each(|name| visit(name));
        Ok(())
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.state().call(false, |state| Ok(state.names().get(name).copied()))
    }

    fn create(&self, name: &str) -> io::Result<usize> {
        self.state().call(false, |state| {
            if state.names.contains_key(name) {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            state.inodes.push(Inode::default());
            let inode = state.inodes.len() - 1;
            state.change(Change::Add(name.to_owned(), inode));
            Ok(inode)
        })
    }

    fn write(&self, file: &mut usize, bytes: &[u8]) -> io::Result<usize> {
        // Never all at once, if it can be helped.
        let part = &bytes[..bytes.len().div_ceil(2)];
        self.state().call(false, |state| {
            state.inodes[*file].seen.extend(part);
            Ok(part.len())
        })
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        let mut state = self.state();
        let synced = state.call(true, |state| {
            let inode = &mut state.inodes[*file];
            if !inode.lost {
                inode.durable = inode.seen.clone();
            }
            Ok(())
        });
        state.inodes[*file].lost |= synced.is_err();
        synced
    }

    fn size_of(&self, file: &usize) -> io::Result<u64> {
        self.state().call(false, |state| Ok(allocated(&state.inodes[*file])))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state().call(false, |state| {
            let inode = state.inode(from)?;
            state.change(Change::Add(to.to_owned(), inode));
            state.change(Change::Remove(from.to_owned()));
            Ok(())
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.state().call(true, |state| {
            state.changes.clear();
            state.durable = state.names.clone();
            Ok(())
        })
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.state().call(false, |state| {
            state.inode(name)?;
            state.change(Change::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.state().call(false, |state| {
            let bytes = state.inodes[state.inode(name)?].seen.clone();
            assert!(bytes.len() as u64 <= limit);
            Ok(bytes)
        })
    }
}
