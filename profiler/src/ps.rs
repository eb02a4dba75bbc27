//! `profiler ps`: the processes of this machine, what runs in them, and how much can be told of each.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    io::Write as _,
    process::ExitCode,
    sync::Arc,
};

use serde::{Serialize, Serializer};

use crate::{
    binary::{self, Layer},
    export::terminal::{Style, bytes},
    screen::SCREEN,
    session::{Analysis, FileId, Images},
    target::{MappedObject, Process, ProcessFacts, ProgramCache, Runtime, Selection, scan, short_container},
    text::clean,
};

/// On a terminal no column but the last is wider; longer texts end with an ellipsis.
const COLUMN: usize = 28;

/// The allocators of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Allocator {
    name: String,
    /// Why its calls can't be counted, if so.
    obstacle: Option<String>,
}

/// What is known of the files that processes have mapped: each is looked at once.
struct Files {
    images: Images,
    known: HashMap<FileId, Arc<Analysis>>,
}

#[derive(Serialize)]
struct Row {
    pid: u32,
    parent: u32,
    name: String,
    exe: Option<String>,
    #[serde(serialize_with = "runtime_as_object")]
    runtime: Option<Runtime>,
    allocator: Option<String>,
    resident_memory_bytes: u64,
    cgroup: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    profile: Profile,
    /// Why it isn't everything, if we may know.
    reason: Option<String>,
}

/// How much can be told of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Profile {
    /// Allocator calls and stalls.
    #[serde(rename = "full")]
    Full,
    /// Stalls, and what its runtime keeps itself: figures, goroutines, the heap profile.
    #[serde(rename = "runtime")]
    Runtime,
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
            Self::Runtime => "runtime",
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
    let mut files = Files { images: Images::new(None, true)?, known: HashMap::new() };
    let mut rows: Vec<Row> =
        found.processes.into_iter().filter_map(|facts| look(facts, &mut cache, &mut files)).collect();
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
fn look(mut facts: ProcessFacts, cache: &mut ProgramCache, files: &mut Files) -> Option<Row> {
    let objects = facts.mapped_objects();
    // Once it begins to end it has nothing mapped, and no program.
    let nothing = objects.as_ref().is_none_or(Vec::is_empty) && facts.exe().is_none();
    if nothing && !facts.is_forbidden() {
        return None;
    }
    let known = objects.map(|objects| {
        let program = facts.program(cache);
        let runtime = facts.runtime(program.as_ref(), &objects);
        let allocator = files.allocator(&facts, &runtime, &objects);
        (runtime, allocator)
    });
    let (runtime, allocator) = known.unzip();
    let unreadable = match &runtime {
        Some(Runtime::Go(Some(version))) => Some(binary::go::tables::obstacle(&format!("go{version}"))),
        Some(Runtime::Go(None)) => Some(Some(format!(
            "no build information says which Go: `profiler version {}` looks further",
            facts.pid
        ))),
        _ => None,
    };
    let profile = match (&allocator, &unreadable) {
        (Some(Allocator { obstacle: None, .. }), _) => Profile::Full,
        (Some(_), Some(None)) => Profile::Runtime,
        (Some(_), _) => Profile::StallsOnly,
        (None, _) => Profile::NoRights,
    };
    // What can't be read goes before what can't be counted: for Go's allocator nobody can do anything.
    let reason = unreadable.flatten().or_else(|| allocator.as_ref()?.obstacle.clone());
    let groups = facts.cgroups().cloned();
    let group = |text: Option<&str>| text.map(clean);
    Some(Row {
        pid: facts.pid,
        parent: facts.parent,
        name: clean(&facts.comm),
        exe: facts.exe().map(clean),
        runtime,
        reason,
        allocator: allocator.map(|allocator| allocator.name),
        resident_memory_bytes: facts.resident_bytes,
        cgroup: groups.as_ref().map(|groups| clean(groups.path())),
        unit: group(groups.as_ref().and_then(|groups| groups.unit())),
        container: group(groups.as_ref().and_then(|groups| groups.container())),
        profile,
    })
}

impl Files {
    /// The allocators of a process, and whether their calls can be counted. The C library's is named only where there is no
    /// other: then the others serve the calls.
    fn allocator(&mut self, facts: &ProcessFacts, runtime: &Runtime, objects: &[MappedObject]) -> Allocator {
        let process = facts.open().ok();
        let mut names = BTreeSet::new();
        let mut lacks = None;
        for object in objects {
            let Some(analysis) = self.of(process.as_ref(), object) else { continue };
            let Ok(image) = analysis.as_ref() else { continue };
            lacks = lacks.or_else(|| image.lacks_symbols().map(str::to_owned));
            names.extend(image.hooks.iter().filter_map(|hook| match hook.layer {
                Layer::Allocator(allocator) => Some(allocator),
                Layer::Python(_) => None,
            }));
        }
        let libc = |allocator: &binary::Allocator| {
            matches!(allocator, binary::Allocator::Glibc | binary::Allocator::Musl)
        };
        if !names.iter().all(libc) {
            names.retain(|allocator| !libc(allocator));
        }
        let name: Vec<_> = names.iter().map(|allocator| allocator.name()).collect();
        let not = |name: &str, why: &str| Allocator { name: name.to_owned(), obstacle: Some(why.to_owned()) };
        match (name.is_empty(), lacks) {
            (false, _) => Allocator { name: name.join("+"), obstacle: None },
            (true, _) if matches!(runtime, Runtime::Go(_)) => not("go", "Go's own allocator isn't counted"),
            (true, Some(why)) => not("unknown", &why),
            (true, None) => not("none", "no allocator is mapped"),
        }
    }

    fn of(&mut self, process: Option<&Process>, object: &MappedObject) -> Option<Arc<Analysis>> {
        if let Some(known) = self.known.get(&object.id()) {
            return Some(Arc::clone(known));
        }
        let (_, analysis) = self.images.look_at(process?, object)?;
        self.known.insert(object.id(), Arc::clone(&analysis));
        Some(analysis)
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
            row.allocator.clone().unwrap_or_else(dash),
            bytes(row.resident_memory_bytes as f64),
            place.map_or_else(dash, str::to_owned),
            row.reason.as_ref().map_or_else(
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
            allocator: Some("go".to_owned()),
            resident_memory_bytes: 3 << 19,
            cgroup: None,
            unit: Some(unit.to_owned()),
            container: None,
            profile,
            reason: (profile == Profile::StallsOnly).then(|| "Go's own allocator isn't counted".to_owned()),
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
}
