//! Which processes are meant: by name, program, control group, container or unit.

use std::fmt;

use regex_lite::Regex;
use thiserror::Error;

use super::{Glob, ProcessFacts, cgroup};

/// Bytes of a process's name; the kernel cuts longer ones (`TASK_COMM_LEN` in include/linux/sched.h, less its end mark).
const COMM_BYTES: usize = 15;
/// Digits of a container's id that are asked for at least.
const ID_DIGITS: usize = 8;

/// What is wrong with a criterion. Each says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectionError {
    /// Nothing was given.
    #[error("--{0} is empty: it would select nothing; leave it out or give it a value")]
    Empty(&'static str),
    /// No regular expression.
    #[error(
        "--comm {pattern:?} is no regular expression ({reason}): put a \\ before what is meant literally"
    )]
    Regex {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No name can be that long.
    #[error(
        "--comm {0:?} can't match: a process's name has at most {COMM_BYTES} bytes; shorten it, or use --exe"
    )]
    LongerThanComm(String),
    /// No glob pattern.
    #[error("--exe {pattern:?} is no pattern ({reason}): put a \\ before what is meant literally")]
    Glob {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of a path can't be told from a name.
    #[error("--exe {0:?} can't match: a pattern with a slash is for the whole path; begin it with / or **/")]
    RelativeGlob(String),
    /// Too few digits would match by chance.
    #[error("--container {0:?} is too short: give at least {ID_DIGITS} digits of the container's id")]
    ShortId(String),
    /// No such name.
    #[error("--container {0:?} is neither an id nor a name: use the id that docker, podman or crictl show")]
    Container(String),
    /// A slice.
    #[error("--unit {0:?} is a slice and holds other units: use --cgroup with its path")]
    Slice(String),
    /// Not a unit that holds processes.
    #[error("--unit {0:?}: only services and scopes can be selected")]
    Unit(String),
}

/// One thing that is asked of a process. Made from text by the functions below, which say how the text is understood.
#[derive(Clone, Debug)]
pub enum Criterion {
    /// See [`Criterion::comm`].
    Comm(Regex),
    /// See [`Criterion::exe`].
    Exe(Glob),
    /// See [`Criterion::cgroup`].
    Cgroup(String),
    /// See [`Criterion::container`].
    Container(ContainerName),
    /// See [`Criterion::unit`].
    Unit(String),
}

/// How a container is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerName {
    /// The first digits of its id, or all.
    Id(String),
    /// The name of one without an id.
    Name(String),
}

/// The kinds of criteria, the cheapest to check first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Comm,
    Exe,
    Cgroup,
    Container,
    Unit,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Comm, Self::Exe, Self::Cgroup, Self::Container, Self::Unit];

    const fn name(self) -> &'static str {
        match self {
            Self::Comm => "comm",
            Self::Exe => "exe",
            Self::Cgroup => "cgroup",
            Self::Container => "container",
            Self::Unit => "unit",
        }
    }
}

impl Criterion {
    /// A regular expression for the process's name (`comm`, the name of its main thread). It may match anywhere, as
    /// with grep: `^nginx$` for the whole name. The kernel cuts names to 15 bytes, so `node_exporter_v2` is found as
    /// `node_exporter_v`; an expression of plain letters that is longer than that is refused.
    ///
    /// # Errors
    ///
    /// If it is empty, no regular expression, or can't match any name.
    pub fn comm(pattern: &str) -> Result<Self, SelectionError> {
        let pattern = given("comm", pattern)?;
        let regex = Regex::new(pattern).map_err(|error| SelectionError::Regex {
            pattern: pattern.to_owned(),
            reason: error.to_string().replace('\n', " "),
        })?;
        let literal = pattern.trim_start_matches('^').trim_end_matches('$');
        // Each of the other characters, the dot too, stands for one at least.
        if literal.len() > COMM_BYTES && !literal.contains(|c| "\\+*?()|[]{}^$".contains(c)) {
            return Err(SelectionError::LongerThanComm(pattern.to_owned()));
        }
        Ok(Self::Comm(regex))
    }

    /// A pattern for the path of the process's program, as the process itself sees it; one without a slash is for the
    /// file's name alone. See [`Glob`] for what the signs mean. The path is that of the file that was started, not of a
    /// link to it or of a script.
    ///
    /// # Errors
    ///
    /// If it is empty, no pattern, or can't match any path.
    pub fn exe(pattern: &str) -> Result<Self, SelectionError> {
        let pattern = given("exe", pattern)?;
        let whole = if pattern.starts_with("**/") { format!("/{pattern}") } else { pattern.to_owned() };
        // The other signs may stand for nothing, or for a slash.
        if whole.contains('/') && !whole.starts_with(['/', '*', '{', '[']) {
            return Err(SelectionError::RelativeGlob(pattern.to_owned()));
        }
        Glob::new(&whole)
            .map(Self::Exe)
            .map_err(|reason| SelectionError::Glob { pattern: pattern.to_owned(), reason })
    }

    /// A control group, with everything below it: the path as in /proc/PID/cgroup, or below /sys/fs/cgroup for
    /// version 2. With version 1 a process is in several groups; it is enough that one of them is meant.
    ///
    /// # Errors
    ///
    /// If it is empty.
    pub fn cgroup(path: &str) -> Result<Self, SelectionError> {
        Ok(Self::Cgroup(cgroup::group_path(given("cgroup", path)?)))
    }

    /// A container: its id, or the first 8 digits of it at least, also as Kubernetes writes it (`containerd://ID`); for
    /// LXC and systemd-nspawn its name. Docker's and Podman's names stand nowhere in the system: `docker ps` and
    /// `podman ps` tell the id.
    ///
    /// # Errors
    ///
    /// If it is empty, too short, or neither an id nor a name.
    pub fn container(text: &str) -> Result<Self, SelectionError> {
        let text = given("container", text)?;
        let name = text.split_once("://").map_or(text, |(_, id)| id);
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return if name.len() < ID_DIGITS {
                Err(SelectionError::ShortId(text.to_owned()))
            } else {
                Ok(Self::Container(ContainerName::Id(name.to_ascii_lowercase())))
            };
        }
        if name.is_empty() || name.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Err(SelectionError::Container(text.to_owned()));
        }
        Ok(Self::Container(ContainerName::Name(name.to_owned())))
    }

    /// A service or scope of systemd by its exact name, with systemd's escapes as `systemctl` shows them; `.service` may
    /// be left out. A process belongs to the innermost unit that its control group names.
    ///
    /// # Errors
    ///
    /// If it is empty or another kind of unit.
    pub fn unit(name: &str) -> Result<Self, SelectionError> {
        const OTHERS: [&str; 8] =
            [".socket", ".timer", ".target", ".mount", ".automount", ".path", ".device", ".swap"];
        let name = given("unit", name)?;
        if name.ends_with(".slice") {
            return Err(SelectionError::Slice(name.to_owned()));
        }
        if name.contains('/') || OTHERS.iter().any(|other| name.ends_with(other)) {
            return Err(SelectionError::Unit(name.to_owned()));
        }
        let whole = name.ends_with(".service") || name.ends_with(".scope");
        Ok(Self::Unit(if whole { name.to_owned() } else { format!("{name}.service") }))
    }

    /// Whether it holds. Reads what it needs to know of the process.
    pub fn matches(&self, facts: &mut ProcessFacts) -> bool {
        match self {
            Self::Comm(regex) => regex.is_match(&facts.comm),
            Self::Exe(glob) => facts.exe().is_some_and(|exe| glob.matches(exe)),
            Self::Cgroup(group) => facts.cgroups().is_some_and(|groups| groups.is_within(group)),
            Self::Container(ContainerName::Id(id)) => {
                // The name of one without an id may look like an id, too; then all of it was given.
                facts.container().is_some_and(|container| container.starts_with(id.as_str()))
            }
            Self::Container(ContainerName::Name(name)) => facts.container() == Some(name),
            Self::Unit(unit) => facts.unit() == Some(unit),
        }
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Comm(_) => Kind::Comm,
            Self::Exe(_) => Kind::Exe,
            Self::Cgroup(_) => Kind::Cgroup,
            Self::Container(_) => Kind::Container,
            Self::Unit(_) => Kind::Unit,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Comm(regex) => regex.as_str(),
            Self::Exe(glob) => glob.as_str(),
            Self::Container(ContainerName::Id(text) | ContainerName::Name(text))
            | Self::Cgroup(text)
            | Self::Unit(text) => text,
        }
    }
}

impl PartialEq for Criterion {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind() && self.text() == other.text()
    }
}

/// As on the command line.
impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {:?}", self.kind().name(), self.text())
    }
}

/// All that is asked: criteria of one kind are alternatives, and of every kind that is there one must hold. So
/// `--comm nginx --comm redis --unit web` means those processes of the unit `web` that are called `nginx` or `redis`.
/// Without criteria it is every process. Kernel threads, processes that have ended and ourselves are never meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// In any order.
    pub criteria: Vec<Criterion>,
}

impl Selection {
    /// Whether nothing is asked.
    pub const fn is_empty(&self) -> bool {
        self.criteria.is_empty()
    }

    /// Whether the process is meant. Reads only what decides it, the cheapest first.
    pub fn matches(&self, facts: &mut ProcessFacts) -> bool {
        !facts.kernel_thread
            && !facts.zombie
            && !facts.is_ourselves()
            && Kind::ALL.into_iter().all(|kind| {
                let mut alternatives = self.criteria.iter().filter(|one| one.kind() == kind).peekable();
                alternatives.peek().is_none() || alternatives.any(|one| one.matches(facts))
            })
    }
}

/// As on the command line.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.criteria.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(" "))
    }
}

fn given<'a>(what: &'static str, text: &'a str) -> Result<&'a str, SelectionError> {
    if text.trim().is_empty() { Err(SelectionError::Empty(what)) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::facts::example;

    const ID: &str = "3f1c9d0e8b7a65544332211000ffeeddccbbaa99887766554433221100abcdef";

    fn nginx() -> ProcessFacts {
        let groups = format!("0::/system.slice/web.service/docker-{ID}.scope\n");
        example("nginx", Some("/opt/web/sbin/nginx-1.27"), &groups)
    }

    fn holds(criterion: Result<Criterion, SelectionError>) -> bool {
        criterion.unwrap().matches(&mut nginx())
    }

    #[test]
    fn names_match_anywhere_unless_anchored() {
        for (pattern, expected) in
            [("gin", true), ("^nginx$", true), ("^gin", false), ("redis|nginx", true), ("NGINX", false)]
        {
            assert_eq!(holds(Criterion::comm(pattern)), expected, "{pattern}");
        }
    }

    #[test]
    fn programs_match_by_path_or_by_the_files_name() {
        for (pattern, expected) in [
            ("nginx*", true),
            ("ginx", false),
            ("sbin", false),
            ("/opt/web/sbin/nginx-1.27", true),
            ("/opt/*/sbin/nginx-?.[0-9][0-9]", true),
            ("/opt/*", false),
            ("/{opt,srv}/**/nginx*", true),
            ("**/sbin/nginx*", true),
            ("**/opt/web/sbin/*", true),
            ("/web/sbin/nginx*", false),
        ] {
            assert_eq!(holds(Criterion::exe(pattern)), expected, "{pattern}");
        }
        assert!(!Criterion::exe("*").unwrap().matches(&mut example("kept", None, "")));
    }

    #[test]
    fn containers_match_by_the_first_digits_and_units_by_the_whole_name() {
        assert!(holds(Criterion::container(&ID[..8])));
        assert!(holds(Criterion::container(&format!("containerd://{}", ID.to_uppercase()))));
        assert!(!holds(Criterion::container(&ID[1..9])));
        assert!(!holds(Criterion::container("web-1")));
        let mut lxc = example("sh", None, "0::/lxc.payload.web-1/init.scope\n");
        assert!(Criterion::container("web-1").unwrap().matches(&mut lxc));
        assert!(!Criterion::container("web-").unwrap().matches(&mut lxc));
        assert!(holds(Criterion::unit(&format!("docker-{ID}.scope"))));
        let mut cron = example("cron", None, "0::/system.slice/cron.service\n");
        assert!(Criterion::unit("cron").unwrap().matches(&mut cron));
        assert!(Criterion::unit("cron.service").unwrap().matches(&mut cron));
        assert!(!Criterion::unit("cro").unwrap().matches(&mut cron));
        assert!(holds(Criterion::cgroup("/system.slice/web.service")));
        assert!(!holds(Criterion::cgroup("/system.slice/web")));
    }

    #[test]
    fn one_of_each_kind_must_hold() {
        let choose = |criteria: &[Result<Criterion, SelectionError>]| {
            let criteria = criteria.iter().map(|one| one.clone().unwrap()).collect();
            Selection { criteria }.matches(&mut nginx())
        };
        assert!(choose(&[]));
        assert!(choose(&[Criterion::comm("redis"), Criterion::comm("nginx")]));
        assert!(choose(&[Criterion::comm("redis"), Criterion::exe("nginx*"), Criterion::comm("nginx")]));
        assert!(!choose(&[Criterion::comm("nginx"), Criterion::unit("other")]));
    }

    #[test]
    fn kernel_threads_the_dead_and_ourselves_are_never_meant() {
        let all = Selection::default();
        let (mut thread, mut dead) = (nginx(), nginx());
        (thread.kernel_thread, dead.zombie) = (true, true);
        assert!(!all.matches(&mut thread) && !all.matches(&mut dead) && all.matches(&mut nginx()));
        assert!(!all.matches(&mut ProcessFacts::read(std::process::id()).unwrap()));
    }

    #[test]
    fn a_choice_by_name_reads_neither_program_nor_groups() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut facts = ProcessFacts::read(child.id()).unwrap();
        let selection = Selection {
            criteria: vec![Criterion::comm("^no such$").unwrap(), Criterion::exe("sleep").unwrap()],
        };
        assert!(!selection.matches(&mut facts));
        child.kill().unwrap();
        child.wait().unwrap();
        // Had it been read, it would be known.
        assert_eq!(facts.exe(), None);
    }

    #[test]
    fn what_cant_select_anything_is_refused_in_one_line_that_says_what_to_do() {
        type Make = fn(&str) -> Result<Criterion, SelectionError>;
        let cases: [(Make, &str, &str); 16] = [
            (Criterion::comm, "", "--comm is empty"),
            (Criterion::comm, "a(b", "put a \\"),
            (Criterion::comm, "node_exporter_v2", "use --exe"),
            (Criterion::comm, "^node.exporter.v2$", "at most 15 bytes"),
            (Criterion::exe, " ", "--exe is empty"),
            (Criterion::exe, "/usr/[a", "put a \\"),
            (Criterion::exe, "bin/python*", "begin it with /"),
            (Criterion::exe, "{python,node", "without its }"),
            (Criterion::cgroup, "", "--cgroup is empty"),
            (Criterion::container, "3f1c9d0", "at least 8"),
            (Criterion::container, "docker://", "use the id"),
            (Criterion::container, "a b", "use the id"),
            (Criterion::unit, "", "--unit is empty"),
            (Criterion::unit, "system.slice", "use --cgroup"),
            (Criterion::unit, "fstrim.timer", "services and scopes"),
            (Criterion::unit, "system.slice/cron.service", "services and scopes"),
        ];
        for (make, text, named) in cases {
            let error = make(text).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains(text.trim()), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        // As long, but it may match something shorter.
        for pattern in ["node_exporter_v2?", "postgres|mariadbd|mysqld", "[n]ode_exporter"] {
            assert!(Criterion::comm(pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn a_selection_reads_as_it_was_typed() {
        let criteria = vec![Criterion::comm("a b").unwrap(), Criterion::unit("cron").unwrap()];
        assert_eq!(Selection { criteria }.to_string(), "--comm \"a b\" --unit \"cron.service\"");
        assert_ne!(Criterion::comm("a").unwrap(), Criterion::exe("a").unwrap());
    }
}
