//! What is known of the files that targets have mapped: each is read and analysed once.

use std::{collections::HashMap, sync::Arc};

use crate::{
    binary::{self, Image},
    target::{MappedObject, PinnedObject, Process},
    text::clean,
};

/// Files of which the analysis is kept; a process has some dozens, and those of one machine share most of them.
const KEPT: usize = 1024;

/// What a file is, whatever its name: device and inode.
pub type FileId = ((i32, i32), u64);

/// A file at one state of its contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    id: FileId,
    size: u64,
    /// Seconds and nanoseconds of the last change.
    changed: (i64, i64),
}

/// A file's analysis, or why there is none.
pub type Analysis = Result<Image, String>;

/// The analyses made so far.
#[derive(Default)]
pub struct Images {
    known: HashMap<Key, (Arc<Analysis>, u64)>,
    uses: u64,
}

impl Images {
    /// Nothing is known yet. `debuginfod`: where symbols of stripped programs may be fetched.
    ///
    /// # Errors
    ///
    /// If that is no address.
    pub fn new(debuginfod: Option<String>) -> Result<Self, std::io::Error> {
        let _unused = debuginfod;
        Ok(Self::default())
    }

    /// A mapped file and what the analysis says of it; `None` if the file can't be had.
    pub fn look_at(
        &mut self,
        process: &Process,
        object: &MappedObject,
    ) -> Option<(PinnedObject, Arc<Analysis>)> {
        let told = |error: &dyn std::fmt::Display| tracing::debug!("{}: {error}", clean(&object.path));
        let pinned = process.pin(object).inspect_err(|error| told(error)).ok()?;
        let key = Key { id: object.id(), size: pinned.size(), changed: pinned.changed() };
        self.uses += 1;
        if let Some((analysis, used)) = self.known.get_mut(&key) {
            *used = self.uses;
            return Some((pinned, Arc::clone(analysis)));
        }
        let analysis = pinned.read().map_err(|error| error.to_string());
        let analysis =
            analysis.and_then(|bytes| binary::analyse(&bytes, None).map_err(|error| error.to_string()));
        if let Err(error) = &analysis {
            told(error);
        }
        let analysis = Arc::new(analysis);
        if self.known.len() >= KEPT {
            let oldest = self.known.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.map(|key| self.known.remove(&key));
        }
        self.known.insert(key, (Arc::clone(&analysis), self.uses));
        Some((pinned, analysis))
    }
}
