//! The C library is found where the process has it: deleted, replaced, or in a file system of its own.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    Scratch, can_observe,
    child::run,
    has_program,
    helper::{Helper, compiled},
    root::{self, WORK, parts_of},
};

/// A directory with a program and all that it needs.
fn copies(program: &Path) -> (Scratch, PathBuf, PathBuf) {
    let (libc, linker) = parts_of(program);
    let directory = Scratch::directory("libraries");
    for (from, name) in [(libc.as_path(), "libc.so.6"), (&linker, "ld.so"), (program, "program")] {
        std::fs::copy(from, directory.path().join(name)).expect("it can be copied");
    }
    (directory, libc, linker)
}

fn is_counted_exactly(helper: Helper, how: &str) {
    let pid = helper.pid();
    root::is_counted_exactly(helper, pid, how);
}

#[test]
fn a_library_that_was_deleted_or_replaced_is_the_one_that_the_process_has() {
    let program = if can_observe() { compiled("calls.c", &[]) } else { return };
    let Some(program) = program else { return };
    for replaced in [false, true] {
        let (directory, _, _) = copies(&program);
        let at = |name: &str| directory.path().join(name);
        let mut command = Command::new(at("ld.so"));
        command.arg("--library-path").arg(directory.path()).arg(at("program")).args(WORK);
        let helper = Helper::spawn(&mut command);
        std::fs::remove_file(at("libc.so.6")).expect("it is there");
        std::fs::remove_file(at("ld.so")).expect("it is there");
        if replaced {
            // Another file under the name, in which the old offsets mean something else.
            std::fs::copy(at("program"), at("libc.so.6")).expect("it can be copied");
        }
        is_counted_exactly(helper, if replaced { "replaced" } else { "deleted" });
    }
}

#[test]
fn a_library_in_another_mount_namespace_is_the_one_that_the_process_has() {
    let program = if can_observe() && has_program("unshare") { compiled("calls.c", &[]) } else { return };
    let Some(program) = program else { return };
    let (directory, libc, _) = copies(&program);
    let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(directory.path().join("libc.so.6")).arg(&libc).arg(&program).args(WORK);
    // Without the right to mount, the helper wouldn't get to run at all.
    let mut try_it = Command::new("unshare");
    try_it.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    try_it.arg(directory.path().join("libc.so.6")).arg(&libc).arg("true");
    let trial = run(&mut try_it);
    if !trial.status.success() {
        return common::skip(&format!("a file can't be mounted over another: {:?}", trial.complaints()));
    }
    is_counted_exactly(Helper::spawn(&mut command), "mounted over");
}

#[test]
fn a_library_below_another_root_is_the_one_that_the_process_has() {
    let program = if can_observe() && has_program("chroot") { compiled("calls.c", &[]) } else { return };
    let Some(program) = program else { return };
    let directory = root::with(&program);
    let mut command = Command::new("chroot");
    command.arg(directory.path()).arg("/program").args(WORK);
    is_counted_exactly(Helper::spawn(&mut command), "below another root");
}
