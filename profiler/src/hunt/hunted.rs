//! One process under the hunt: its code, and the pages of it that are samples.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::files::Files;
use crate::{
    leaks::Source,
    session::FileId,
    target::{AddressSpace, MappedObject, PageState, Pagemap, Process, TargetError},
    worker::{Code, FileKey, Module, RawFrame, Space, Worker, code_ranges},
};

/// Code at an unknown address makes us look at the mapped files again, but not more often than this.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What is told of a process when its observation begins.
pub struct Subject {
    /// Its place in the kernel side's maps.
    pub slot: u32,
    /// `Switches::epoch` of that place at this moment.
    pub epoch: u32,
    /// The process.
    pub process: Arc<Process>,
    /// The target that it belongs to.
    pub group: Arc<str>,
    /// Where its samples come from, or why there are none.
    pub source: Result<Source, String>,
}

/// What the kernel makes of a page at most: a huge one (x86-64).
const HUGE: u64 = 2 << 20;

/// What there is at the address of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing, or nobody can tell.
    Gone,
    /// Others hold it, too.
    Shared,
    /// A page of its own.
    Small,
    /// A huge page of its own, so large, in which no other sample lies.
    Huge(u64),
}

/// A process under the hunt.
pub(super) struct Hunted {
    /// Anonymous memory that it had when its observation began, and has as long as it has its program.
    pub before_bytes: u64,
    pub subject: Subject,
    pub epoch: u32,
    /// Page samples that live, by address.
    pub pages: BTreeMap<u64, u64>,
    pagemap: Option<Pagemap>,
    space: Space,
    objects: Vec<MappedObject>,
    keys: HashMap<FileId, FileKey>,
    mappings: AddressSpace,
    looked: Option<Instant>,
}

impl Hunted {
    pub fn new(subject: Subject) -> Self {
        Self {
            before_bytes: subject.process.usage().map_or(0, |usage| usage.anonymous_memory_bytes),
            epoch: subject.epoch,
            subject,
            pages: BTreeMap::new(),
            pagemap: None,
            space: Space { id: 0, modules: Vec::new() },
            objects: Vec::new(),
            keys: HashMap::new(),
            mappings: AddressSpace::default(),
            looked: None,
        }
    }

    pub fn pid(&self) -> u32 {
        self.subject.process.pid()
    }

    /// What lies in its code and where. `id` names the list if it is a new one.
    pub fn look(&mut self, worker: &mut Worker, files: &mut Files, id: u64) -> Result<(), TargetError> {
        self.looked = Some(Instant::now());
        let process = &self.subject.process;
        let maps = process.maps_text()?;
        self.objects = crate::target::objects_of(&maps);
        self.mappings = AddressSpace::parse(&maps);
        let mut before = std::mem::take(&mut self.keys);
        for object in &self.objects {
            let key = before.remove(&object.id()).or_else(|| files.enter(worker, process, object));
            if let Some(key) = key {
                self.keys.insert(object.id(), key);
            }
        }
        for key in before.into_values() {
            files.leave(worker, key);
        }
        let modules = code_ranges(&maps).into_iter().map(|range| {
            let code = range
                .file
                .and_then(|file| self.keys.get(&file))
                .map_or(range.unnamed, |key| Code::File(*key));
            let file_offset = if matches!(code, Code::File(_)) { range.file_offset } else { 0 };
            Module { start: range.start, end: range.end, file_offset, code }
        });
        self.space = Space { id, modules: modules.collect() };
        Ok(())
    }

    /// The code is looked at again before the next stack.
    pub fn changed(&mut self) {
        self.looked = None;
        // It belongs to the memory of a program.
        self.pagemap = None;
    }

    /// Whether the code should be looked at (again) for the sake of this address.
    pub fn wants_look(&self, address: u64) -> bool {
        match self.looked {
            None => true,
            Some(looked) => !self.knows(address) && looked.elapsed() >= LOOK_PAUSE,
        }
    }

    fn knows(&self, address: u64) -> bool {
        self.space.modules.iter().any(|module| (module.start..module.end).contains(&address))
    }

    pub const fn space(&self) -> &Space {
        &self.space
    }

    /// The frame of what has called and will go on at an address.
    pub fn caller(&self, returns_to: u64) -> Option<RawFrame> {
        let address = returns_to.checked_sub(1)?;
        let modules = self.space.modules.iter();
        let module = modules.into_iter().find(|module| (module.start..module.end).contains(&address))?;
        let offset = match module.code {
            Code::File(_) => (address - module.start).checked_add(module.file_offset)?,
            _ => address,
        };
        Some(RawFrame { code: module.code, offset })
    }

    /// Which file is mapped at an address, and where in the file that is.
    pub fn place_of(&self, address: u64) -> Option<(FileId, u64)> {
        self.objects.iter().find_map(|object| {
            let range = object.ranges.iter().find(|range| (range.start..range.end).contains(&address))?;
            Some((object.id(), address - range.start + range.file_offset))
        })
    }

    /// Whether first touches of pages there are growth; looks again if the address is new.
    pub fn grows_at(&mut self, address: u64) -> bool {
        if self.mappings.at(address).is_none()
            && let Ok(mappings) = self.subject.process.address_space()
        {
            self.mappings = mappings;
        }
        self.mappings.at(address).is_some_and(|mapping| mapping.can_grow())
    }

    /// What is there now.
    pub fn look_at_page(&mut self, address: u64) -> Look {
        if self.pagemap.is_none() {
            self.pagemap = self.subject.process.pagemap().ok();
        }
        let Some(pagemap) = &mut self.pagemap else { return Look::Gone };
        match pagemap.states(&[address]).ok().as_deref() {
            Some([PageState::Shared]) => Look::Shared,
            Some([PageState::Own]) => {
                let start = address & !(HUGE - 1);
                let alone = self.pages.range(start..start.saturating_add(HUGE)).next().is_none();
                if alone && pagemap.is_huge(address) == Some(true) { Look::Huge(HUGE) } else { Look::Small }
            }
            Some([PageState::Swapped]) => Look::Small,
            _ => Look::Gone,
        }
    }

    /// This sample is a page no more.
    pub fn forget_page(&mut self, address: u64, id: u64) {
        if self.pages.get(&address) == Some(&id) {
            self.pages.remove(&address);
        }
    }

    /// Gives its files back.
    pub fn leave(&mut self, worker: &mut Worker, files: &mut Files) {
        for (_, key) in self.keys.drain() {
            files.leave(worker, key);
        }
    }
}
