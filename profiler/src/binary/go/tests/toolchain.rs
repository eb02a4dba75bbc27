//! Real programs, built by the Go toolchains that are here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::test_support::skip;

const SOURCE: &str = "package main\n\nimport \"time\"\n\nfunc main() { time.Sleep(0) }\n";
const MODULE: &str = "module example.com/mini\n\ngo 1.19\n";
/// Where Debian has one.
const DEBIAN: &str = "/usr/lib/go-1.19/bin/go";

/// A toolchain.
pub struct Toolchain {
    go: PathBuf,
    /// `go1.22.10`.
    pub version: String,
}

/// The toolchains at the paths in `PROFILER_GO` (with colons between), else Debian's. Without any, the test is skipped.
pub fn toolchains() -> Vec<Toolchain> {
    let named = std::env::var_os("PROFILER_GO");
    let paths: Vec<_> = named.iter().flat_map(std::env::split_paths).collect();
    let paths = if paths.is_empty() { vec![PathBuf::from(DEBIAN)] } else { paths };
    let found: Vec<_> = paths.iter().filter(|path| path.is_file()).map(|path| Toolchain::at(path)).collect();
    if found.is_empty() {
        skip("there is no Go toolchain: name one in PROFILER_GO");
    }
    found
}

impl Toolchain {
    fn at(go: &Path) -> Self {
        let version = Self::run(Command::new(go).args(["env", "GOVERSION"]), go);
        Self { go: go.to_owned(), version: version.trim().to_owned() }
    }

    fn run(command: &mut Command, go: &Path) -> String {
        // Nothing is fetched, whatever the machine's settings are.
        let command = command.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod").env("GOPROXY", "off");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{go:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A program that sleeps no time, built with these options and variables, and what `go version -m` says of it.
    fn build(&self, options: &[&str], variables: &[(&str, &str)]) -> (Vec<u8>, String) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // What is compiled on the way is kept, so that the runtime is compiled once.
        let kept = std::env::temp_dir().join(format!("profiler-go-{}", self.version));
        let directory = kept.join(std::process::id().to_string());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("main.go"), SOURCE).unwrap();
        std::fs::write(directory.join("go.mod"), MODULE).unwrap();
        let mut command = Command::new(&self.go);
        command.args(["build", "-p", "1", "-o", "mini"]).args(options).arg(".").current_dir(&directory);
        command.env("GOCACHE", kept.join("cache")).env("CGO_ENABLED", "0").envs(variables.iter().copied());
        Self::run(&mut command, &self.go);
        let program = directory.join("mini");
        let text = Self::run(Command::new(&self.go).args(["version", "-m"]).arg(&program), &self.go);
        let bytes = std::fs::read(program).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
        (bytes, text)
    }

    /// The program.
    pub fn program(&self, options: &[&str], variables: &[(&str, &str)]) -> Vec<u8> {
        self.build(options, variables).0
    }

    /// The program, and what `go version -m` says of it, without the first line (its path and the version).
    pub fn information(&self, options: &[&str]) -> (Vec<u8>, String) {
        let (program, text) = self.build(options, &[]);
        (program, text.split_once('\n').unwrap().1.to_owned())
    }
}

fn number(file: &[u8], at: usize, size: usize) -> usize {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&file[at..at + size]);
    usize::try_from(u64::from_le_bytes(bytes)).unwrap()
}

/// The program without its symbol table: no section is one any more (offsets: System V ABI, "Object Files").
pub fn without_symbols(file: &[u8]) -> Vec<u8> {
    let mut stripped = file.to_vec();
    let (headers, size, count) = (number(file, 40, 8), number(file, 58, 2), number(file, 60, 2));
    for header in (0..count).map(|index| headers + index * size) {
        if number(file, header + 4, 4) == 2 {
            stripped[header + 4..header + 8].fill(0);
        }
    }
    assert_ne!(stripped, file, "it has symbols");
    stripped
}

/// The program without section headers.
pub fn without_sections(file: &[u8]) -> Vec<u8> {
    let mut stripped = file.to_vec();
    stripped[40..48].fill(0);
    stripped[60..64].fill(0);
    stripped
}
