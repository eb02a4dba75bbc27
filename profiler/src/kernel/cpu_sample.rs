//! One sample of what threads are doing on the CPU, by perf_event_open(2): nobody is stopped or signalled.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aya_obj::generated::perf_event_attr;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// Threads that are sampled at once.
const MOST_THREADS: usize = 64;
/// The longest that is waited.
const LONGEST: Duration = Duration::from_millis(20);
/// Nanoseconds of its own CPU time after which a thread is sampled.
const PERIOD_NS: u64 = 100_000;
/// Frames of a sample; the kernel's usual limit (`kernel.perf_event_max_stack`).
const MOST_FRAMES: u64 = 127;

/// From include/uapi/linux/perf_event.h.
const TYPE_SOFTWARE: u32 = 1;
const SW_TASK_CLOCK: u64 = 1;
const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_CALLCHAIN: u64 = 1 << 5;
const SAMPLE_REGS_USER: u64 = 1 << 12;
const RECORD_SAMPLE: u32 = 9;
/// Words of a call chain above this one are marks (`PERF_CONTEXT_MAX`).
const CONTEXT_MAX: u64 = (-4095_i64).cast_unsigned();
const FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// `PERF_EVENT_IOC_REFRESH`: so many samples, and no more.
const IOC_REFRESH: libc::c_ulong = 0x2402;
/// The number of the stack pointer (arch/x86/include/uapi/asm/perf_regs.h, arch/arm64 likewise).
const STACK_POINTER: u32 = if cfg!(target_arch = "aarch64") { 31 } else { 7 };
/// Where `perf_event_mmap_page` has `data_head`.
const DATA_HEAD: usize = 1024;

/// What a thread was doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSample {
    /// Its stack pointer.
    pub sp: u64,
    /// Where it was, and what its callers return to, by frame pointers.
    pub stack: Vec<u64>,
}

/// One sample of each of these threads of a process that runs in user mode within 20 ms; of the first 64. A thread of another
/// process is never told of, whoever named it.
///
/// # Errors
///
/// If no thread can be observed at all; as the kernel says.
pub fn sample_threads(process: u32, threads: &[u32]) -> io::Result<BTreeMap<u32, CpuSample>> {
    let mut failure = None;
    let mut events = Vec::new();
    for thread in threads.iter().take(MOST_THREADS) {
        match Event::open(*thread) {
            Ok(event) => events.push((*thread, event)),
            Err(error) => failure = Some(error),
        }
    }
    if let (true, Some(error)) = (events.is_empty(), failure) {
        return Err(error);
    }
    let end = Instant::now() + LONGEST;
    let mut found = BTreeMap::new();
    while !events.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let mut wait: Vec<_> =
            events.iter().map(|(_, event)| PollFd::new(&event.fd, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut wait, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Those of threads that have ended stay readable without a sample.
        let done: Vec<bool> = wait.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(wait);
        let mut done = done.into_iter();
        events.retain(|(thread, event)| {
            let sample = event.sample(process, *thread);
            let over = done.next().unwrap_or(false) || sample.is_some();
            found.extend(sample.map(|sample| (*thread, sample)));
            !over
        });
        if left.is_zero() {
            break;
        }
    }
    Ok(found)
}

/// A thread being observed, and the ring that its sample comes in: one page of figures, one of data.
struct Event {
    fd: OwnedFd,
    ring: NonNull<AtomicU64>,
    page: usize,
}

impl Event {
    fn open(thread: u32) -> io::Result<Self> {
        // SAFETY: a structure of plain numbers; all zero is what the kernel wants of members that aren't used.
        let mut attr: perf_event_attr = unsafe { core::mem::zeroed() };
        attr.type_ = TYPE_SOFTWARE;
        attr.size = u32::try_from(size_of::<perf_event_attr>()).map_err(io::Error::other)?;
        attr.config = SW_TASK_CLOCK;
        attr.__bindgen_anon_1.sample_period = PERIOD_NS;
        attr.sample_type = SAMPLE_TID | SAMPLE_CALLCHAIN | SAMPLE_REGS_USER;
        attr.sample_regs_user = 1 << STACK_POINTER;
        attr.sample_max_stack = MOST_FRAMES as u16;
        attr.__bindgen_anon_2.wakeup_events = 1;
        attr.set_disabled(1);
        attr.set_exclude_kernel(1);
        attr.set_exclude_hv(1);
        attr.set_exclude_callchain_kernel(1);
        let thread = libc::pid_t::try_from(thread).map_err(io::Error::other)?;
        // SAFETY: the attributes live through the call, and say themselves how long they are.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attr, thread, -1, -1, FLAG_FD_CLOEXEC)
        };
        let fd = match i32::try_from(fd) {
            // SAFETY: a new descriptor that nobody else knows.
            Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
            _ => return Err(io::Error::last_os_error()),
        };
        let page = rustix::param::page_size();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever the kernel likes.
        let ring = unsafe { mmap(std::ptr::null_mut(), 2 * page, protection, MapFlags::SHARED, &fd, 0) }?;
        let ring = NonNull::new(ring.cast()).ok_or(io::ErrorKind::InvalidData)?;
        let event = Self { fd, ring, page };
        // SAFETY: a command of this kind of descriptor, which takes a number.
        if unsafe { libc::ioctl(event.fd.as_raw_fd(), IOC_REFRESH as _, 1) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(event)
    }

    /// A word of the mapping; zero behind the end.
    fn word(&self, offset: usize, order: Ordering) -> u64 {
        if !offset.is_multiple_of(8) || offset + 8 > 2 * self.page {
            return 0;
        }
        // SAFETY: inside the mapping, which lives as long as this, and aligned; the kernel writes it too, hence atomic.
        unsafe { self.ring.byte_add(offset).as_ref() }.load(order)
    }

    /// The first sample, if there is one and it is of this thread of this process.
    fn sample(&self, process: u32, thread: u32) -> Option<CpuSample> {
        let head = self.word(DATA_HEAD, Ordering::Acquire).min(self.page as u64);
        let mut at = 0;
        while at + 8 <= head {
            let word = |place: u64| self.word(self.page + (at + place * 8) as usize, Ordering::Relaxed);
            let header = word(0);
            let (kind, bytes) = (header as u32, header >> 48);
            if kind == RECORD_SAMPLE && at + bytes <= head {
                // Process and thread, how many addresses, these, which registers, these.
                let count = word(2);
                let whose = (word(1) as u32, (word(1) >> 32) as u32);
                if whose != (process, thread) || count > MOST_FRAMES + 8 || (count + 4) * 8 > bytes {
                    return None;
                }
                let stack = (0..count).map(|index| word(3 + index)).filter(|address| *address < CONTEXT_MAX);
                let sp = if word(3 + count) == 0 { 0 } else { word(4 + count) };
                return Some(CpuSample { sp, stack: stack.collect() });
            }
            if bytes == 0 {
                return None;
            }
            at += bytes;
        }
        None
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nobody refers to any more.
        let _unmapped = unsafe { munmap(self.ring.as_ptr().cast(), 2 * self.page) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::skip;

    /// This thread computes while it is sampled.
    fn sample_this_thread(process: u32) -> io::Result<BTreeMap<u32, CpuSample>> {
        let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let sampler = std::thread::spawn(move || sample_threads(process, &[own]));
        let local = 0_u8;
        while !sampler.is_finished() {
            std::hint::black_box(&local);
        }
        sampler.join().expect("no panic")
    }

    #[test]
    fn a_thread_of_another_process_is_not_told_of() {
        match sample_this_thread(std::os::unix::process::parent_id()) {
            Ok(samples) => assert_eq!(samples, BTreeMap::new()),
            Err(error) => skip(&format!("perf_event_open: {error}")),
        }
    }

    #[test]
    fn a_thread_that_computes_is_sampled_on_its_own_stack_if_we_may() {
        let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let local = 0_u8;
        let samples = match sample_this_thread(std::process::id()) {
            Ok(samples) => samples,
            Err(error) => return skip(&format!("perf_event_open: {error}")),
        };
        let sample = samples.get(&own).expect("a sample");
        assert!(!sample.stack.is_empty());
        assert!(sample.sp.abs_diff(&raw const local as u64) < 1 << 20);
    }
}
