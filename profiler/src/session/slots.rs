//! Places in the kernel side's maps, and the thread that takes probes away.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use super::alloc::Links;
use crate::kernel::{StopsLink, detach_all};

/// Probes to be taken away, and the place of the process that had them, if it is to be free then.
type Waste = (Links, Option<StopsLink>, Option<u32>);

/// Places of processes in the kernel side's maps. A place is free again only when the probes that count there are gone,
/// which takes up to a second: another thread sees to that.
pub(super) struct Slots {
    all: u32,
    free: Arc<Mutex<Vec<u32>>>,
    /// `None` if there was no thread to be had: then it is done here and now.
    waste: Option<Sender<Waste>>,
    thread: Option<JoinHandle<()>>,
}

impl Slots {
    pub fn new(all: u32) -> Self {
        let free = Arc::new(Mutex::new((0..all).rev().collect::<Vec<_>>()));
        let (send, receive) = channel::<Waste>();
        let returned = Arc::clone(&free);
        let thread = std::thread::Builder::new().name("profiler-detach".to_owned()).spawn(move || {
            while let Ok(first) = receive.recv() {
                // Whatever else has gathered meanwhile goes with it: probes of many files are taken away in parallel.
                let mut links = Vec::new();
                let mut slots = Vec::new();
                for ((probes, loader), stops, slot) in std::iter::once(first).chain(receive.try_iter()) {
                    links.extend(probes);
                    drop((loader, stops));
                    slots.extend(slot);
                }
                detach_all(links);
                returned.lock().unwrap_or_else(PoisonError::into_inner).extend(slots);
            }
        });
        let thread = thread.ok();
        Self { all, free, waste: thread.is_some().then_some(send), thread }
    }

    /// How many there are.
    pub const fn all(&self) -> u32 {
        self.all
    }

    /// A free one.
    pub fn take(&self) -> Option<u32> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Takes a place back once the probes of its process are gone.
    pub fn give_back(&self, slot: u32, links: Links, stops: Option<StopsLink>) {
        if links.0.is_empty() && links.1.is_none() && stops.is_none() {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        } else {
            self.discard((links, stops, Some(slot)));
        }
    }

    /// Takes probes away.
    pub fn drop_links(&self, links: Links) {
        if !links.0.is_empty() || links.1.is_some() {
            self.discard((links, None, None));
        }
    }

    /// The same for those of a Go runtime.
    pub fn drop_stops(&self, stops: Option<StopsLink>) {
        if stops.is_some() {
            self.discard(((Vec::new(), None), stops, None));
        }
    }

    fn discard(&self, waste: Waste) {
        let refused = match &self.waste {
            Some(thread) => thread.send(waste).err().map(|error| error.0),
            None => Some(waste),
        };
        if let Some((links, stops, slot)) = refused {
            drop((links, stops));
            self.free.lock().unwrap_or_else(PoisonError::into_inner).extend(slot);
        }
    }
}

impl Drop for Slots {
    /// Waits until every probe is gone.
    fn drop(&mut self) {
        drop(self.waste.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
