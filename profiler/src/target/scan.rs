//! Looking through all processes once, and giving those that belong together one name.

use clap::ValueEnum;
use serde::Deserialize;

use super::{ProcessFacts, Selection, TargetError};
use crate::text::clean;

/// Digits of a container's id in a name, as `docker ps` shows them.
pub const SHORT_ID: usize = 12;

/// What a pass over all processes found.
#[derive(Debug)]
pub struct Scan {
    /// Those that are meant, by rising id.
    pub processes: Vec<ProcessFacts>,
    /// How many could not be judged, because what decides is kept from us.
    pub hidden: usize,
}

/// What the processes of one target have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// Nothing: each process is a target of its own.
    #[default]
    Pid,
    /// Their name.
    Comm,
    /// The path of their program.
    Exe,
    /// Their control group.
    Cgroup,
    /// Their unit of systemd.
    Unit,
    /// Their container.
    Container,
}

/// Looks at every process once. One that ends meanwhile is not there; one that starts meanwhile may be missed.
///
/// # Errors
///
/// If `/proc` can't be listed.
pub fn scan(selection: &Selection) -> Result<Scan, TargetError> {
    let unlisted = |error: procfs::ProcError| TargetError::Unlisted(error.to_string());
    let mut found = Scan { processes: Vec::new(), hidden: 0 };
    for process in procfs::process::all_processes().map_err(unlisted)? {
        let facts = match process {
            Ok(process) => ProcessFacts::of(process),
            Err(error) => Err(TargetError::from_proc(0, "a process's directory in /proc", error)),
        };
        let mut facts = match facts {
            Ok(facts) => facts,
            Err(error) if error.is_gone() => continue,
            // Kept from us, or not to be had for another reason: that is no reason to stop looking at the others.
            Err(error) => {
                tracing::debug!("{error}");
                found.hidden += 1;
                continue;
            }
        };
        if selection.matches(&mut facts) {
            // There may be more processes than we may have descriptors.
            facts.release();
            found.processes.push(facts);
        } else if facts.is_forbidden() {
            found.hidden += 1;
        }
    }
    found.processes.sort_by_key(|facts| facts.pid);
    Ok(found)
}

/// The name of the target that the process belongs to, cleaned. With [`GroupBy::Pid`] it is `comm:pid`, a container is
/// named by the first 12 digits of its id. What has no unit, container, control group or readable program goes by its
/// `comm`.
pub fn group_name(facts: &mut ProcessFacts, by: GroupBy) -> String {
    let name = match by {
        GroupBy::Pid => Some(format!("{}:{}", facts.comm, facts.pid)),
        GroupBy::Comm => None,
        GroupBy::Exe => facts.exe().map(str::to_owned),
        GroupBy::Cgroup => facts.cgroups().map(|groups| groups.path().to_owned()),
        GroupBy::Unit => facts.unit().map(str::to_owned),
        GroupBy::Container => facts.container().map(|id| short_container(id).to_owned()),
    };
    clean(name.as_deref().unwrap_or(&facts.comm))
}

/// The first digits of a container's id; a name stays whole.
pub fn short_container(container: &str) -> &str {
    let is_id = container.len() == 64 && container.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { &container[..SHORT_ID] } else { container }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Instant};

    use super::*;
    use crate::target::{Criterion, facts::example};

    const ID: &str = "3f1c9d0e8b7a65544332211000ffeeddccbbaa99887766554433221100abcdef";

    #[test]
    fn what_belongs_together_has_one_name() {
        let mut web = example("nginx", Some("/usr/sbin/nginx"), &format!("0::/docker/{ID}\n"));
        let mut alone = example("a\nb", None, "");
        for (by, expected, without) in [
            (GroupBy::Pid, "nginx:4242", "a\u{fffd}b:4242"),
            (GroupBy::Comm, "nginx", "a\u{fffd}b"),
            (GroupBy::Exe, "/usr/sbin/nginx", "a\u{fffd}b"),
            (GroupBy::Unit, "nginx", "a\u{fffd}b"),
            (GroupBy::Container, "3f1c9d0e8b7a", "a\u{fffd}b"),
        ] {
            assert_eq!(group_name(&mut web, by), expected);
            assert_eq!(group_name(&mut alone, by), without);
        }
        assert_eq!(group_name(&mut web, GroupBy::Cgroup), format!("/docker/{ID}"));
    }

    #[test]
    fn of_all_processes_exactly_those_that_run_the_program_are_found() {
        let started: Vec<_> =
            (0..3).map(|_| Command::new("/usr/bin/env").args(["sleep", "60.125"]).spawn().unwrap()).collect();
        let mut expected: Vec<u32> = started.iter().map(std::process::Child::id).collect();
        expected.sort_unstable();
        let selection = Selection {
            criteria: vec![Criterion::exe("sleep").unwrap(), Criterion::comm("^sleep$").unwrap()],
        };
        let begun = Instant::now();
        let (found, held) = loop {
            let mut scanned = scan(&selection).unwrap().processes;
            // Other tests start some, too.
            scanned.retain(|facts| expected.contains(&facts.pid));
            let open: Vec<_> = std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
                .collect();
            let is_held = |pid| open.iter().any(|path| path.as_os_str() == format!("/proc/{pid}").as_str());
            let held = expected.iter().any(is_held);
            let found: Vec<u32> = scanned.iter().map(|facts| facts.pid).collect();
            // `env` becomes `sleep` when it gets its turn.
            if found == expected || begun.elapsed().as_secs() > 20 {
                break (found, held);
            }
        };
        for mut child in started {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, expected);
        assert!(!held, "what was found costs no descriptor each");
        let everything = scan(&Selection::default()).unwrap().processes;
        assert!(everything.iter().all(|facts| facts.pid != std::process::id() && !facts.kernel_thread));
        assert!(everything.iter().all(|facts| !expected.contains(&facts.pid)));
    }
}
