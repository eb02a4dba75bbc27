//! The thread that sends: what is new at once, the backlog oldest first and not faster than a server bears beside its work.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    board::{Batch, Board, Chunk, Order, Stage},
    client::Client,
    delivery::{Delivered, Delivery, Outcome, Wait, Wire},
    figures::Requests,
    policy::{Answer, Api, Backoff, Meaning, meaning},
    quarantine::Quarantine,
    spool::Spool,
    windows::{BATCH_BYTES, BATCH_LINES},
};
use crate::export::line_protocol;

/// Points of the backlog that are sent per second, unless told otherwise, at most.
pub const BACKLOG_RATE: f64 = 20_000.0;
/// Something may have happened that nobody has told: look this often.
const LOOK: Duration = Duration::from_secs(1);
/// Lines on which the server fails are tried again after this, among others.
const DOUBTFUL: Duration = Duration::from_secs(60);
/// No pause after a failure is shorter.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);

/// See the module.
pub struct Sender {
    client: Client,
    delivery: Delivery,
    backoff: Backoff,
    /// Whether lines have unsigned integers, as far as that is known, and of which generation of the server.
    unsigned: Unsigned,
    board: Arc<Board>,
    /// Where points wait; `None`: in memory.
    spool: Option<Arc<Spool>>,
    /// The same, for people.
    place: String,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    /// Points of the backlog that are sent per second, at most.
    backlog_rate: f64,
    /// Nothing of the backlog is sent before.
    backlog_not_before: Instant,
    /// People were told that something is wrong.
    told: Option<String>,
    /// The end has been noticed.
    draining: bool,
}

/// Whether lines have unsigned integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsigned {
    /// They don't.
    None,
    /// They do, and the server wasn't asked yet.
    Unasked,
    /// They do, and the server takes them, as long as it is this one.
    Taken(u64),
    /// They do, and the server doesn't take them: it gets integers. It never had others in these fields, so their type stays.
    Refused(u64),
}

/// What is to be sent in one go.
enum Job {
    /// What is on disk.
    Spooled(Chunk),
    /// What only memory has.
    Memory(Arc<Batch>),
}

/// Counts what requests come to.
struct Counting<'a> {
    client: &'a mut Client,
    requests: Requests,
}

impl Wire for Counting<'_> {
    fn write(&mut self, lines: &str) -> Answer {
        let answer = self.client.write(lines);
        // What must be mended may make the client forget what it has found.
        let meaning = meaning(Wire::api(self.client).unwrap_or(Api::V1), &answer, &[lines]);
        let requests = &mut self.requests;
        let count = match meaning {
            Meaning::Misconfigured { .. } => &mut requests.misconfigured,
            _ if answer.result.is_err() => &mut requests.unreachable,
            Meaning::Stored => &mut requests.stored,
            Meaning::Rejected { .. } => &mut requests.rejected,
            Meaning::TooLarge { .. } => &mut requests.too_large,
            Meaning::Later { .. } => &mut requests.busy,
            Meaning::Broken { .. } => &mut requests.broken,
        };
        *count += 1;
        answer
    }

    fn api(&self) -> Option<Api> {
        Wire::api(self.client)
    }
}

impl Sender {
    /// Prepares.
    pub fn new(
        client: Client,
        unsigned: bool,
        spool: Option<Arc<Spool>>,
        board: Arc<Board>,
        place: String,
        backlog_rate: f64,
    ) -> Self {
        let seed = u64::from(std::process::id()) ^ super::now_ns();
        Self {
            client,
            delivery: Delivery::default(),
            backoff: Backoff::new(SHORTEST_PAUSE, Backoff::CAP, seed),
            unsigned: if unsigned { Unsigned::Unasked } else { Unsigned::None },
            board,
            spool,
            place,
            not_before: None,
            backlog_rate,
            backlog_not_before: Instant::now(),
            told: None,
            draining: false,
        }
    }

    /// Sends until the end.
    pub fn run(&mut self) {
        loop {
            let (now, turn) = (Instant::now(), self.board.turn());
            if self.is_over() {
                return;
            }
            if let Some(at) = self.not_before.filter(|at| *at > now) {
                self.board.wait(turn, (at - now).min(LOOK));
                continue;
            }
            match self.next() {
                Some(job) => self.send(&job),
                None => self.idle(turn),
            }
        }
    }

    /// Whether there is nothing more to be done: everything is sent, or the time is over, or nobody answers.
    fn is_over(&mut self) -> bool {
        match self.board.stage() {
            Stage::Over => true,
            Stage::Draining(until) => {
                if !std::mem::replace(&mut self.draining, true) {
                    // The last chance of what is only in memory: whatever was wrong may be mended.
                    self.not_before = None;
                }
                let rest =
                    self.board.holds() || self.spool.as_ref().is_some_and(|spool| spool.oldest().is_some());
                !rest || Instant::now() >= until || self.not_before.is_some_and(|at| at >= until)
            }
            Stage::Running | Stage::Closing => false,
        }
    }

    fn idle(&self, turn: u64) {
        let paced = self.backlog_not_before.saturating_duration_since(Instant::now());
        self.board.wait(turn, if paced.is_zero() { LOOK } else { paced.min(LOOK) });
    }

    /// New batches first, then what the disk hasn't taken, then the backlog at its rate.
    fn next(&mut self) -> Option<Job> {
        if let Some(chunk) = self.board.take_fresh(u64::from(BATCH_LINES), BATCH_BYTES) {
            return Some(Job::Spooled(chunk));
        }
        let (batch, hangs) = self.board.only_in_memory();
        if hangs {
            tracing::error!(
                "the disk of {} doesn't answer: points wait in memory, where a kill loses them, and are sent from there",
                self.place
            );
        }
        if let Some(batch) = batch {
            return Some(Job::Memory(batch));
        }
        let waits = self.spool.as_ref().is_some_and(|spool| spool.oldest().is_some());
        if !waits || Instant::now() < self.backlog_not_before {
            return None;
        }
        let chunk = self.board.take_backlog()?;
        let pause = Duration::from_secs_f64(chunk.points as f64 / self.backlog_rate);
        self.backlog_not_before = Instant::now() + pause;
        Some(Job::Spooled(chunk))
    }

    fn send(&mut self, job: &Job) {
        let text = match job {
            Job::Spooled(chunk) => &chunk.text,
            Job::Memory(batch) => &batch.text,
        };
        if !self.knows_about_unsigned() {
            self.untouched(job);
            return;
        }
        let signed = matches!(self.unsigned, Unsigned::Refused(_)).then(|| line_protocol::signed(text));
        let mut aside: Vec<(String, String)> = Vec::new();
        let board = &self.board;
        let mut wire = Counting { client: &mut self.client, requests: Requests::default() };
        let delivered = self.delivery.deliver(
            &mut wire,
            signed.as_ref().unwrap_or(text),
            &mut |line, reason| aside.push((line.to_owned(), reason.to_owned())),
            &|| !matches!(board.stage(), Stage::Draining(until) if Instant::now() >= until),
        );
        let requests = wire.requests;
        self.board.count(|figures| {
            figures.stored += delivered.stored;
            figures.requests.add(&requests);
        });
        self.conclude(job, delivered, aside);
    }

    /// What becomes of a job, and of the pace.
    fn conclude(&mut self, job: &Job, delivered: Delivered, aside: Vec<(String, String)>) {
        let (stored, progress) = (delivered.stored > 0, delivered.stored + delivered.quarantined > 0);
        if stored {
            self.well();
        }
        match delivered.outcome {
            Outcome::Done => {
                self.not_before = None;
                self.settle(job, None, aside);
            }
            Outcome::Doubtful { reason, rest } => {
                tracing::debug!("InfluxDB fails on single lines: {reason}");
                self.not_before = None;
                self.settle(job, Some((rest, Some(Instant::now() + DOUBTFUL))), aside);
            }
            // Lines on which the server fails, and no others beside them: nobody waits for these.
            Outcome::Later { rest, .. }
                if matches!(job, Job::Memory(batch) if batch.after.is_some()) && !stored =>
            {
                self.settle(job, Some((rest, Some(Instant::now() + DOUBTFUL))), aside);
            }
            Outcome::Later { wait, reason, rest } => {
                self.rest(job, rest, progress, aside);
                match wait {
                    Wait::No => self.not_before = None,
                    Wait::Backoff(at_least) => {
                        let pause = self.backoff.next(at_least);
                        self.later(pause, reason, false);
                    }
                }
            }
            Outcome::Misconfigured { reason, rest } => {
                self.rest(job, rest, progress, aside);
                let pause = self.backoff.misconfigured();
                self.later(pause, reason, true);
            }
        }
    }

    /// If a part is stored (or refused for good) already, only the rest is sent again. Without progress everything stays
    /// where it is: oldest first.
    fn rest(&self, job: &Job, rest: String, progress: bool, aside: Vec<(String, String)>) {
        self.board.count(|figures| figures.retries += 1);
        if progress {
            self.settle(job, Some((rest, None)), aside);
        } else {
            self.untouched(job);
        }
    }

    fn untouched(&self, job: &Job) {
        match job {
            Job::Spooled(_) => self.board.dealt_with([]),
            Job::Memory(_) => self.board.not_sent(),
        }
    }

    /// Done, but for `rest` (not to be sent before a moment, if that is given) and what is to be set aside.
    fn settle(&self, job: &Job, rest: Option<(String, Option<Instant>)>, aside: Vec<(String, String)>) {
        let rest = rest.filter(|(text, _)| !text.trim().is_empty()).map(|(text, after)| {
            // Whole lines, for what follows them in a request.
            let text = format!("{}\n", text.trim_end_matches('\n'));
            let points = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
            let time = match job {
                Job::Spooled(chunk) => chunk.ids.first().map_or_else(SystemTime::now, |id| id.time()),
                Job::Memory(batch) => batch.time,
            };
            Batch { time, after, points, text }
        });
        match job {
            Job::Spooled(chunk) => {
                // What is set aside is written before it goes from where it was.
                let aside = (!aside.is_empty()).then_some(Order::SetAside(aside));
                let ids = chunk.ids.clone();
                let done = match rest {
                    Some(rest) => Order::Replace(ids, rest),
                    None => Order::Remove(ids),
                };
                self.board.dealt_with(aside.into_iter().chain([done]));
            }
            Job::Memory(batch) => {
                if !aside.is_empty() && self.spool.is_some() {
                    self.board.dealt_with([Order::SetAside(aside)]);
                } else if !aside.is_empty() {
                    self.lose(&aside);
                }
                self.board.sent(batch, rest);
            }
        }
    }

    /// There is no spool, and so nowhere to keep what the server refuses for good.
    fn lose(&self, aside: &[(String, String)]) {
        let mut nowhere = Quarantine::new(None);
        aside.iter().for_each(|(line, reason)| _ = nowhere.keep(line, reason));
        self.board.count(|figures| figures.dropped.quarantine_full += aside.len() as u64);
    }

    /// Finds out whether the server takes unsigned integers, if there are any. False if it doesn't say: then nothing may be sent
    /// to it yet, for what it doesn't take it would refuse for good.
    fn knows_about_unsigned(&mut self) -> bool {
        let generation = self.client.generation();
        match self.unsigned {
            Unsigned::None => return true,
            Unsigned::Taken(of) | Unsigned::Refused(of) if of == generation => return true,
            Unsigned::Taken(_) | Unsigned::Refused(_) | Unsigned::Unasked => {}
        }
        match self.client.knows_unsigned() {
            Ok(true) => self.unsigned = Unsigned::Taken(self.client.generation()),
            Ok(false) => {
                if self.unsigned == Unsigned::Unasked {
                    tracing::warn!("this InfluxDB takes no unsigned integers: it gets integers");
                }
                self.unsigned = Unsigned::Refused(self.client.generation());
            }
            Err(answer) => {
                let api = Wire::api(&self.client).unwrap_or(Api::V1);
                match meaning(api, &answer, &[]) {
                    Meaning::Misconfigured { reason } => {
                        self.board.count(|figures| figures.requests.misconfigured += 1);
                        let pause = self.backoff.misconfigured();
                        self.later(pause, reason, true);
                    }
                    Meaning::Later { at_least, reason, .. } => {
                        self.board.count(|figures| figures.requests.unreachable += 1);
                        let pause = self.backoff.next(at_least);
                        self.later(pause, reason, false);
                    }
                    _ => {
                        let pause = self.backoff.next(None);
                        self.later(
                            pause,
                            "it doesn't say whether it takes unsigned integers".to_owned(),
                            false,
                        );
                    }
                }
                return false;
            }
        }
        true
    }

    /// Something was stored.
    fn well(&mut self) {
        self.backoff.reset();
        if self.told.take().is_some() {
            let waiting = self.spool.as_ref().map_or(0, |spool| spool.figures().points);
            tracing::warn!("InfluxDB takes points again; {waiting} wait in {}", self.place);
        }
        self.board.count(|figures| {
            figures.up = true;
            figures.trouble = None;
            figures.last_success = Some(SystemTime::now());
        });
    }

    /// Nothing is lost: told once for each reason, tried again later.
    fn later(&mut self, wait: Duration, reason: String, needs_somebody: bool) {
        self.not_before = Some(Instant::now() + wait);
        if self.told.as_ref() != Some(&reason) && (needs_somebody || self.told.is_none()) {
            let again = Duration::from_secs(wait.as_secs().max(1));
            tracing::warn!(
                "InfluxDB takes no points: {reason}; they wait in {}, tried again in {again:?}",
                self.place
            );
            self.told = Some(reason.clone());
        }
        self.board.count(|figures| {
            figures.up = false;
            figures.trouble = needs_somebody.then_some(reason);
        });
    }
}
