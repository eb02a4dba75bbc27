//! The files of a spool, seen from outside.

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use flate2::read::GzDecoder;

use crate::common::lines::Book;

/// What files there are, or were, and what is in them.
#[derive(Clone, Debug, Default)]
pub struct Spooled {
    pub names: BTreeSet<String>,
    pub book: Book,
}

impl Spooled {
    /// What is there now.
    pub fn now(directory: &Path) -> Self {
        let mut spooled = Self::default();
        spooled.look(directory);
        spooled
    }

    /// Takes in what is new.
    fn look(&mut self, directory: &Path) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".lp.gz") || self.names.contains(&name) {
                continue;
            }
            // It may have been sent meanwhile.
            let Ok(packed) = std::fs::read(entry.path()) else { continue };
            let mut lines = String::new();
            let read = GzDecoder::new(&packed[..]).read_to_string(&mut lines);
            read.unwrap_or_else(|error| panic!("{name} isn't whole: {error}"));
            self.book.read(&lines);
            self.names.insert(name);
        }
    }
}

/// Somebody who looks again and again.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Spooled>,
}

impl Watch {
    pub fn over(directory: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, directory): (_, PathBuf) = (Arc::clone(&stop), directory.to_owned());
        let thread = std::thread::spawn(move || {
            let mut seen = Spooled::default();
            while !stopped.load(Ordering::Relaxed) {
                seen.look(&directory);
                std::thread::sleep(Duration::from_millis(10));
            }
            seen
        });
        Self { stop, thread }
    }

    /// Everything that was ever seen.
    pub fn end(self) -> Spooled {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every file is whole, and no point is there with two values")
    }
}
