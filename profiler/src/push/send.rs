//! The thread that sends: what is new at once, the backlog oldest first and not faster than a server bears beside its work.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    board::{Batch, Board, FRESH, Stage},
    client::Client,
    delivery::{Delivery, Outcome, Wait, Wire},
    figures::{PushFigures, Requests},
    policy::{Answer, Api, Backoff, Meaning, meaning},
    quarantine::Quarantine,
    spool::{BatchId, Spool},
    windows::{BATCH_BYTES, BATCH_LINES},
};
use crate::export::line_protocol;

/// Points of the backlog that are sent per second, unless told otherwise, at most.
pub const BACKLOG_RATE: f64 = 20_000.0;
/// Something may have happened that nobody has told: look this often.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked for points that are too old.
const EXPIRY: Duration = Duration::from_secs(60);
/// No pause after a failure is shorter.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// Files of the spool that are looked at for one request.
const GATHERED: usize = 512;

/// See the module.
pub struct Sender {
    client: Client,
    delivery: Delivery,
    backoff: Backoff,
    /// Whether lines have unsigned integers, as far as that is known.
    unsigned: Unsigned,
    spool: Option<Arc<Spool>>,
    board: Arc<Board>,
    quarantine: Quarantine,
    /// Where points wait, for people.
    place: String,
    /// New batches in the spool, oldest first.
    fresh: Vec<BatchId>,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    /// Points of the backlog that are sent per second, at most.
    backlog_rate: f64,
    /// Nothing of the backlog is sent before.
    backlog_not_before: Instant,
    /// When it is looked for points that are too old.
    expiry: Instant,
    /// Files that couldn't be read or removed: not touched before that.
    left_alone: HashSet<BatchId>,
    /// People were told that something is wrong.
    told: Option<String>,
}

/// Whether lines have unsigned integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsigned {
    /// They don't, or the server takes them.
    Fine,
    /// They do, and the server wasn't asked yet.
    Unasked,
    /// They do, and the server doesn't take them: it gets integers. It never had others in these fields, so their type stays.
    Refused,
}

/// Counts what requests come to.
struct Counting<'a> {
    client: &'a mut Client,
    requests: Requests,
}

impl Wire for Counting<'_> {
    fn write(&mut self, lines: &str) -> Answer {
        let answer = self.client.write(lines);
        // After an answer that speaks of no place, another generation may be there: none is known then.
        let api = Wire::api(self.client).unwrap_or(Api::V1);
        let count = match meaning(api, &answer, &[lines]) {
            Meaning::Stored => &mut self.requests.stored,
            Meaning::Rejected { .. } => &mut self.requests.rejected,
            Meaning::TooLarge { .. } => &mut self.requests.too_large,
            Meaning::Misconfigured { .. } => &mut self.requests.misconfigured,
            Meaning::Later { .. } if answer.result.is_err() => &mut self.requests.unreachable,
            Meaning::Later { .. } => &mut self.requests.busy,
            Meaning::Broken { .. } => &mut self.requests.broken,
        };
        *count += 1;
        answer
    }

    fn api(&self) -> Option<Api> {
        Wire::api(self.client)
    }
}

/// What is to be sent in one go.
enum Job {
    /// Files of the spool.
    Spooled(Vec<BatchId>, String),
    /// What only memory has.
    Memory(Arc<Batch>),
}

impl Sender {
    /// Prepares.
    pub fn new(
        client: Client,
        unsigned: bool,
        spool: Option<Arc<Spool>>,
        board: Arc<Board>,
        quarantine: Quarantine,
        place: String,
        backlog_rate: f64,
    ) -> Self {
        let seed = u64::from(std::process::id()) ^ super::now_ns();
        Self {
            client,
            delivery: Delivery::default(),
            backoff: Backoff::new(SHORTEST_PAUSE, Backoff::CAP, seed),
            unsigned: if unsigned { Unsigned::Unasked } else { Unsigned::Fine },
            spool,
            board,
            quarantine,
            place,
            fresh: Vec::new(),
            not_before: None,
            backlog_rate,
            backlog_not_before: Instant::now(),
            expiry: Instant::now(),
            left_alone: HashSet::new(),
            told: None,
        }
    }

    /// Sends until the end.
    pub fn run(mut self) {
        loop {
            if self.is_over() {
                self.board.over();
                return;
            }
            let (now, turn) = (Instant::now(), self.board.turn());
            if let Some(at) = self.not_before.filter(|at| *at > now) {
                self.board.wait(turn, (at - now).min(LOOK));
                continue;
            }
            if let Some(spool) = self.spool.as_ref().filter(|_| now >= self.expiry) {
                spool.expire();
                self.left_alone.clear();
                self.expiry = now + EXPIRY;
            }
            match self.next() {
                Some(job) => self.send(&job),
                None => self.idle(turn),
            }
        }
    }

    /// Whether there is nothing more to be done: everything is sent, or the time is over, or nobody answers.
    fn is_over(&self) -> bool {
        match self.board.stage() {
            Stage::Over => true,
            Stage::Draining(until) => {
                let rest =
                    self.board.keeps() || self.spool.as_ref().is_some_and(|spool| spool.oldest().is_some());
                !rest || Instant::now() >= until || self.not_before.is_some_and(|at| at >= until)
            }
            Stage::Running | Stage::Closing => false,
        }
    }

    fn idle(&self, turn: u64) {
        let backlog = self.spool.as_ref().is_some_and(|spool| spool.oldest().is_some());
        let paced = self.backlog_not_before.saturating_duration_since(Instant::now());
        self.board.wait(turn, if backlog && !paced.is_zero() { paced.min(LOOK) } else { LOOK });
    }

    /// New batches first, then what the disk hasn't taken, then the backlog at its rate.
    fn next(&mut self) -> Option<Job> {
        self.fresh.extend(self.board.take_fresh());
        // The rest is backlog.
        let surplus = self.fresh.len().saturating_sub(FRESH);
        self.fresh.drain(..surplus);
        while !self.fresh.is_empty() {
            let fresh = std::mem::take(&mut self.fresh);
            let (job, rest) = self.gather(fresh);
            self.fresh = rest;
            if job.is_some() {
                return job;
            }
        }
        if let Some(batch) = self.board.only_in_memory(self.spool.is_none()) {
            return Some(Job::Memory(batch));
        }
        while Instant::now() >= self.backlog_not_before
            && let Some(ids) = self.backlog()
        {
            let (job, _) = self.gather(ids);
            if let Some(Job::Spooled(ids, _)) = &job {
                let points: f64 = ids.iter().map(|id| f64::from(id.points)).sum();
                self.backlog_not_before =
                    Instant::now() + Duration::from_secs_f64(points / self.backlog_rate);
                return job;
            }
        }
        None
    }

    /// The oldest files, but for those that are left alone.
    fn backlog(&self) -> Option<Vec<BatchId>> {
        let mut ids = self.spool.as_ref()?.ids(GATHERED + self.left_alone.len());
        ids.retain(|id| !self.left_alone.contains(id));
        (!ids.is_empty()).then_some(ids)
    }

    /// As many of these files as go into one request, and those that don't.
    fn gather(&mut self, ids: Vec<BatchId>) -> (Option<Job>, Vec<BatchId>) {
        let Some(spool) = &self.spool else { return (None, Vec::new()) };
        let (mut taken, mut text, mut points) = (Vec::new(), String::new(), 0u32);
        let mut ids = ids.into_iter();
        let mut rest = Vec::new();
        for id in ids.by_ref() {
            if !taken.is_empty() && points.saturating_add(id.points) > BATCH_LINES {
                rest.push(id);
                break;
            }
            match spool.read(id) {
                // One request rather than a full one and a tiny one.
                Ok(Some(lines)) if !taken.is_empty() && text.len() + lines.len() > BATCH_BYTES => {
                    rest.push(id);
                    break;
                }
                Ok(Some(lines)) => {
                    points = points.saturating_add(id.points);
                    text.push_str(&lines);
                    // What was left of a batch has no newline at its end: two lines would become one that nobody can read.
                    if !text.ends_with('\n') {
                        text.push('\n');
                    }
                    taken.push(id);
                }
                // It has been sent with the backlog, was dropped, or was set aside.
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!("{error}");
                    // A disk that can't be read now may be later; the others needn't wait for that.
                    self.left_alone.insert(id);
                }
            }
            if text.len() >= BATCH_BYTES {
                break;
            }
        }
        rest.extend(ids);
        (if taken.is_empty() { None } else { Some(Job::Spooled(taken, text)) }, rest)
    }

    fn send(&mut self, job: &Job) {
        let text = match job {
            Job::Spooled(_, text) => text,
            Job::Memory(batch) => &batch.text,
        };
        if self.unsigned == Unsigned::Unasked && !self.ask_for_unsigned() {
            return;
        }
        let signed = (self.unsigned == Unsigned::Refused).then(|| line_protocol::signed(text));
        let quarantine = &mut self.quarantine;
        let mut lost = 0;
        let board = &self.board;
        let mut wire = Counting { client: &mut self.client, requests: Requests::default() };
        let delivered = self.delivery.deliver(
            &mut wire,
            signed.as_ref().unwrap_or(text),
            &mut |line, reason| lost += u64::from(!quarantine.keep(line, reason)),
            &|| !matches!(board.stage(), Stage::Draining(until) if Instant::now() >= until),
        );
        let requests = wire.requests;
        if delivered.quarantined > 0 {
            self.quarantine.sync();
        }
        let progress = delivered.stored + delivered.quarantined > 0;
        self.board.count(|figures| {
            figures.stored += delivered.stored;
            figures.quarantined += delivered.quarantined - lost;
            figures.dropped.quarantine_full += lost;
            figures.requests.add(&requests);
        });
        match delivered.outcome {
            Outcome::Done => {
                self.done(job);
                self.well();
            }
            Outcome::Later { wait, reason, rest } => {
                self.keep_rest(job, rest, progress);
                match wait {
                    Wait::No => self.well(),
                    Wait::Backoff(at_least) => {
                        let pause = self.backoff.next(at_least);
                        self.later(pause, reason, false);
                    }
                }
            }
            Outcome::Misconfigured { reason, rest } => {
                self.keep_rest(job, rest, progress);
                let pause = self.backoff.misconfigured();
                self.later(pause, reason, true);
            }
        }
    }

    /// Finds out whether the server takes unsigned integers. False if it doesn't say: then nothing may be sent to it yet, for
    /// what it doesn't take it would refuse for good.
    fn ask_for_unsigned(&mut self) -> bool {
        match self.client.knows_unsigned() {
            Ok(true) => self.unsigned = Unsigned::Fine,
            Ok(false) => {
                tracing::warn!("this InfluxDB takes no unsigned integers: it gets integers");
                self.unsigned = Unsigned::Refused;
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
            }
        }
        self.unsigned != Unsigned::Unasked
    }

    /// Everything of it is stored, or in quarantine.
    fn done(&mut self, job: &Job) {
        match (job, &self.spool) {
            (Job::Spooled(ids, _), Some(spool)) => {
                for id in ids {
                    if let Err(error) = spool.remove(*id) {
                        // It is sent again in a while, which changes nothing.
                        tracing::warn!("{error}");
                        self.left_alone.insert(*id);
                    }
                }
            }
            (Job::Memory(batch), _) => self.board.sent(batch),
            (Job::Spooled(..), None) => {}
        }
    }

    /// If a part is stored (or in quarantine) already, only the rest is sent again. What has to be written first is written
    /// before the old is removed. Without progress the batches stay as they are, and where they are: oldest first.
    fn keep_rest(&mut self, job: &Job, mut rest: String, progress: bool) {
        self.board.count(|figures| figures.retries += 1);
        let points = u32::try_from(rest.lines().count()).unwrap_or(u32::MAX);
        if !progress || points == 0 {
            return;
        }
        if !rest.ends_with('\n') {
            rest.push('\n');
        }
        match (job, &self.spool) {
            (Job::Spooled(ids, _), Some(spool)) => {
                let Some(first) = ids.first() else { return };
                let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(first.time_ns);
                if spool.append(time, points, &rest).is_ok() {
                    self.done(job);
                }
            }
            (Job::Memory(batch), _) => {
                let rest = Batch { time: batch.time, closed: batch.closed, points, text: rest };
                self.board.left_of(batch, rest);
            }
            (Job::Spooled(..), None) => {}
        }
    }

    fn well(&mut self) {
        self.not_before = None;
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
        // They are backlog now: what is new then goes before them.
        self.fresh.clear();
        if self.told.as_ref() != Some(&reason) && (needs_somebody || self.told.is_none()) {
            let again = Duration::from_secs(wait.as_secs().max(1));
            tracing::warn!(
                "InfluxDB takes no points: {reason}; they wait in {}, tried again in {again:?}",
                self.place
            );
            self.told = Some(reason.clone());
        }
        self.board.count(|figures: &mut PushFigures| {
            figures.up = false;
            figures.trouble = needs_somebody.then_some(reason);
        });
    }
}
