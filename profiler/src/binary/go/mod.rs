//! Programs made by Go, from their file alone: build information, where the runtime keeps its figures, and names of places
//! in code. Pure over the file's bytes; works for stripped programs, too.

mod analysis;
pub mod build_info;
pub mod image;
pub mod layout;
pub mod lines;
pub mod moduledata;
pub mod pclntab;
mod recovery;
pub mod references;
mod stops;
pub mod tables;
mod types;

use serde::{Deserialize, Serialize};

pub use analysis::analyse;
pub use layout::Layout;
pub use lines::Lines;

/// What a file says of the Go program in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoImage {
    /// As the program has it: `go1.22.1`, `go1.25.5 X:greenteagc`.
    pub version: String,
    /// What it was built from and how; or why that isn't known.
    pub build: Result<BuildInfo, String>,
    /// Where its runtime keeps its figures; or why that isn't known.
    pub runtime: Result<Places, String>,
}

/// Whether a file is a Go program without any C in it: it can't have an allocator but Go's own.
pub fn is_without_c(file: &[u8]) -> bool {
    let found = image::GoFile::read(file).ok().and_then(|file| build_info::read(&file));
    let build = found.and_then(|found| found.build.ok());
    build.is_some_and(|build| build.setting("CGO_ENABLED") == Some("0"))
}

/// What Go's linker writes into every program (Go's src/debug/buildinfo and src/runtime/debug/mod.go).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// The main package's path.
    pub path: String,
    /// The module that holds it, if it is in one.
    pub main: Option<Module>,
    /// The modules that it was built from, in the order of the program.
    pub dependencies: Vec<Module>,
    /// How: `-race`, `GOARCH`, `vcs.revision`, ... in the order of the program.
    pub settings: Vec<(String, String)>,
}

impl BuildInfo {
    /// The value of a setting.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

/// A module that a program was built from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its path: `github.com/prometheus/client_golang`.
    pub path: String,
    /// Its version: `v1.20.5`, `(devel)`.
    pub version: String,
    /// Its checksum as in `go.sum`; empty for what is built from a directory.
    pub sum: String,
    /// What was taken in its place. That isn't replaced itself (Go's src/runtime/debug/mod.go).
    #[serde(with = "replaced")]
    pub replace: Option<Box<Module>>,
}

/// What was taken in a module's place, written down without a replacement of its own: a chain of them would overflow the
/// stack of whoever reads it, and the reader must not believe the writer.
mod replaced {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Module;

    #[expect(clippy::ref_option, reason = "serde passes the field")]
    pub fn serialize<S: Serializer>(replace: &Option<Box<Module>>, to: S) -> Result<S::Ok, S::Error> {
        replace.as_ref().map(|module| (&module.path, &module.version, &module.sum)).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<Module>>, D::Error> {
        let module = Option::<(String, String, String)>::deserialize(from)?;
        Ok(module.map(|(path, version, sum)| Box::new(Module { path, version, sum, replace: None })))
    }
}

/// A range of virtual addresses in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
}

/// Where a runtime keeps its figures. Addresses are virtual addresses in the file: a position-independent program is mapped
/// somewhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// The lowest address that is mapped (of the first `PT_LOAD`), rounded down to a page.
    pub base: u64,
    /// Which version's table the layout is from.
    pub table: String,
    /// Whether that is the program's exact version.
    pub exact: bool,
    /// How the globals were found.
    pub found: Found,
    /// Its globals.
    pub globals: Globals,
    /// Its structures.
    pub layout: Layout,
    /// The code of the program.
    pub text: Span,
    /// `runtime.stopTheWorldWithSema` and `startTheWorldWithSema`.
    pub worlds: Option<(Span, Span)>,
    /// Where in the file those two are probed, as offsets; `None` for machines without such probes.
    pub world_sites: Option<(u64, u64)>,
    /// What of the runtime's own code tells goroutines of the system: `runtime.main`, `runtime.corostart`, ... starts that
    /// are users' although their names begin with `runtime.`.
    pub user_starts: Vec<u64>,
}

/// How globals were found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// By the symbol table.
    #[default]
    Symbols,
    /// By the references to them in functions that every program has.
    References {
        /// Functions whose references were all as in the table.
        same: u32,
        /// Functions that were compared.
        of: u32,
    },
}

/// Addresses of the runtime's globals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Globals {
    /// `runtime.memstats`.
    pub memstats: u64,
    /// `runtime.mheap_`.
    pub mheap: u64,
    /// `runtime.gcController`.
    pub gc_controller: u64,
    /// `runtime.sched`.
    pub sched: u64,
    /// `runtime.allp`, a slice.
    pub allp: u64,
    /// `runtime.allglen`.
    pub allglen: u64,
    /// `runtime.allgs`, a slice.
    pub allgs: u64,
    /// `runtime.gomaxprocs`.
    pub gomaxprocs: u64,
    /// `runtime.ncpu` (from Go 1.25 `runtime.numCPUStartup`), if found.
    pub ncpu: Option<u64>,
    /// `runtime.emptymspan`, if found: without it, what the caches hold can't be counted.
    pub emptymspan: Option<u64>,
    /// `runtime.mbuckets`, if found.
    pub mbuckets: Option<u64>,
    /// `runtime.mProfCycle`, if found.
    pub mprof_cycle: Option<u64>,
    /// `runtime.MemProfileRate`, if found.
    pub mem_profile_rate: Option<u64>,
}

/// Why a file of Go's can't be made sense of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoError {
    /// It is no ELF file for 64 bit, or damaged.
    #[error("{0}")]
    Elf(String),
}

#[cfg(test)]
mod tests;
