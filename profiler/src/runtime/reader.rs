//! Work that may hang: reading a target's memory waits for pages that a file system in user space (FUSE) or a handler of
//! page faults (userfaultfd) must bring, and nobody can be sure that those answer.

use std::{
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel},
    },
    time::Duration,
};

/// Threads that may hang at a time. What they wait for ends with the target at the latest.
const MOST: usize = 16;

/// Single readings that may be under way at a time, those that hang included.
const MOST_AT_ONCE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one job after the other, and is left behind when one of them doesn't end in time.
#[derive(Debug, Default)]
pub struct Reader {
    thread: Option<SyncSender<Job>>,
    /// Threads that haven't ended: the one in use, and those that hang.
    alive: Arc<AtomicUsize>,
}

/// How a job went.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It was done.
    Done(T),
    /// It isn't done yet: the answer may still come. The thread is left behind; who asked counts it, for what it was lost.
    Late(Receiver<T>),
    /// It can't be done: no thread can be had, or too many hang already.
    Refused(String),
}

impl Reader {
    /// Does a job, and waits no longer than `patience` for it.
    pub fn ask<T: Send + 'static>(
        &mut self,
        patience: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        let (answer, result) = sync_channel(1);
        let job: Job = Box::new(move || {
            // Whoever asked may have ended.
            let _heard = answer.send(job());
        });
        let thread = match self.thread.take().map_or_else(|| self.start(), Ok) {
            Ok(thread) => thread,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        if thread.send(job).is_err() {
            return Outcome::Refused("the thread that reads memory has ended".to_owned());
        }
        match result.recv_timeout(patience) {
            Ok(done) => {
                self.thread = Some(thread);
                Outcome::Done(done)
            }
            // It is told to end when it can, by nobody being there to give it more.
            Err(RecvTimeoutError::Timeout) => Outcome::Late(result),
            Err(RecvTimeoutError::Disconnected) => Outcome::Refused("reading memory has failed".to_owned()),
        }
    }

    fn start(&self) -> io::Result<SyncSender<Job>> {
        if self.alive.load(Ordering::Relaxed) >= MOST {
            return Err(io::Error::other(format!("{MOST} readings hang already")));
        }
        let (jobs, queue) = sync_channel::<Job>(1);
        let alive = Alive::new(&self.alive);
        std::thread::Builder::new().name("profiler-memory".to_owned()).spawn(move || {
            let _alive = alive;
            queue.into_iter().for_each(|job| job());
        })?;
        Ok(jobs)
    }
}

/// Counts a thread for as long as it lives, however it ends.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does one job on a thread of its own, which is left behind if that takes longer than `patience`.
///
/// # Errors
///
/// If it isn't done in time, or there is no thread to be had: in words.
pub fn once<T: Send + 'static>(
    patience: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    static ALIVE: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
    if ALIVE.load(Ordering::Relaxed) >= MOST_AT_ONCE {
        return Err(format!("{MOST_AT_ONCE} readings are under way or hang already: try again later"));
    }
    let alive = Alive::new(&ALIVE);
    let (answer, result) = channel();
    let work = move || {
        let _alive = alive;
        // Whoever asked may have given up.
        let _heard = answer.send(job());
    };
    let start = std::thread::Builder::new().name("profiler-memory".to_owned()).spawn(work);
    start.map_err(|error| format!("can't start a thread: {error}"))?;
    result.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => format!("no answer within {} s", patience.as_secs()),
        RecvTimeoutError::Disconnected => "reading has failed".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn done<T>(outcome: Outcome<T>) -> Option<T> {
        match outcome {
            Outcome::Done(value) => Some(value),
            Outcome::Late(_) | Outcome::Refused(_) => None,
        }
    }

    #[test]
    fn a_job_that_hangs_is_left_behind_and_the_next_one_is_done() {
        let mut reader = Reader::default();
        assert_eq!(done(reader.ask(SOON, || 1)), Some(1));
        let (release, hang) = channel::<()>();
        let outcome = reader.ask(Duration::from_millis(10), move || hang.recv().map_or(2, |()| 3));
        let Outcome::Late(answer) = outcome else { panic!("{outcome:?}") };
        assert_eq!(done(reader.ask(SOON, || 4)), Some(4));
        drop(release);
        assert_eq!(answer.recv_timeout(SOON), Ok(2), "its answer still comes");
    }

    #[test]
    fn no_more_threads_hang_than_are_allowed() {
        let mut reader = Reader::default();
        let mut holds = Vec::new();
        for _ in 0..MOST {
            let (release, hang) = channel::<()>();
            holds.push((release, reader.ask(Duration::from_millis(1), move || hang.recv().is_ok())));
        }
        assert!(matches!(reader.ask(SOON, || 1), Outcome::Refused(_)));
        holds.clear();
        let again = (0..2000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            done(reader.ask(SOON, || 1))
        });
        assert_eq!(again, Some(1), "those that end make room");
    }

    #[test]
    fn a_job_that_panics_is_refused_and_not_waited_for() {
        let mut reader = Reader::default();
        assert!(matches!(reader.ask::<()>(SOON, || panic!("as the test wants it")), Outcome::Refused(_)));
        assert_eq!(done(reader.ask(SOON, || 1)), Some(1));
    }
}
