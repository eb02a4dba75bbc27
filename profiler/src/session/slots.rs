//! Places in the kernel side's maps, and the thread that takes probes away.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use super::alloc::Links;
use crate::kernel::detach_all;

/// Places of processes in the kernel side's maps. A place is free again only when the probes that count there are gone,
/// which takes up to a second: another thread sees to that.
pub(super) struct Slots {
    all: u32,
    free: Arc<Mutex<Vec<u32>>>,
    /// `None` if there was no thread to be had: then it is done here and now.
    waste: Option<Sender<(Links, Option<u32>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Slots {
    pub fn new(all: u32) -> Self {
        let free = Arc::new(Mutex::new((0..all).rev().collect::<Vec<_>>()));
        let (send, receive) = channel::<(Links, Option<u32>)>();
        let returned = Arc::clone(&free);
        let thread = std::thread::Builder::new().name("profiler-detach".to_owned()).spawn(move || {
            while let Ok(first) = receive.recv() {
                // Whatever else has gathered meanwhile goes with it: probes of many files are taken away in parallel.
                let mut links = Vec::new();
                let mut slots = Vec::new();
                for ((probes, loader), slot) in std::iter::once(first).chain(receive.try_iter()) {
                    links.extend(probes);
                    drop(loader);
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
    pub fn give_back(&self, slot: u32, links: Links) {
        if links.0.is_empty() && links.1.is_none() {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        } else {
            self.discard(links, Some(slot));
        }
    }

    /// Takes probes away.
    pub fn drop_links(&self, links: Links) {
        if !links.0.is_empty() || links.1.is_some() {
            self.discard(links, None);
        }
    }

    fn discard(&self, links: Links, slot: Option<u32>) {
        let refused = match &self.waste {
            Some(waste) => waste.send((links, slot)).err().map(|error| error.0),
            None => Some((links, slot)),
        };
        if let Some((links, slot)) = refused {
            drop(links);
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
