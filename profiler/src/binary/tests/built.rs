//! Real files, made by this machine's compilers, and what `nm` says of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::test_support::skip;

/// A program with allocator calls, a function of its own that others may use, and two that nobody sees from outside.
const SOURCE: &str = r#"
#include <stdlib.h>
__attribute__((noinline)) static void *hidden(int n) { return malloc(n); }
__attribute__((noinline)) void *shown(int n) { void *p = hidden(n); return realloc(p, n + n); }
int main(int argc, char **argv) { (void)argv; free(shown(argc)); free(calloc(argc, argc)); return 0; }
"#;

/// A directory that is gone when it is dropped.
pub struct Workshop(PathBuf);

impl Drop for Workshop {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

impl Workshop {
    /// An empty one, with the source in it. `None`, and a skipped test, if one of the programs isn't there.
    pub fn with(programs: &[&str]) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        for program in programs {
            if !std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
                skip(&format!("there is no program {program}"));
                return None;
            }
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("profiler-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let workshop = Self(path);
        workshop.write("source.c", SOURCE.as_bytes());
        Some(workshop)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, contents: &[u8]) {
        std::fs::write(self.path(name), contents).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs a line of words in the directory. They are no shell's: no word has spaces.
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Compiles the source to `program`, strips a copy of it to `stripped`, and keeps the symbols in `program.debug`.
    pub fn build(&self, compiler: &str) {
        let (compiler, options) = compiler.split_once(' ').unwrap_or((compiler, ""));
        self.run(&format!("{compiler} -g -O1 -fno-builtin -Wl,--build-id {options} -o program source.c"));
        self.run("objcopy --only-keep-debug program program.debug");
        self.run("strip -o stripped program");
    }

    /// Compresses the symbols that a stripped file lacks into its copy `mini`, in the steps that the GDB manual
    /// ("MiniDebugInfo") shows, which are those of Fedora's packages.
    pub fn add_mini_debug_info(&self) {
        let names = |line: &str| -> BTreeSet<String> {
            let output = self.run(line);
            output.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string).collect()
        };
        let dynamic = names("nm -D program --format=posix --defined-only");
        let all = self.run("nm program --format=posix --defined-only");
        let functions = all.lines().filter(|line| {
            let kind = line.split_whitespace().nth(1).unwrap_or("");
            matches!(kind, "T" | "t" | "D")
        });
        let functions: BTreeSet<String> =
            functions.filter_map(|line| line.split_whitespace().next()).map(str::to_string).collect();
        let kept: Vec<_> = functions.difference(&dynamic).cloned().collect();
        self.write("keep", kept.join("\n").as_bytes());
        self.run("objcopy -S --remove-section .gdb_index --remove-section .comment --keep-symbols=keep program.debug minidebug");
        self.run("xz --keep --force minidebug");
        self.run("objcopy --add-section .gnu_debugdata=minidebug.xz stripped mini");
    }

    /// Address, size and whether it is local, of all functions with that name that `nm` finds.
    pub fn truth(&self, file: &str, name: &str) -> BTreeSet<(u64, u64, bool)> {
        nm(&self.path(file), name)
    }
}

/// See [`Workshop::truth`].
pub fn nm(file: &Path, name: &str) -> BTreeSet<(u64, u64, bool)> {
    let output = Command::new("nm").args(["--defined-only", "--print-size"]).arg(file).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let mut found = BTreeSet::new();
    for line in output.lines() {
        if let [address, size, kind @ ("T" | "t" | "W" | "w"), symbol] =
            *line.split_whitespace().collect::<Vec<_>>()
            && symbol.split('@').next() == Some(name)
        {
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            found.insert((number(address), number(size), kind == "t"));
        }
    }
    found
}
