//! Which processes are observed: those that were named, those that match, and what comes of them.
//!
//! New ones are told by the kernel side's events (fork and `execve`); a slow look through `/proc` catches what events
//! have missed. The kernel side may be absent (`--alloc off --stalls off`): then only the slow look is left.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;

use crate::{
    config::{Choice, ChosenPid},
    kernel::Event,
    session::{Chosen, Session, SessionError},
    target::{GroupBy, Process, ProcessFacts, Selection, TargetError, group_name, scan},
};

/// Start times are told in hundredths of a second; two of them, in nanoseconds.
const CLOCK_GRAIN: u64 = 20_000_000;
/// Processes of which it is remembered that they couldn't be observed.
const REFUSALS: usize = 8192;
/// How often `/proc` is compared with what is observed.
const RESCAN: Duration = Duration::from_secs(10);

/// So many ancestors are remembered of whom a process may have its memory.
const ANCESTORS: usize = 4;

/// Why a process is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It was named by its id.
    Named,
    /// It matches.
    Matches,
    /// A process that is observed has forked it.
    Child,
}

/// A process whose children are followed.
#[derive(Clone)]
struct Kin {
    /// The target of its children.
    group: Arc<str>,
    /// Whose live objects its children have: those of the first of these that is observed. Itself, if it is or was, and its
    /// ancestors since the last one that has replaced its program.
    heir_of: Vec<u32>,
}

/// How a process came to be observed.
struct Origin {
    why: Why,
    /// The target that it belongs to if nothing else is wished.
    group: Option<Arc<str>>,
    /// From when on its calls should have been counted, if that is known.
    at_ns: Option<u64>,
    /// Whose live objects it has: as in [`Kin`].
    heir_of: Vec<u32>,
}

/// Keeps the observed processes in step with the wish.
pub struct Chooser {
    choice: Choice,
    why: HashMap<u32, Why>,
    /// By id, until their end is told: also those that ended before they could be observed, as their children don't.
    family: HashMap<u32, Kin>,
    /// By id and start time: those that couldn't be observed, and are counted.
    refused: HashSet<(u32, u64)>,
    next_scan: Instant,
}

impl Chooser {
    /// Nothing is observed yet.
    pub fn new(choice: Choice) -> Self {
        Self {
            choice,
            why: HashMap::new(),
            family: HashMap::new(),
            refused: HashSet::new(),
            next_scan: Instant::now() + RESCAN,
        }
    }

    /// Nothing is looked for; children of what is observed may be followed.
    pub fn of_children(children: bool) -> Self {
        Self::new(Choice { children, ..Choice::default() })
    }

    /// Whether processes are waited for that have nothing to do with those that are observed.
    pub const fn looks_for_new(&self) -> bool {
        self.choice.selection.is_some() && self.choice.newcomers
    }

    /// Whether anything can still be added. Then events of processes that aren't observed matter: those that match, and
    /// children of children that were not observed yet when they made them.
    pub const fn may_grow(&self) -> bool {
        self.looks_for_new() || self.choice.children
    }

    /// Begins with the processes that exist.
    ///
    /// # Errors
    ///
    /// If one that was named can't be observed, or nothing matches and nothing is waited for.
    pub fn begin(&mut self, session: &mut Session) -> anyhow::Result<()> {
        if self.may_grow() {
            session.prepare();
        }
        for (process, group) in self.open_named()? {
            let pid = process.pid();
            session.attach(Chosen { process, group, follow: self.choice.children })?;
            self.why.insert(pid, Why::Named);
        }
        if let Some(selection) = self.choice.selection.clone() {
            let found = scan(&selection)?;
            if self.choice.existing {
                for mut facts in found.processes {
                    let origin = Origin { why: Why::Matches, group: None, at_ns: None, heir_of: Vec::new() };
                    self.take_up(session, &mut facts, origin);
                }
            }
            if found.hidden > 0 {
                tracing::warn!(
                    "of {} processes nobody can tell whether they match: they are kept from us",
                    found.hidden
                );
            }
            if self.why.is_empty() && !self.choice.newcomers {
                bail!("no process matches {selection}: `profiler ps` lists what there is");
            }
        }
        for pid in session.followed() {
            if let Some(group) = session.group_of(pid) {
                self.note_kin(pid, group, vec![pid]);
            }
        }
        self.adopt_children(session, false)
    }

    /// Opens all named processes before anything is attached: a wrong number should cost nothing.
    fn open_named(&self) -> anyhow::Result<Vec<(Process, Arc<str>)>> {
        let mut processes = Vec::with_capacity(self.choice.pids.len());
        let mut wishes = Vec::with_capacity(self.choice.pids.len());
        for ChosenPid { pid, name } in &self.choice.pids {
            let process = Process::open(*pid)?;
            let comm = match self.choice.group_by {
                Some(by) if name.is_none() => group_name(&mut ProcessFacts::read(*pid)?, by),
                _ => process.comm()?,
            };
            wishes.push((*pid, comm, name.clone()));
            processes.push(process);
        }
        let labels = match self.choice.group_by {
            // Equal names are what grouping is for.
            Some(_) => wishes.into_iter().map(|(_, group, name)| name.unwrap_or(group)).collect(),
            None => label_targets(&wishes),
        };
        Ok(processes.into_iter().zip(labels.into_iter().map(Arc::from)).collect())
    }

    /// Observes one more process, if it still is the one that was looked at.
    fn take_up(&mut self, session: &mut Session, facts: &mut ProcessFacts, origin: Origin) {
        let Origin { why, group, at_ns, heir_of } = origin;
        let pid = facts.pid;
        if session.observes(pid) {
            return;
        }
        let group: Arc<str> = match (group, self.choice.group_by) {
            (Some(group), None) => group,
            (_, by) => group_name(facts, by.unwrap_or(GroupBy::Comm)).into(),
        };
        let process = match facts.open() {
            Ok(process) => process,
            Err(error) => return self.refuse(session, facts, &error.into()),
        };
        let chosen = Chosen { process, group: Arc::clone(&group), follow: self.choice.children };
        match session.adopt(chosen, at_ns, &heir_of) {
            Ok(()) => {
                self.why.insert(pid, why);
                let heirs = std::iter::once(pid).chain(heir_of).take(ANCESTORS).collect();
                self.note_kin(pid, group, heirs);
            }
            Err(error) => self.refuse(session, facts, &error),
        }
    }

    /// Counts a process that can't be observed, once however often it is tried.
    fn refuse(&mut self, session: &mut Session, facts: &ProcessFacts, error: &SessionError) {
        if self.refused.len() >= REFUSALS {
            self.refused.clear();
        }
        if self.refused.insert((facts.pid, facts.start_ticks)) {
            session.not_adopted(facts.pid, error);
        }
    }

    /// The children of this process will be followed, if children are.
    fn note_kin(&mut self, pid: u32, group: Arc<str>, heir_of: Vec<u32>) {
        if self.choice.children {
            self.family.insert(pid, Kin { group, heir_of });
        }
    }

    /// Something has happened to a process.
    ///
    /// # Errors
    ///
    /// If the kernel's maps can't be read or written.
    pub fn event(&mut self, session: &mut Session, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Fork { parent, child, at_ns } => {
                if let Some(Kin { group, heir_of }) = self.family.get(&parent).cloned() {
                    // Even if it is gone already: it may have children.
                    self.note_kin(child, Arc::clone(&group), heir_of.clone());
                    let (group, at_ns) = (Some(group), Some(at_ns));
                    self.consider(session, child, Origin { why: Why::Child, group, at_ns, heir_of });
                } else {
                    self.consider_stranger(session, child, at_ns);
                }
                if !session.observes(child) {
                    session.strayed(parent, child);
                }
            }
            Event::Exec { pid, at_ns, by_main_thread, .. } if session.observes(pid) => {
                session.replaced(pid, by_main_thread, at_ns)?;
                if let Some(kin) = self.family.get_mut(&pid) {
                    kin.heir_of = vec![pid];
                }
                self.reconsider(session, pid, at_ns)?;
            }
            Event::Exec { pid, at_ns, .. } => {
                if let Some(kin) = self.family.get_mut(&pid) {
                    kin.heir_of.clear();
                }
                self.consider_stranger(session, pid, at_ns);
            }
            Event::Exit { pid, status, .. } => {
                self.why.remove(&pid);
                self.family.remove(&pid);
                session.ended(pid, status);
            }
            Event::Loaded { pid, at_ns, .. } => session.loaded(pid, at_ns)?,
        }
        Ok(())
    }

    /// A process that has nothing to do with those that are observed has begun a program: should it be observed?
    fn consider_stranger(&mut self, session: &mut Session, pid: u32, at_ns: u64) {
        if self.looks_for_new() {
            let origin = Origin { why: Why::Matches, group: None, at_ns: Some(at_ns), heir_of: Vec::new() };
            self.consider(session, pid, origin);
        }
    }

    /// A process that isn't observed: should it be?
    fn consider(&mut self, session: &mut Session, pid: u32, origin: Origin) {
        let mut facts = match ProcessFacts::read(pid) {
            Ok(facts) => facts,
            // Whether it would have matched can't be told; of a child it is known.
            Err(error) if origin.why == Why::Child => return session.not_adopted(pid, &error.into()),
            Err(_) => return,
        };
        if origin.at_ns.zip(facts.started_ns()).is_some_and(|(at, started)| started > at + CLOCK_GRAIN) {
            // The one that was told of is gone, and its id belongs to another.
            return session.not_adopted(pid, &TargetError::Gone(pid).into());
        }
        let selection = self.choice.selection.as_ref();
        if origin.why == Why::Child || selection.is_some_and(|selection| selection.matches(&mut facts)) {
            self.take_up(session, &mut facts, origin);
        }
    }

    /// An observed process has replaced its program: it may have another name now, or not be meant any more.
    fn reconsider(&mut self, session: &mut Session, pid: u32, at_ns: u64) -> anyhow::Result<()> {
        let Some(why) = self.why.get(&pid).copied() else { return Ok(()) };
        let Ok(mut facts) = ProcessFacts::read(pid) else { return Ok(()) };
        let selection = self.choice.selection.as_ref();
        if why == Why::Matches && !selection.is_some_and(|selection| selection.matches(&mut facts)) {
            self.why.remove(&pid);
            self.family.remove(&pid);
            return Ok(session.release(pid)?);
        }
        let by = match (why, self.choice.group_by) {
            (Why::Matches, by) => by.unwrap_or(GroupBy::Comm),
            (Why::Child, Some(by)) => by,
            _ => return Ok(()),
        };
        if session.group_of(pid).is_some_and(|group| *group != *group_name(&mut facts, by)) {
            session.release(pid)?;
            let origin = Origin { why, group: None, at_ns: Some(at_ns), heir_of: Vec::new() };
            self.take_up(session, &mut facts, origin);
        }
        Ok(())
    }

    /// Observes the children of what is observed, and theirs. `missed`: they should have been observed from their start.
    fn adopt_children(&mut self, session: &mut Session, missed: bool) -> anyhow::Result<()> {
        if !self.choice.children {
            return Ok(());
        }
        let mut rest = scan(&Selection::default())?.processes;
        loop {
            let followed = session.followed();
            let (children, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|facts| followed.contains(&facts.parent));
            if children.is_empty() {
                return Ok(());
            }
            for mut facts in children {
                let group = session.follows(facts.parent);
                // What it has inherited can be told of a child that was just forked only.
                let at_ns = facts.started_ns().filter(|_| missed);
                self.take_up(
                    session,
                    &mut facts,
                    Origin { why: Why::Child, group, at_ns, heir_of: Vec::new() },
                );
            }
            // A whole family may have been missed.
            rest = others;
        }
    }

    /// When `/proc` is to be looked through.
    pub fn due(&self) -> Option<Instant> {
        self.may_grow().then_some(self.next_scan)
    }

    /// Looks through `/proc` for what events have missed.
    ///
    /// # Errors
    ///
    /// If `/proc` can't be listed.
    pub fn keep_up(&mut self, session: &mut Session) -> anyhow::Result<()> {
        self.next_scan = Instant::now() + RESCAN;
        self.adopt_children(session, true)?;
        if let Some(selection) = self.choice.selection.clone().filter(|_| self.choice.newcomers) {
            for mut facts in scan(&selection)?.processes {
                let at_ns = facts.started_ns();
                let origin = Origin { why: Why::Matches, group: None, at_ns, heir_of: Vec::new() };
                self.take_up(session, &mut facts, origin);
            }
        }
        // An end may not have been told.
        self.why.retain(|pid, _| session.observes(*pid));
        self.family.retain(|pid, _| session.observes(*pid));
        Ok(())
    }
}

/// Gives every target a label of its own: what was asked for, else its `comm`, else `comm:pid` where two would collide.
fn label_targets(targets: &[(u32, String, Option<String>)]) -> Vec<String> {
    let mut seen = HashMap::new();
    for (_, comm, name) in targets {
        *seen.entry(name.as_ref().unwrap_or(comm)).or_insert(0) += 1;
    }
    let mut used = HashSet::new();
    targets
        .iter()
        .map(|(pid, comm, name)| {
            let wish = name.as_ref().unwrap_or(comm);
            let label = if name.is_none() && seen[wish] > 1 { format!("{comm}:{pid}") } else { wish.clone() };
            if used.insert(label.clone()) { label } else { format!("{label}:{pid}") }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::label_targets;

    fn labels(targets: &[(u32, &str, Option<&str>)]) -> Vec<String> {
        let owned: Vec<_> = targets
            .iter()
            .map(|(pid, comm, name)| (*pid, (*comm).to_owned(), name.map(str::to_owned)))
            .collect();
        label_targets(&owned)
    }

    #[test]
    fn a_name_is_used_as_it_is_and_comm_only_where_it_is_unique() {
        assert_eq!(labels(&[(1, "redis", None)]), ["redis"]);
        assert_eq!(labels(&[(1, "redis", Some("cache"))]), ["cache"]);
        assert_eq!(
            labels(&[(1, "nginx", None), (2, "nginx", None), (3, "sh", None)]),
            ["nginx:1", "nginx:2", "sh"]
        );
        assert_eq!(labels(&[(1, "a", Some("x")), (2, "x", None)]), ["x", "x:2"]);
    }
}
