//! What is taken away from a program, and where it is put instead.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    super::has_program,
    build::{must, once},
};

fn beside(program: &Path, suffix: &str) -> PathBuf {
    let mut name = program.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A copy without any symbol that the program could do without.
pub fn stripped(program: &Path) -> Option<PathBuf> {
    if !has_program("strip") {
        return None;
    }
    once(&beside(program, "-stripped"), |output| {
        must(Command::new("strip").arg("--strip-all").arg("-o").arg(output).arg(program));
        Some(())
    })
}

/// A copy with its function symbols in `.gnu_debugdata`: an ELF file without code, compressed by xz
/// (<https://sourceware.org/gdb/current/onlinedocs/gdb.html/MiniDebugInfo.html>).
pub fn with_mini_debug_info(program: &Path) -> Option<PathBuf> {
    if !["nm", "objcopy", "strip", "xz"].iter().all(|tool| has_program(tool)) {
        return None;
    }
    once(&beside(program, "-mini"), |output| {
        let part = |name: &str| beside(output, name);
        let list = String::from_utf8(must(
            Command::new("nm").args(["--format=posix", "--defined-only"]).arg(program),
        ))
        .expect("names are text");
        let mut names = std::fs::File::create(part(".names")).expect("the build directory can be written");
        for line in list.lines() {
            let mut words = line.split(' ');
            if let (Some(name), Some("T" | "t" | "W" | "w" | "D")) = (words.next(), words.next()) {
                writeln!(names, "{name}").expect("the build directory can be written");
            }
        }
        must(Command::new("objcopy").arg("--only-keep-debug").arg(program).arg(part(".debug")));
        let keep = format!("--keep-symbols={}", part(".names").display());
        must(
            Command::new("objcopy")
                .args(["-S", "--remove-section", ".gdb_index", "--remove-section", ".comment", &keep])
                .arg(part(".debug"))
                .arg(part(".small")),
        );
        let small = must(Command::new("xz").args(["--stdout", "--keep", "--force"]).arg(part(".small")));
        std::fs::write(part(".xz"), small).expect("the build directory can be written");
        let section = format!(".gnu_debugdata={}", part(".xz").display());
        must(Command::new("strip").arg("--strip-all").arg("-o").arg(part(".bare")).arg(program));
        must(Command::new("objcopy").arg("--add-section").arg(section).arg(part(".bare")).arg(output));
        for name in [".names", ".debug", ".small", ".xz", ".bare"] {
            std::fs::remove_file(part(name)).expect("it was written above");
        }
        Some(())
    })
}

/// A directory that holds a stripped `/program`, and its symbols below `/usr/lib/debug`, named by its build id.
pub fn root_with_debug_file(program: &Path) -> Option<PathBuf> {
    if !["chroot", "readelf", "objcopy", "strip"].iter().all(|tool| has_program(tool)) {
        return None;
    }
    once(&beside(program, "-root"), |output| {
        let notes = String::from_utf8(must(Command::new("readelf").arg("--notes").arg(program)))
            .expect("notes are text");
        let id = notes.split("Build ID: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let (head, tail) = id.expect("a build id").split_at(2);
        let place = output.join("usr/lib/debug/.build-id").join(head);
        std::fs::create_dir_all(&place).expect("the build directory can be written");
        let debug = place.join(format!("{tail}.debug"));
        must(Command::new("objcopy").arg("--only-keep-debug").arg(program).arg(debug));
        let bare = output.join("program");
        must(Command::new("strip").arg("--strip-all").arg("-o").arg(bare).arg(program));
        Some(())
    })
}
