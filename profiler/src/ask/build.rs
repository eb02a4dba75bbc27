//! `profiler version` and `profiler modules`: how a program was built, and from what.

use std::{fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::{ask, describe, print, print_json};
use crate::{
    binary::go::{BuildInfo, Found, GoImage, Module},
    describe::Described,
    snapshot::{ProgramDescription, ProgramPart},
};

#[derive(Serialize)]
struct Version {
    pid: u32,
    exe: String,
    /// What runs in it.
    runtime: &'static str,
    version: Option<String>,
    /// Of a Go program: its main package, module and settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<BuildInfo>,
    /// Of a Go program: how well its runtime can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    readable: Option<Result<String, String>>,
}

/// Prints with which version of its language and how a program was built.
///
/// # Errors
///
/// If the process can't be read.
pub fn version(pid: u32, json: bool) -> anyhow::Result<ExitCode> {
    let Described { program, runtime, go, .. } = ask(pid, move || Ok(describe(pid)?.1))?;
    let build = program.go.as_ref().and_then(|go| go.info.clone());
    let told = Version {
        pid,
        exe: program.exe.clone(),
        runtime: runtime.name(),
        version: go.as_ref().map(|go| go.version.clone()).or_else(|| runtime.version().map(str::to_owned)),
        build,
        readable: go.as_ref().map(|go| readable(go)),
    };
    if json {
        return print_json(&told);
    }
    let first = go.as_ref().map_or_else(|| runtime.to_string(), |go| go.version.clone());
    let mut text = format!("{first}\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a string can't fail.
        let _infallible = writeln!(text, "{name:<9} {value}");
    };
    line("program", &told.exe);
    if let Some(build) = &told.build {
        line("path", &build.path);
        if let Some(main) = &build.main {
            line("module", format!("{} {}", main.path, main.version).trim_end());
        }
        for (key, value) in &build.settings {
            line("build", &format!("{key}={value}"));
        }
    }
    match &told.readable {
        Some(Ok(how)) => line("runtime", how),
        Some(Err(why)) => line("runtime", &format!("can't be read: {why}")),
        None => {}
    }
    if let Some(trouble) = program.trouble() {
        line("trouble", &trouble);
    }
    Ok(print(&text))
}

fn readable(image: &GoImage) -> Result<String, String> {
    let places = image.runtime.as_ref().map_err(Clone::clone)?;
    let table = if places.exact {
        format!("by the table of go{}", places.table)
    } else {
        format!("by the table of go{}, the nearest one", places.table)
    };
    Ok(match &places.found {
        Found::Symbols => format!("{table}, found by its symbols"),
        Found::References { same, of } => {
            format!("{table}, found by references in its code ({same} of {of} functions are as expected)")
        }
    })
}

#[derive(Serialize)]
struct Modules {
    pid: u32,
    exe: String,
    /// Of a Go program.
    #[serde(skip_serializing_if = "Option::is_none")]
    go: Option<BuildInfo>,
    /// Rust's crates, Python's distributions, mapped libraries.
    parts: Vec<ProgramPart>,
    left_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// Prints what a program was built from and has loaded.
///
/// # Errors
///
/// If the process can't be read.
pub fn modules(pid: u32, json: bool) -> anyhow::Result<ExitCode> {
    let program = ask(pid, move || Ok(describe(pid)?.1.program))?;
    let go = program.go.as_ref().and_then(|go| go.info.clone());
    if json {
        let exe = program.exe.clone();
        let (parts, trouble) = (program.parts.clone(), program.trouble());
        return print_json(&Modules { pid, exe, go, parts, left_out: program.left_out, trouble });
    }
    Ok(print(&list(&program, go.as_ref())))
}

/// A line for each: kind, name, version, and what else tells it from others.
fn list(program: &ProgramDescription, go: Option<&BuildInfo>) -> String {
    let mut rows: Vec<[String; 4]> = Vec::new();
    let mut of_go = |kind: &str, module: &Module| {
        let used = module.replace.as_deref().unwrap_or(module);
        let mut more = used.sum.clone();
        if module.replace.is_some() {
            more = format!("{more} instead of {} {}", module.path, module.version).trim_start().to_owned();
        }
        rows.push([kind.to_owned(), used.path.clone(), used.version.clone(), more]);
    };
    if let Some(build) = go {
        build.main.iter().for_each(|module| of_go("main", module));
        build.dependencies.iter().for_each(|module| of_go("go", module));
    }
    for part in &program.parts {
        rows.push([part.kind.to_owned(), part.name.clone(), part.version.clone(), part.build_id.clone()]);
    }
    let recorded = go.is_some_and(|go| go.main.is_some() || !go.dependencies.is_empty());
    let silent = program.go.is_some() && !recorded;
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [kind, name, version, more] in &rows {
        let version = if version.is_empty() { "-" } else { version };
        let line = format!("{kind:<0$}  {name:<1$}  {version:<2$}  {more}", widths[0], widths[1], widths[2]);
        // Writing to a string can't fail.
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
    if silent {
        text.push_str("its modules aren't known: Go's linker has recorded none\n");
    }
    if program.left_out > 0 {
        let _infallible = writeln!(text, "and {} more", program.left_out);
    }
    if let Some(trouble) = program.trouble() {
        let _infallible = writeln!(text, "not all could be read: {trouble}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_is_told_beside_what_took_its_place() {
        let module = |path: &str, version: &str, sum: &str| Module {
            path: path.to_owned(),
            version: version.to_owned(),
            sum: sum.to_owned(),
            replace: None,
        };
        let build = BuildInfo {
            path: "example.org/x/cmd".to_owned(),
            main: Some(module("example.org/x", "(devel)", "")),
            dependencies: vec![
                module("github.com/a/b", "v1.2.3", "h1:abc="),
                Module {
                    replace: Some(Box::new(module("../c", "", ""))),
                    ..module("example.org/c", "v0.1.0", "")
                },
            ],
            settings: Vec::new(),
        };
        let part = ProgramPart {
            kind: "library",
            name: "libc.so".to_owned(),
            version: "6".to_owned(),
            build_id: "ab12".to_owned(),
        };
        let program = ProgramDescription { parts: vec![part], left_out: 2, ..Default::default() };
        let text = list(&program, Some(&build));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "main     example.org/x   (devel)",
                "go       github.com/a/b  v1.2.3   h1:abc=",
                "go       ../c            -        instead of example.org/c v0.1.0",
                "library  libc.so         6        ab12",
                "and 2 more",
            ]
        );
    }
}
