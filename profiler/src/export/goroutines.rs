//! Goroutines as a panic of Go's prints them (Go's src/runtime/traceback.go), in groups, and as JSON.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
};

use serde_json::{Value, json};

use crate::{
    binary::go::lines::COMPILER_MADE,
    export::terminal::several,
    runtime::go::{
        goroutines::{Goroutine, Goroutines},
        names::MOST_AT_ONCE,
    },
    stack::{Frame, Function},
    text::clean_to,
};

/// Nanoseconds of a minute.
const MINUTE: u64 = 60_000_000_000;
/// Ids that are named of a group.
const IDS: usize = 12;
/// Bytes of a name that are shown: Go's can be long.
const LONGEST_NAME: usize = 1000;

/// What is known of places in code, by the address that is meant: of callers, one byte before what the call returns to.
pub type Names = HashMap<u64, Frame>;

/// What is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// The runtime's own goroutines and functions, too, as `GOTRACEBACK=system` shows them.
    pub system: bool,
    /// The time, on the runtime's clock (`CLOCK_MONOTONIC`, nanoseconds).
    pub now_ns: u64,
}

/// The addresses to be named, each once: what is to be in [`Names`]. If there are more than can be named at once, those of the
/// goroutines with the smallest ids.
pub fn addresses(goroutines: &Goroutines) -> Vec<u64> {
    let places = goroutines.list.iter().flat_map(|goroutine| {
        meant(goroutine).chain(goroutine.created_by.map(|(address, _)| address.wrapping_sub(1)))
    });
    let mut all = BTreeSet::new();
    for place in places {
        all.insert(place);
        if all.len() >= MOST_AT_ONCE {
            break;
        }
    }
    all.into_iter().collect()
}

/// The addresses that the frames of a goroutine mean, innermost first.
pub fn meant(goroutine: &Goroutine) -> impl Iterator<Item = u64> {
    let exact = goroutine.first_is_exact;
    goroutine
        .stack
        .iter()
        .enumerate()
        .map(move |(place, address)| if place == 0 && exact { *address } else { address.wrapping_sub(1) })
}

/// All goroutines, one behind the other.
pub fn text(goroutines: &Goroutines, names: &Names, wish: &Wish) -> String {
    let mut out = String::new();
    for goroutine in shown(goroutines, wish) {
        let locked = if goroutine.locked == Some(true) { ", locked to thread" } else { "" };
        let minutes = minutes(goroutine, wish).filter(|minutes| *minutes > 0);
        let waits = minutes.map(|minutes| format!(", {minutes} minutes")).unwrap_or_default();
        let _ = writeln!(
            out,
            "goroutine {} [{}{waits}{locked}]:",
            goroutine.id,
            clean_to(&goroutine.state, LONGEST_NAME)
        );
        out.push_str(&frames(goroutine, names, wish));
        out.push_str(&creator(goroutine, names, wish, true));
        out.push('\n');
    }
    out.push_str(&remarks(goroutines));
    out
}

/// Goroutines with the same state and stack together, most of them first.
pub fn grouped(goroutines: &Goroutines, names: &Names, wish: &Wish) -> String {
    let mut groups: BTreeMap<(&str, String), Vec<&Goroutine>> = BTreeMap::new();
    for goroutine in shown(goroutines, wish) {
        let stack = frames(goroutine, names, wish) + &creator(goroutine, names, wish, false);
        groups.entry((goroutine.state.as_str(), stack)).or_default().push(goroutine);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, members)| {
        (std::cmp::Reverse(members.len()), members.first().map(|first| first.id))
    });
    let mut out = String::new();
    for ((state, stack), members) in groups {
        let times: Vec<u64> = members.iter().filter_map(|member| minutes(member, wish)).collect();
        let waits = match (times.iter().min(), times.iter().max()) {
            (Some(0), Some(0)) | (None, _) | (_, None) => String::new(),
            (Some(least), Some(most)) if least == most => format!(", {least} minutes"),
            (Some(least), Some(most)) => format!(", {least} to {most} minutes"),
        };
        let mut ids: Vec<String> = members.iter().take(IDS).map(|member| member.id.to_string()).collect();
        if members.len() > IDS {
            ids.push(format!("and {} more", members.len() - IDS));
        }
        let word = if members.len() == 1 { "goroutine" } else { "goroutines" };
        let state = clean_to(state, LONGEST_NAME);
        let _ = writeln!(out, "{} {word} [{state}{waits}]: {}\n{stack}", members.len(), ids.join(" "));
    }
    out.push_str(&remarks(goroutines));
    out
}

/// All of them for programs.
pub fn json(goroutines: &Goroutines, names: &Names, wish: &Wish) -> Value {
    let function = |function: &Function| json!({ "function": function.name, "file": function.file, "line": function.line });
    let place = |address: u64| {
        let functions = names.get(&address).map(|frame| frame.functions.as_slice()).unwrap_or_default();
        json!({ "address": address, "functions": functions.iter().map(function).collect::<Vec<_>>() })
    };
    let list: Vec<Value> = shown(goroutines, wish)
        .map(|goroutine| {
            let waits = waited(goroutine, wish).map(|time| time as f64 / 1e9);
            let creator = goroutine.created_by.map(
                |(address, parent)| json!({ "at": place(address.wrapping_sub(1)), "goroutine": parent }),
            );
            json!({
                "id": goroutine.id, "state": goroutine.state, "waiting_seconds": waits,
                "thread": goroutine.thread, "locked": goroutine.locked, "system": goroutine.system,
                "stack": meant(goroutine).map(place).collect::<Vec<_>>(),
                "trouble": goroutine.trouble, "created_by": creator,
            })
        })
        .collect();
    let hidden = goroutines.list.len() - list.len();
    json!({ "goroutines": list, "hidden": hidden, "torn": goroutines.torn, "left_out": goroutines.left_out })
}

fn shown<'a>(goroutines: &'a Goroutines, wish: &Wish) -> impl Iterator<Item = &'a Goroutine> {
    let system = wish.system;
    goroutines.list.iter().filter(move |goroutine| system || !goroutine.system)
}

/// Nanoseconds since which it waits. Nothing if that is in the future: in a time namespace (time_namespaces(7)) the clock of the
/// process is another than ours, ahead of it or behind. If it is behind, times are too long, which doesn't show.
fn waited(goroutine: &Goroutine, wish: &Wish) -> Option<u64> {
    let since = Some(goroutine.waiting_since_ns).filter(|since| *since != 0)?;
    wish.now_ns.checked_sub(since)
}

fn minutes(goroutine: &Goroutine, wish: &Wish) -> Option<u64> {
    waited(goroutine, wish).map(|time| time / MINUTE)
}

/// The lines of its stack.
fn frames(goroutine: &Goroutine, names: &Names, wish: &Wish) -> String {
    let mut out = String::new();
    let mut first = true;
    for address in meant(goroutine) {
        let Some(frame) = names.get(&address).filter(|frame| !frame.functions.is_empty()) else {
            let _ = writeln!(out, "{address:#x}(...)");
            first = false;
            continue;
        };
        for function in &frame.functions {
            if wish.system || !is_compilers(function) && is_shown(&function.name, first) {
                line(&mut out, "", function, "(...)");
                first = false;
            }
        }
    }
    if let Some(trouble) = &goroutine.trouble {
        let _ = writeln!(out, "\t[{}]", clean_to(trouble, LONGEST_NAME));
    }
    out
}

fn line(out: &mut String, before: &str, function: &Function, behind: &str) {
    let name = clean_to(&function.name, LONGEST_NAME);
    let name = if name == "runtime.gopanic" { "panic" } else { &name };
    let file = clean_to(function.file.as_deref().unwrap_or("?"), LONGEST_NAME);
    let _ = writeln!(out, "{before}{name}{behind}\n\t{file}:{}", function.line);
}

/// What the compiler makes itself, as of `go f(x)`, is never shown.
fn is_compilers(function: &Function) -> bool {
    function.file.as_deref() == Some(COMPILER_MADE)
}

/// Whether a panic shows a function: left out are the runtime's own, but not those that everybody may call.
fn is_shown(name: &str, first: bool) -> bool {
    let Some(rest) = name.strip_prefix("runtime.") else { return name.contains('.') };
    if name == "runtime.gopanic" {
        return !first;
    }
    let (receiver, method) = rest.rsplit_once('.').unwrap_or(("", rest));
    let receiver = receiver.strip_prefix("(*").and_then(|inner| inner.strip_suffix(')')).unwrap_or(receiver);
    let exported = |name: &str| name.starts_with(|first: char| first.is_ascii_uppercase());
    exported(method) && (receiver.is_empty() || exported(receiver))
}

/// Who made it. Without the creator's id those of one place are alike.
fn creator(goroutine: &Goroutine, names: &Names, wish: &Wish, with_id: bool) -> String {
    let mut out = String::new();
    let Some((address, parent)) = goroutine.created_by.filter(|_| goroutine.id != 1) else { return out };
    let Some(frame) = names.get(&address.wrapping_sub(1)) else { return out };
    // The function that was really called, at the line of what is inlined there: as a panic has it.
    let (Some(outer), Some(inner)) = (frame.functions.last(), frame.functions.first()) else { return out };
    if wish.system || is_shown(&outer.name, false) {
        let by = parent.filter(|_| with_id).map(|id| format!(" in goroutine {id}")).unwrap_or_default();
        let place = Function { name: outer.name.clone(), file: inner.file.clone(), line: inner.line };
        line(&mut out, "created by ", &place, &by);
    }
    out
}

fn remarks(goroutines: &Goroutines) -> String {
    let mut out = String::new();
    if goroutines.torn > 0 {
        let _ = writeln!(
            out,
            "no stack of {}: changed each time it was read",
            several(goroutines.torn, "goroutine")
        );
    }
    if goroutines.left_out > 0 {
        let _ = writeln!(out, "not read: {}", several(goroutines.left_out, "more goroutine"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_since_a_moment_in_the_future_waits_for_no_time_that_is_known() {
        let wish = Wish { system: false, now_ns: 10 * MINUTE };
        for (since, expected) in [(0, None), (4 * MINUTE, Some(6)), (11 * MINUTE, None), (u64::MAX, None)] {
            let goroutine = Goroutine { waiting_since_ns: since, ..Goroutine::default() };
            assert_eq!(minutes(&goroutine, &wish), expected);
        }
    }

    #[test]
    fn of_the_runtime_only_what_is_exported_is_shown() {
        for name in [
            "main.main",
            "time.Sleep",
            "runtime.GC",
            "runtime.(*Func).Name",
            "internal/poll.runtime_pollWait",
        ] {
            assert!(is_shown(name, true), "{name}");
        }
        for name in
            ["runtime.gopark", "runtime.goexit", "runtime.(*mheap).Alloc", "_cgo_wait", "runtime.gopanic"]
        {
            assert!(!is_shown(name, true), "{name}");
        }
        assert!(is_shown("runtime.gopanic", false));
    }
}
