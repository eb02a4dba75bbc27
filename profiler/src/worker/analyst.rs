//! The client for analyses: a process of its own for each of them.

use std::{
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use super::{
    Analysed, Limits,
    believable::{believable, believable_description},
    process::{Death, Running},
    protocol::{Reply, Request},
};
use crate::{binary::describe::Description, text::clean_to};

/// Longest explanation that is kept, bytes.
const WORDS_LIMIT: usize = 1024;

/// Why there is no analysis of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnalysis {
    /// The process couldn't be started: not the file's fault.
    #[error("the process that analyses files can't be started: {0}")]
    Unstartable(String),
    /// Time was up.
    #[error("its analysis was not finished within {} s", .0.as_secs())]
    Late(Duration),
    /// The process made a system call that it must not make.
    #[error("the process that analysed it did what it must not, and was killed for it")]
    Refused,
    /// Somebody killed the process, and another one that was to do the same: the system, if memory was short.
    #[error("the process that analysed it was killed")]
    Killed,
    /// The process ended by itself: out of memory, or by a defect.
    #[error("the process that analysed it has crashed or was out of memory")]
    Crashed,
    /// The process has met a defect of ours.
    #[error("its analysis has failed: a defect of profiler, or damage in the file")]
    Failed,
    /// The process has answered what no analysis comes to.
    #[error("its analysis made no sense")]
    Senseless,
}

/// Has files analysed. Each analysis is made by a new process without any rights, which knows nothing of other targets' files:
/// one that was taken over by what it reads can say what it likes about that file, and about no other.
#[derive(Debug)]
pub struct Analyst {
    limits: Limits,
    started: u64,
}

impl Analyst {
    /// Nothing is started yet.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, started: 0 }
    }

    /// How many processes were started so far.
    pub const fn started(&self) -> u64 {
        self.started
    }

    /// Analyses a file that has so many bytes, with the help of a debug file if one is given. Takes no longer than
    /// [`Limits::analyse`], twice that if somebody kills the process.
    ///
    /// # Errors
    ///
    /// If there is no answer: see [`NoAnalysis`].
    pub fn analyse(
        &mut self,
        file: BorrowedFd<'_>,
        debug: Option<BorrowedFd<'_>>,
        size: u64,
        python: bool,
    ) -> Result<Analysed, NoAnalysis> {
        let files: Vec<_> = [Some(file), debug].into_iter().flatten().collect();
        match self.ask_twice(&Request::Analyse { python }, &files)? {
            Reply::Analysed(analysed) => believe(*analysed, size).ok_or(NoAnalysis::Senseless),
            Reply::Failed => Err(NoAnalysis::Failed),
            _ => Err(NoAnalysis::Senseless),
        }
    }

    /// Says what a program of so many bytes was built from. Takes as long as [`Analyst::analyse`] at most.
    ///
    /// # Errors
    ///
    /// If there is no answer: see [`NoAnalysis`]. What is damaged in the file is no error: [`Description::trouble`] tells.
    pub fn describe(&mut self, file: BorrowedFd<'_>, size: u64) -> Result<Description, NoAnalysis> {
        match self.ask_twice(&Request::Describe, &[file])? {
            Reply::Described(description) => {
                believable_description(*description, size).ok_or(NoAnalysis::Senseless)
            }
            Reply::Failed => Err(NoAnalysis::Failed),
            _ => Err(NoAnalysis::Senseless),
        }
    }

    /// Asks, and once more if somebody kills the process.
    fn ask_twice(&mut self, request: &Request<'_>, files: &[BorrowedFd<'_>]) -> Result<Reply, NoAnalysis> {
        let first = self.ask(request, files);
        if matches!(first, Err(NoAnalysis::Killed)) { self.ask(request, files) } else { first }
    }

    fn ask(&mut self, request: &Request<'_>, files: &[BorrowedFd<'_>]) -> Result<Reply, NoAnalysis> {
        let deadline = Instant::now() + self.limits.analyse;
        let start = Running::start(&self.limits);
        let mut running = start.map_err(|error| NoAnalysis::Unstartable(error.to_string()))?;
        self.started += 1;
        // Dropping it ends it.
        running.ask(request, files, deadline).map_err(|error| self.why(running, &error))
    }

    fn why(&self, running: Running, error: &io::Error) -> NoAnalysis {
        let senseless = error.kind() == io::ErrorKind::InvalidData;
        match running.bury(error).0 {
            Death::Late => NoAnalysis::Late(self.limits.analyse),
            Death::Refused => NoAnalysis::Refused,
            Death::Killed => NoAnalysis::Killed,
            Death::Crashed if senseless => NoAnalysis::Senseless,
            Death::Crashed => NoAnalysis::Crashed,
        }
    }
}

fn believe(analysed: Analysed, size: u64) -> Option<Analysed> {
    let clean = |words: String| clean_to(&words, WORDS_LIMIT);
    let image = match analysed.image {
        Ok(image) => Ok(believable(image, size)?),
        Err(words) => Err(clean(words)),
    };
    Some(Analysed { image, debug_problem: analysed.debug_problem.map(clean) })
}
