//! The Go toolchains of this machine, and the program that they make.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use super::super::{child::run_within, has_program, skip};

/// Where Debian has Go, which it puts in no path.
const DEBIAN: &str = "/usr/lib/go-1.19/bin/go";
/// Directories with more of them, as `PATH` has directories; `cargo xtask test` sets it.
const MORE: &str = "PROFILER_GO_TOOLCHAINS";

/// A toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// `1.27.3`.
    pub version: String,
    pub go: PathBuf,
}

/// How a program is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Build {
    Default,
    Stripped,
    Pie,
    PieStripped,
    Cgo,
    Race,
    /// Without anything that reads the runtime's profile of the heap: the linker turns it off.
    NoProfile,
}

impl Build {
    pub const MATRIX: [Self; 6] =
        [Self::Default, Self::Stripped, Self::Pie, Self::PieStripped, Self::Cgo, Self::Race];

    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Stripped => "-s -w",
            Self::Pie => "PIE",
            Self::PieStripped => "PIE -s -w",
            Self::Cgo => "cgo",
            Self::Race => "-race",
            Self::NoProfile => "no profile",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Default => &[],
            Self::Stripped => &["-ldflags=-s -w"],
            Self::Pie => &["-buildmode=pie"],
            Self::PieStripped => &["-buildmode=pie", "-ldflags=-s -w"],
            Self::Cgo => &["-tags=withc"],
            Self::Race => &["-race"],
            Self::NoProfile => &["-tags=noprofile"],
        }
    }

    fn needs_c(self) -> bool {
        matches!(self, Self::Cgo | Self::Race)
    }
}

impl Toolchain {
    /// All that are here, the oldest first.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        if Path::new(DEBIAN).exists() {
            all.extend(Self::at(Path::new(DEBIAN)));
        }
        if let Some(directories) = std::env::var_os(MORE) {
            let mut found = Vec::new();
            for directory in std::env::split_paths(&directories) {
                find(&directory, 5, &mut found);
            }
            all.extend(found.iter().filter_map(|go| Self::at(go)));
        }
        all.sort_by_key(Self::numbers);
        all.dedup_by(|one, other| one.version == other.version);
        all
    }

    /// The oldest and the newest: what the CI looks at. Without any the test is skipped.
    pub fn representative() -> Vec<Self> {
        let mut all = Self::all();
        if all.is_empty() {
            skip(&format!("there is no {DEBIAN}, and {MORE} names no directory with toolchains"));
        }
        if all.len() > 2 {
            all.drain(1..all.len() - 1);
        }
        all
    }

    /// The newest of all.
    pub fn newest() -> Option<Self> {
        Self::representative().pop()
    }

    fn at(go: &Path) -> Option<Self> {
        // Asking it would start it; the file says the same: `go1.27.3`, and maybe a line with a time.
        let root = go.parent()?.parent()?;
        let text = std::fs::read_to_string(root.join("VERSION")).ok()?;
        let version = text.lines().next()?.strip_prefix("go")?.trim().to_owned();
        Some(Self { version, go: go.to_owned() })
    }

    /// `1.19.8` as numbers, for an order.
    pub fn numbers(&self) -> Vec<u32> {
        self.version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    }

    /// The program made by it. `None` if it needs a compiler of C, and there is none; the test is skipped then.
    pub fn program(&self, build: Build) -> Option<PathBuf> {
        static DONE: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
        if build.needs_c() && !has_program("cc") {
            return None;
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/go");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        let output = directory.join(&self.version).join(build.name().replace(' ', ""));
        // One after the other: a linker needs half a gigabyte, and all of them the same cache.
        let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let done = done.get_or_insert_default();
        if done.contains(&output) {
            return Some(output);
        }
        std::fs::create_dir_all(directory.join(&self.version)).expect("the build directory can be written");
        let partial = directory.join(format!("partial.{}", std::process::id()));
        let mut command = Command::new(&self.go);
        command.arg("build").args(build.options()).arg("-o").arg(&partial).arg(".").current_dir(source);
        command.env("GOCACHE", directory.join("cache")).env("GOPATH", directory.join("path"));
        command
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=mod")
            .env("GOPROXY", "off")
            .env("GOWORK", "off");
        command.env("CGO_ENABLED", if build.needs_c() { "1" } else { "0" });
        command.env_remove("GOROOT").env_remove("GOEXPERIMENT").env_remove("GODEBUG");
        let ended = run_within(&mut command, Duration::from_secs(600));
        assert!(ended.status.success(), "{command:?}: {:#?}", ended.complaints());
        // An older one may be running; it keeps its file.
        std::fs::rename(&partial, &output).expect("the build directory can be written");
        done.insert(output.clone());
        Some(output)
    }
}

/// Every `bin/go` below a directory.
fn find(directory: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    let go = directory.join("bin/go");
    if go.is_file() {
        found.push(go);
        return;
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), depth, found);
        }
    }
}
