//! `profiler ps`: the processes of this machine, what runs in them, and how much can be told of each.

use std::{fmt::Write as _, io::Write as _, process::ExitCode};

use serde::{Serialize, Serializer};

use crate::{
    export::terminal::{Style, bytes},
    screen::SCREEN,
    target::{MappedObject, ProcessFacts, Program, ProgramCache, Runtime, Selection, scan, short_container},
    text::clean,
};

/// On a terminal no column but the last is wider; longer texts end with an ellipsis.
const COLUMN: usize = 28;

/// Which allocator a process uses, as far as names tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allocator {
    name: &'static str,
    /// Why its calls can't be counted, if so.
    obstacle: Option<&'static str>,
}

#[derive(Serialize)]
struct Row {
    pid: u32,
    parent: u32,
    name: String,
    exe: Option<String>,
    #[serde(serialize_with = "runtime_as_object")]
    runtime: Option<Runtime>,
    allocator: Option<&'static str>,
    resident_memory_bytes: u64,
    cgroup: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    profile: Profile,
    /// Why it isn't everything, if we may know.
    reason: Option<&'static str>,
}

/// How much can be told of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Profile {
    /// Allocator calls and stalls.
    #[serde(rename = "full")]
    Full,
    /// Stalls, but not the calls.
    #[serde(rename = "stalls only")]
    StallsOnly,
    /// What it has mapped is kept from us.
    #[serde(rename = "no rights")]
    NoRights,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::StallsOnly => "stalls only",
            Self::NoRights => "no rights",
        }
    }
}

/// Prints all processes but kernel threads, the largest first.
///
/// # Errors
///
/// If `/proc` can't be listed.
pub fn run(json: bool) -> anyhow::Result<ExitCode> {
    let found = scan(&Selection::default())?;
    let mut cache = ProgramCache::default();
    let mut rows: Vec<Row> =
        found.processes.into_iter().filter_map(|facts| look(facts, &mut cache)).collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.resident_memory_bytes), row.pid));
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(&rows)?)
    } else {
        table(&rows, SCREEN.style()) + &unread(&rows, found.hidden)
    };
    // Whoever closes the pipe early has read enough.
    let _written = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// `None` once it has ended.
fn look(mut facts: ProcessFacts, cache: &mut ProgramCache) -> Option<Row> {
    let objects = facts.mapped_objects();
    // Once it begins to end it has nothing mapped, and no program.
    let nothing = objects.as_ref().is_none_or(Vec::is_empty) && facts.exe().is_none();
    if nothing && !facts.is_forbidden() {
        return None;
    }
    let known = objects.map(|objects| {
        let program = facts.program(cache);
        let runtime = facts.runtime(program.as_ref(), &objects);
        let allocator = allocator_hint(program.as_ref(), &runtime, &objects);
        (runtime, allocator)
    });
    let (runtime, allocator) = known.unzip();
    let profile = match &allocator {
        Some(Allocator { obstacle: None, .. }) => Profile::Full,
        Some(_) => Profile::StallsOnly,
        None => Profile::NoRights,
    };
    let groups = facts.cgroups().cloned();
    let group = |text: Option<&str>| text.map(clean);
    Some(Row {
        pid: facts.pid,
        parent: facts.parent,
        name: clean(&facts.comm),
        exe: facts.exe().map(clean),
        runtime,
        allocator: allocator.map(|allocator| allocator.name),
        reason: allocator.and_then(|allocator| allocator.obstacle),
        resident_memory_bytes: facts.resident_bytes,
        cgroup: groups.as_ref().map(|groups| clean(groups.path())),
        unit: group(groups.as_ref().and_then(|groups| groups.unit())),
        container: group(groups.as_ref().and_then(|groups| groups.container())),
        profile,
    })
}

/// The allocator by the names of what is mapped: cheap, and right as long as nobody renames a library.
fn allocator_hint(program: Option<&Program>, runtime: &Runtime, objects: &[MappedObject]) -> Allocator {
    /// Names of libraries, the first of which serves `malloc`: an allocator of its own goes before the C library's.
    const LIBRARIES: [(&str, &str); 7] = [
        ("libjemalloc", "jemalloc"),
        ("libtcmalloc", "tcmalloc"),
        ("libmimalloc", "mimalloc"),
        ("ld-musl-", "musl"),
        ("libc.so.6", "glibc"),
        // Until glibc 2.33 the library's file had the version in its name.
        ("libc-2.", "glibc"),
        // Debian's musl, where its linker is only a link to this.
        ("libc.so", "musl"),
    ];
    let mapped = |prefix: &str| {
        objects
            .iter()
            .any(|object| object.path.rsplit('/').next().is_some_and(|name| name.starts_with(prefix)))
    };
    let stalls_only = |name, reason| Allocator { name, obstacle: Some(reason) };
    match LIBRARIES.iter().find(|(library, _)| mapped(library)) {
        Some((_, "glibc")) => Allocator { name: "glibc", obstacle: None },
        Some((_, name)) => stalls_only(name, "its allocator isn't counted yet"),
        None if matches!(runtime, Runtime::Go(_)) => stalls_only("go", "Go's own allocator isn't counted"),
        None if program.is_some_and(|program| !program.dynamic) => {
            stalls_only("static", "its allocator is part of the program")
        }
        None => stalls_only("unknown", "no known allocator is mapped"),
    }
}

fn table(rows: &[Row], style: Style) -> String {
    let head = ["PID", "NAME", "RUNTIME", "ALLOCATOR", "RSS", "CONTAINER/UNIT", "PROFILE"];
    let mut cells = vec![head.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let dash = || "-".to_owned();
        let place = row.container.as_deref().map(short_container).or(row.unit.as_deref());
        [
            row.pid.to_string(),
            row.name.clone(),
            row.runtime.as_ref().map_or_else(dash, ToString::to_string),
            row.allocator.map_or_else(dash, str::to_owned),
            bytes(row.resident_memory_bytes as f64),
            place.map_or_else(dash, str::to_owned),
            row.reason.map_or_else(
                || row.profile.name().to_owned(),
                |reason| format!("{}: {reason}", row.profile.name()),
            ),
        ]
    }));
    let widest = if style.width == 0 { usize::MAX } else { COLUMN };
    let width =
        |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).min(widest);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, line) in cells.iter().enumerate() {
        let mut shown = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let cell = cut(cell, width);
            // Numbers stand at the right. Writing to a string can't fail.
            let _infallible = match column {
                0 | 4 => write!(shown, "{cell:>width$}  "),
                _ => write!(shown, "{cell:<width$}  "),
            };
        }
        let last = &line[widths.len()];
        let shown = if style.width == 0 { shown + last } else { cut(&(shown + last), style.width) };
        let look = match last.as_str() {
            _ if !style.colour => "",
            _ if number == 0 => "\x1b[1m",
            "full" => "",
            _ => "\x1b[2m",
        };
        let end = if look.is_empty() { "" } else { "\x1b[0m" };
        let _infallible = writeln!(text, "{look}{}{end}", shown.trim_end());
    }
    text
}

/// At most so many characters, the last of which is an ellipsis if some are missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

/// What couldn't be read, and what to do about it.
fn unread(rows: &[Row], hidden: usize) -> String {
    let count = hidden + rows.iter().filter(|row| row.profile == Profile::NoRights).count();
    if count == 0 {
        return String::new();
    }
    let processes = if count == 1 { "process is" } else { "processes are" };
    // Root without that right can't, either: in most containers, for instance.
    let way_out = if rustix::process::geteuid().is_root() {
        "CAP_SYS_PTRACE is needed"
    } else {
        "run as root (sudo profiler ps)"
    };
    format!("{count} {processes} kept from us: {way_out}\n")
}

fn runtime_as_object<S: Serializer>(runtime: &Option<Runtime>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Named<'a> {
        name: &'static str,
        version: Option<&'a str>,
    }
    let named = runtime.as_ref().map(|runtime| Named { name: runtime.name(), version: runtime.version() });
    named.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: u32, name: &str, unit: &str, profile: Profile) -> Row {
        Row {
            pid,
            parent: 1,
            name: name.to_owned(),
            exe: None,
            runtime: Some(Runtime::Go(Some("1.22.1".to_owned()))),
            allocator: Some("go"),
            resident_memory_bytes: 3 << 19,
            cgroup: None,
            unit: Some(unit.to_owned()),
            container: None,
            profile,
            reason: (profile == Profile::StallsOnly).then_some("Go's own allocator isn't counted"),
        }
    }

    #[test]
    fn a_pipe_gets_everything_and_a_terminal_what_fits() {
        let long = "a-unit-with-a-name-that-is-longer-than-its-column.service";
        let rows = [row(7, "server", long, Profile::StallsOnly), row(12345, "x", "y.service", Profile::Full)];
        let plain = table(&rows, Style { colour: false, width: 0 });
        let lines: Vec<_> = plain.lines().collect();
        assert!(
            lines[1].contains(long) && lines[1].ends_with("stalls only: Go's own allocator isn't counted")
        );
        assert!(
            lines[2].starts_with("12345  x ") && lines[2].contains("1.5 MiB") && lines[2].ends_with("full")
        );
        assert!(lines.iter().all(|line| line.find("PROFILE").or(line.find("stalls")).or(line.find("full"))
            == lines[0].find("PROFILE")));
        let narrow = table(&rows, Style { colour: false, width: 90 });
        assert!(narrow.lines().all(|line| line.chars().count() <= 90), "{narrow}");
        assert!(narrow.lines().nth(1).unwrap().ends_with('…'), "{narrow}");
        let coloured = table(&rows, Style { colour: true, width: 90 });
        assert!(coloured.lines().nth(1).unwrap().ends_with("…\x1b[0m"), "{coloured}");
    }

    #[test]
    fn an_allocator_of_its_own_goes_before_the_c_librarys() {
        let hint = |dynamic, paths: &[&str]| {
            let object = |path: &&str| MappedObject {
                device: (0, 1),
                inode: 1,
                path: (*path).to_owned(),
                ranges: Vec::new(),
            };
            let program = Program { dynamic, ..Program::default() };
            let objects: Vec<_> = paths.iter().map(object).collect();
            let found = allocator_hint(Some(&program), &Runtime::Native, &objects);
            (found.name, found.obstacle.is_none())
        };
        assert_eq!(
            hint(true, &["/bin/x", "/lib/libc.so.6", "/usr/lib/libjemalloc.so.2"]),
            ("jemalloc", false)
        );
        assert_eq!(hint(true, &["/bin/x", "/lib/x86_64-linux-gnu/libc.so.6 (deleted)"]), ("glibc", true));
        assert_eq!(hint(true, &["/lib/x86_64-linux-gnu/libc-2.31.so"]), ("glibc", true));
        assert_eq!(hint(true, &["/lib/ld-musl-x86_64.so.1"]), ("musl", false));
        assert_eq!(hint(true, &["/usr/lib/x86_64-linux-musl/libc.so"]), ("musl", false));
        assert_eq!(hint(false, &["/bin/busybox"]), ("static", false));
        assert_eq!(hint(true, &["/bin/x"]), ("unknown", false));
    }
}
