//! The rules. Each looks at one file and says what breaks it, and what to do.

use super::Finding;
use super::source::{self, Token};

/// A file longer than this is two files.
const MAX_LINES: usize = 500;

/// The rooms that compute and do nothing else: bytes and values in, values out.
const PURE_ROOMS: [&str; 5] = ["binary", "export", "governor", "leaks", "stalls"];

/// The doors to the outside, which a pure room doesn't open.
const DOORS: [&str; 3] = ["fs", "net", "process"];

/// The library that talks to the kernel, as its crates are named in code.
const AYA: [&str; 3] = ["aya", "aya_log", "aya_obj"];

/// Directories of the machine somebody happens to work on. Put together here so that this file may be checked too.
const MACHINE_PATHS: [&str; 3] = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "tmp/boot")];

/// Everything wrong with a file.
pub fn check(file: &str, text: &str) -> Vec<Finding> {
    let mut found = Found { file, findings: Vec::new() };
    machine_paths(text, &mut found);
    if file.ends_with(".rs") {
        let tokens = source::tokens(text);
        length(text, &mut found);
        unfinished(&tokens, &mut found);
        ignored_tests(&tokens, &mut found);
        one_room_names(&tokens, &mut found);
        export_is_apart(&tokens, &mut found);
        pure_rooms(&tokens, &mut found);
    }
    found.findings
}

struct Found<'a> {
    file: &'a str,
    findings: Vec<Finding>,
}

impl Found<'_> {
    fn add(&mut self, line: usize, what: &str) {
        self.findings.push(Finding { file: self.file.to_owned(), line, what: what.to_owned() });
    }

    /// Whether the file belongs to a room of the profiler: a folder, or a module of one file.
    fn is_in_room(&self, room: &str) -> bool {
        let Some(inside) = self.file.strip_prefix("profiler/src/") else { return false };
        let rest = inside.strip_prefix(room);
        rest.is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }
}

fn machine_paths(text: &str, found: &mut Found<'_>) {
    for (number, line) in text.lines().enumerate() {
        if let Some(path) = MACHINE_PATHS.iter().find(|path| names_path(line, path)) {
            found.add(
                number + 1,
                &format!("{path} is a path of one machine: use a relative or a configured one"),
            );
        }
    }
}

/// Whether the line names the absolute path, and not a longer one (`/proc/1/root/`) or an address that contains it.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"_-./}>)]*$%~".contains(c))
    })
}

fn length(text: &str, found: &mut Found<'_>) {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.add(MAX_LINES + 1, &format!("{lines} lines, more than {MAX_LINES}: split the file by concern"));
    }
}

fn unfinished(tokens: &[Token], found: &mut Found<'_>) {
    for (at, token) in tokens.iter().enumerate() {
        if matches!(token.text.as_str(), "todo" | "unimplemented") && source::is(tokens, at + 1, "!") {
            let what =
                format!("{}! ends the program: write the code, or return an error that says why", token.text);
            found.add(token.line, &what);
        }
    }
}

fn ignored_tests(tokens: &[Token], found: &mut Found<'_>) {
    for at in 0..tokens.len() {
        if !(source::is(tokens, at, "#") && source::is(tokens, at + 1, "[")) {
            continue;
        }
        let end = tokens[at..]
            .iter()
            .position(|token| token.text == "]")
            .map_or(tokens.len(), |length| at + length);
        let conditional = source::is(tokens, at + 2, "cfg_attr");
        let ignore = (at + 2..end).find(|place| {
            source::is(tokens, *place, "ignore")
                && (*place == at + 2 || conditional && source::is(tokens, place - 1, ","))
        });
        if let Some(place) = ignore {
            found.add(
                tokens[place].line,
                "an ignored test checks nothing: mend it, or let it skip itself and say why",
            );
        }
    }
}

fn one_room_names(tokens: &[Token], found: &mut Found<'_>) {
    // The kernel side is written with aya's other half, and is nobody's caller.
    if found.file.starts_with("profiler-ebpf/") {
        return;
    }
    let (kernel, target) = (found.is_in_room("kernel"), found.is_in_room("target"));
    for (at, token) in tokens.iter().enumerate() {
        let follows_path = at > 0 && source::is(tokens, at - 1, ":");
        if !kernel && AYA.contains(&token.text.as_str()) {
            found.add(
                token.line,
                "aya is named only under profiler/src/kernel/: add what you need to that room",
            );
        }
        let named = source::is(tokens, at + 1, ":") && source::is(tokens, at + 2, ":")
            || at > 0 && source::is(tokens, at - 1, "use");
        if !target && token.text == "procfs" && named && !follows_path {
            found.add(
                token.line,
                "procfs is named only under profiler/src/target/: add what you need to that room",
            );
        }
    }
}

fn export_is_apart(tokens: &[Token], found: &mut Found<'_>) {
    if found.is_in_room("export") {
        for line in source::lines_naming(tokens, "crate", "kernel") {
            found.add(line, "export never names crate::kernel: carry the value in the snapshot");
        }
    }
}

fn pure_rooms(tokens: &[Token], found: &mut Found<'_>) {
    let Some(room) = PURE_ROOMS.into_iter().find(|room| found.is_in_room(room)) else { return };
    if found.file.ends_with("/tests.rs") || found.file.contains("/tests/") {
        return;
    }
    let code = source::without_tests(tokens);
    for door in DOORS {
        for line in source::lines_naming(&code, "std", door) {
            let what = format!(
                "{room}/ is pure and never uses std::{door}: take bytes or values, let app fetch them"
            );
            found.add(line, &what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings as `line: start of the text`.
    fn findings(file: &str, text: &str) -> Vec<String> {
        check(file, text).into_iter().map(|finding| format!("{}: {}", finding.line, finding.what)).collect()
    }

    fn only(file: &str, text: &str, start: &str) {
        let all = findings(file, text);
        assert!(all.len() == 1 && all[0].starts_with(start), "{all:?} is not one finding {start:?}");
    }

    fn clean(file: &str, text: &str) {
        assert_eq!(findings(file, text), Vec::<String>::new());
    }

    #[test]
    fn the_kernel_room_alone_names_aya() {
        only("profiler/src/app.rs", "\nuse aya::Ebpf;\n", "2: aya is named only");
        only("profiler/tests/object.rs", "use aya_obj::Object;", "1: aya is named only");
        clean("profiler/src/kernel/loader.rs", "use aya::Ebpf;");
        clean("profiler/src/kernel.rs", "use aya::Ebpf;");
        clean("profiler-ebpf/src/main.rs", "use aya_ebpf::macros::map;");
        clean("profiler/src/app.rs", "// aya loads it\nlet x = \"aya\"; let aya_version = 1;");
    }

    #[test]
    fn the_target_room_alone_names_procfs() {
        only("profiler/src/stalls/mod.rs", "let x = procfs::Current::current();", "1: procfs is named only");
        only("profiler/src/app.rs", "use procfs;", "1: procfs is named only");
        clean("profiler/src/target/identity.rs", "use procfs::process::Process;");
        clean("profiler/src/app.rs", "let procfs = crate::target::procfs::open();");
    }

    #[test]
    fn unfinished_code_and_ignored_tests_are_found() {
        only("xtask/src/main.rs", "fn f() { todo!() }", "1: todo!");
        only("profiler/src/app.rs", "fn f() {\n unimplemented!(\"x\") }", "2: unimplemented!");
        only("profiler/src/app.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}", "2: an ignored test");
        only("profiler/src/app.rs", "#[cfg_attr(miri, ignore)] fn f() {}", "1: an ignored test");
        clean("profiler/src/app.rs", "#[cfg(todo)] fn ignore() { let todo = 1; } // todo! #[ignore]");
    }

    #[test]
    fn a_long_file_is_found_at_its_first_line_too_many() {
        only("profiler/src/app.rs", &"\n".repeat(501), "501: 501 lines");
        clean("profiler/src/app.rs", &"\n".repeat(500));
        clean("docs/metrics.md", &"\n".repeat(501));
    }

    #[test]
    fn export_never_names_the_kernel_room() {
        only("profiler/src/export/json.rs", "use crate::kernel::Outcome;", "1: export never");
        only(
            "profiler/src/export/json.rs",
            "use crate::{\n snapshot::Snapshot,\n kernel,\n};",
            "3: export never",
        );
        clean("profiler/src/export/json.rs", "use crate::{snapshot::{kernel}, config};");
        clean("profiler/src/server/mod.rs", "use crate::kernel::Outcome;");
    }

    #[test]
    fn pure_rooms_open_no_door_outside_their_tests() {
        only("profiler/src/binary/elf.rs", "use std::fs::File;", "1: binary/ is pure");
        only("profiler/src/stalls.rs", "use std::{io, process};", "1: stalls/ is pure");
        clean("profiler/src/binary/elf.rs", "#[cfg(test)]\nmod tests { use std::fs; }");
        clean("profiler/src/binary/tests.rs", "use std::fs;");
        clean("profiler/src/binary_cache.rs", "use std::fs;");
    }

    #[test]
    fn paths_of_one_machine_are_found_in_every_file() {
        let [home, root, boot] = MACHINE_PATHS;
        only("README.md", &format!("see {home}main"), "1: ");
        only("profiler/src/app.rs", &format!("let x = \"{root}.cargo\";"), "1: ");
        only(".ci/run", &format!("\n{boot}/bin/x"), "2: ");
        clean("README.md", &format!("a/b{home}c and https://example.org{home}"));
        clean("profiler/src/app.rs", &format!("format!(\"/proc/{{pid}}{root}usr\")"));
    }
}
