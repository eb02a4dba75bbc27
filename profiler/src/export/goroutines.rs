//! Goroutines as text: as a Go panic prints them (Go's src/runtime/traceback.go, `goroutineheader`, `traceback2`), or equal
//! stacks once.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use crate::{runtime::go::goroutines::Goroutine, stack::Frame};

/// Ids that a group names.
const IDS: usize = 12;

/// A goroutine, named.
#[derive(Clone, Debug)]
pub struct Named {
    /// What was read of it.
    pub goroutine: Goroutine,
    /// Its stack, innermost first.
    pub frames: Vec<Frame>,
    /// Where it was made.
    pub created: Option<Frame>,
}

/// A function in a stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Line {
    function: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(line: &u32) -> bool {
    *line == 0
}

/// A goroutine for programs.
#[derive(Clone, Debug, Serialize)]
struct Told {
    id: u64,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_seconds: Option<f64>,
    system: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<u32>,
    frames: Vec<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

impl Named {
    /// The functions that a panic shows: not the runtime's own, unless they are all there is or `system` is wished.
    fn lines(&self, system: bool) -> Vec<Line> {
        let all: Vec<Line> = self.frames.iter().flat_map(lines).collect();
        let shown: Vec<Line> =
            all.iter().filter(|line| system || !is_runtimes(&line.function)).cloned().collect();
        if shown.is_empty() { all } else { shown }
    }

    fn created(&self) -> Option<Line> {
        let line = lines(self.created.as_ref()?).into_iter().next_back()?;
        (!line.function.is_empty()).then_some(line)
    }

    fn minutes(&self, now_ns: u64) -> u64 {
        self.waited_ns(now_ns).map_or(0, |waited| waited / 60_000_000_000)
    }

    /// Only the garbage collector notes since when a goroutine waits.
    fn waited_ns(&self, now_ns: u64) -> Option<u64> {
        let since = self.goroutine.waiting_since_ns;
        (since != 0).then(|| now_ns.saturating_sub(since))
    }
}

fn lines(frame: &Frame) -> Vec<Line> {
    if frame.functions.is_empty() {
        return frame.names().into_iter().map(|function| Line { function, file: None, line: 0 }).collect();
    }
    let line = |function: &crate::stack::Function| Line {
        function: function.name.to_string(),
        file: function.file.as_deref().map(str::to_owned),
        line: function.line,
    };
    frame.functions.iter().map(line).collect()
}

/// Whether a panic leaves the function out: those of the runtime that nobody outside can call (`showfuncinfo`).
fn is_runtimes(function: &str) -> bool {
    if function.starts_with("internal/runtime/") {
        return true;
    }
    let Some(rest) = function.strip_prefix("runtime.") else { return false };
    !rest.starts_with(|c: char| c.is_ascii_uppercase())
}

/// Every goroutine as a panic prints it, by id. `now_ns`: the runtime's clock. `system`: the runtime's own goroutines and functions,
/// too.
pub fn text(all: &[Named], now_ns: u64, system: bool) -> String {
    let mut text = String::new();
    for named in all.iter().filter(|named| system || !named.goroutine.system) {
        let goroutine = &named.goroutine;
        let minutes = named.minutes(now_ns);
        let waited = if minutes >= 1 { format!(", {minutes} minutes") } else { String::new() };
        let head = format!("goroutine {} [{}{waited}]:", goroutine.id, goroutine.state);
        put(&mut text, &head);
        body(&mut text, named, system);
        text.push('\n');
    }
    text
}

/// Writing to a string can't fail.
fn put(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn body(text: &mut String, named: &Named, system: bool) {
    for line in named.lines(system) {
        let _infallible = writeln!(text, "{}(...)", line.function);
        if let Some(file) = &line.file {
            let _infallible = writeln!(text, "\t{file}:{}", line.line);
        }
    }
    if let Some(trouble) = &named.goroutine.trouble {
        let _infallible = writeln!(text, "\t({trouble})");
    }
    if let (Some(line), Some((_, by))) = (named.created(), named.goroutine.created_by) {
        let by = by.filter(|id| *id != 0).map_or(String::new(), |id| format!(" in goroutine {id}"));
        let _infallible = writeln!(text, "created by {}{by}", line.function);
        if let Some(file) = &line.file {
            let _infallible = writeln!(text, "\t{file}:{}", line.line);
        }
    }
}

/// Equal stacks in equal states once, the most frequent first.
pub fn grouped(all: &[Named], now_ns: u64, system: bool) -> String {
    let mut groups: BTreeMap<(Vec<Line>, &str, Option<Line>), Vec<&Named>> = BTreeMap::new();
    for named in all.iter().filter(|named| system || !named.goroutine.system) {
        let key = (named.lines(system), named.goroutine.state.as_str(), named.created());
        groups.entry(key).or_default().push(named);
    }
    let mut groups: Vec<Vec<&Named>> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let mut text = String::new();
    for group in &groups {
        let Some(first) = group.first() else { continue };
        let minutes = group.iter().map(|named| named.minutes(now_ns));
        let (least, most) = minutes.fold((u64::MAX, 0), |(least, most), one| (least.min(one), most.max(one)));
        let waited = match (least, most) {
            (_, 0) => String::new(),
            (least, most) if least == most => format!(", {most} minutes"),
            (least, most) => format!(", {least} to {most} minutes"),
        };
        let mut ids: Vec<_> = group.iter().take(IDS).map(|named| named.goroutine.id.to_string()).collect();
        if group.len() > IDS {
            ids.push(format!("{} more", group.len() - IDS));
        }
        let word = if group.len() == 1 { "goroutine" } else { "goroutines" };
        let state = &first.goroutine.state;
        let _infallible = writeln!(text, "{} {word} [{state}{waited}]: {}", group.len(), ids.join(", "));
        body(&mut text, first, system);
        text.push('\n');
    }
    text
}

/// Every goroutine for programs.
pub fn told(all: &[Named], now_ns: u64, system: bool) -> impl Serialize + use<> {
    let shown = all.iter().filter(|named| system || !named.goroutine.system);
    let told = shown.map(|named| Told {
        id: named.goroutine.id,
        state: named.goroutine.state.clone(),
        waiting_seconds: named.waited_ns(now_ns).map(|waited| waited as f64 / 1e9),
        system: named.goroutine.system,
        thread: named.goroutine.thread,
        // Programs can leave out what they don't want.
        frames: named.frames.iter().flat_map(lines).collect(),
        created: named.created(),
        created_by: named.goroutine.created_by.and_then(|(_, by)| by).filter(|id| *id != 0),
        trouble: named.goroutine.trouble.clone(),
    });
    told.collect::<Vec<_>>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::{Function, Place};

    fn frame(functions: &[(&str, &str, u32)]) -> Frame {
        let function = |(name, file, line): &(&str, &str, u32)| Function {
            name: (*name).into(),
            file: Some((*file).into()),
            line: *line,
        };
        Frame {
            place: Place { build: "b".into(), offset: 1 },
            object: "/bin/x".into(),
            functions: functions.iter().map(function).collect(),
        }
    }

    fn waiting(id: u64, since: u64) -> Named {
        Named {
            goroutine: Goroutine {
                id,
                state: "chan receive".to_owned(),
                waiting_since_ns: since,
                created_by: Some((7, Some(1))),
                ..Goroutine::default()
            },
            frames: vec![
                frame(&[("runtime.gopark", "/go/proc.go", 364)]),
                frame(&[("main.inner", "/x/main.go", 3), ("main.outer", "/x/main.go", 9)]),
                frame(&[("runtime.goexit", "/go/asm.s", 1594)]),
            ],
            created: Some(frame(&[("main.main", "/x/main.go", 20)])),
        }
    }

    const MINUTE: u64 = 60_000_000_000;

    #[test]
    fn a_goroutine_looks_as_a_panic_prints_it() {
        let told = text(&[waiting(18, MINUTE)], 4 * MINUTE, false);
        assert_eq!(
            told,
            "goroutine 18 [chan receive, 3 minutes]:\nmain.inner(...)\n\t/x/main.go:3\nmain.outer(...)\n\t/x/main.go:9\n\
             created by main.main in goroutine 1\n\t/x/main.go:20\n\n"
        );
        let all = text(&[waiting(18, 0)], 4 * MINUTE, true);
        assert!(all.starts_with("goroutine 18 [chan receive]:\nruntime.gopark(...)"), "{all}");
    }

    #[test]
    fn equal_stacks_are_told_once_and_the_most_frequent_first() {
        let mut other = waiting(5, 0);
        other.goroutine.state = "select".to_owned();
        let told = grouped(&[other, waiting(18, MINUTE), waiting(19, 3 * MINUTE)], 4 * MINUTE, false);
        assert!(told.starts_with("2 goroutines [chan receive, 1 to 3 minutes]: 18, 19\n"), "{told}");
        assert!(told.contains("\n\n1 goroutine [select]: 5\n"), "{told}");
        let mut system = waiting(2, 0);
        system.goroutine.system = true;
        assert_eq!(grouped(&[system], 0, false), "");
    }

    #[test]
    fn functions_of_the_runtime_are_told_from_those_that_anybody_can_call() {
        for (name, hidden) in [
            ("runtime.gopark", true),
            ("internal/runtime/maps.(*Map).Get", true),
            ("runtime.GC", false),
            ("runtime/pprof.Lookup", false),
            ("main.runtime.x", false),
        ] {
            assert_eq!(is_runtimes(name), hidden, "{name}");
        }
    }
}
