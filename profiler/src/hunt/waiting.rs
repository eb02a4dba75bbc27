//! Waiting for samples and orders, without waking up for every sample.
//!
//! The kernel side wakes us at the first sample after the ring was empty, then not any more until much waits there, and at
//! once if a process is about to be killed. So the first sample after a while is looked at without delay, and a ring that was
//! read a moment ago is left alone for a moment, unless we are woken a second time.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::event::{Timespec, epoll};

/// The ring isn't read more often than this, unless much is waiting: a wake-up and a look take some 20 us.
const REST: Duration = Duration::from_millis(50);

const RING: u64 = 0;
const ORDERS: u64 = 1;

/// Waits for the ring and for orders.
pub(super) struct Waiting {
    epoll: OwnedFd,
    /// When the ring was last read to its end.
    emptied: Instant,
    /// A sample has come since then.
    some: bool,
    /// The ring was not read to its end.
    more: bool,
}

impl Waiting {
    /// # Errors
    ///
    /// If there is no descriptor to be had.
    pub fn new(ring: Option<impl AsFd>, orders: impl AsFd) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // One event for each time that the kernel side wakes us, however much is there.
        let (once, always) = (epoll::EventFlags::IN | epoll::EventFlags::ET, epoll::EventFlags::IN);
        if let Some(ring) = ring {
            epoll::add(&epoll, ring, epoll::EventData::new_u64(RING), once)?;
        }
        epoll::add(&epoll, orders, epoll::EventData::new_u64(ORDERS), always)?;
        Ok(Self { epoll, emptied: Instant::now(), some: false, more: true })
    }

    /// Returns when there is something to do, and at this moment at the latest.
    pub fn wait(&mut self, until: Instant) {
        while !self.more {
            let now = Instant::now();
            let next = if self.some { until.min(self.emptied + REST) } else { until };
            if next <= now {
                return;
            }
            let wait = next - now;
            let wait =
                Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
            let mut room = [MaybeUninit::<epoll::Event>::uninit(); 2];
            // Interrupted: look again.
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut room, Some(&wait)) else { return };
            let has = |which: u64| events.iter().any(|event| event.data.u64() == which);
            let (ring, orders) = (has(RING), has(ORDERS));
            let again = ring && self.some;
            self.some |= ring;
            if orders || again {
                return;
            }
        }
    }

    /// The ring was read, to its end or not.
    pub fn read(&mut self, to_its_end: bool) {
        self.more = !to_its_end;
        self.some = false;
        self.emptied = Instant::now();
    }
}
