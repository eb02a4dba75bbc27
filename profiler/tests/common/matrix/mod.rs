//! The programs of the matrix: which there are, how each is built, and how it is started.
//!
//! What was built stays in the build directory under a name that tells what it was built from, so that a second run
//! builds nothing.

mod build;
mod strip;

use std::{path::PathBuf, process::Command};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    Glibc,
    Musl,
    Jemalloc,
    Tcmalloc,
    Mimalloc,
}

/// How a program comes to its allocator, and what is left of its symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linking {
    /// A shared library that it was linked against. Distributions strip these: only exported names are left.
    Shared,
    /// `LD_PRELOAD` before a program that was linked against the C library alone.
    Preloaded,
    /// The allocator's archive (or crate) within a dynamic program.
    LinkedIn,
    /// The same, stripped: what other libraries call is still exported.
    LinkedInStripped,
    /// Everything within one file.
    Static,
    /// The same, without any symbol.
    StaticStripped,
    /// The same, and its symbols in a file below `/usr/lib/debug/.build-id`.
    DebugFile,
    /// The same, and its function symbols compressed in `.gnu_debugdata`, as Fedora does it.
    MiniDebugInfo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    Cpp,
    Rust,
}

impl Allocator {
    pub const ALL: [Self; 5] = [Self::Glibc, Self::Musl, Self::Jemalloc, Self::Tcmalloc, Self::Mimalloc];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
            Self::Jemalloc => "jemalloc",
            Self::Tcmalloc => "tcmalloc",
            Self::Mimalloc => "mimalloc",
        }
    }

    /// The shared library that replaces the C library's allocator, as a linker is told; none is the C library.
    const fn library(self) -> Option<&'static str> {
        match self {
            Self::Glibc | Self::Musl => None,
            Self::Jemalloc => Some("jemalloc"),
            Self::Tcmalloc => Some("tcmalloc_minimal"),
            Self::Mimalloc => Some("mimalloc"),
        }
    }

    /// The file that is preloaded.
    const fn preload(self) -> Option<&'static str> {
        match self {
            Self::Glibc | Self::Musl => None,
            Self::Jemalloc => Some("libjemalloc.so.2"),
            Self::Tcmalloc => Some("libtcmalloc_minimal.so.4"),
            Self::Mimalloc => Some("libmimalloc.so.2"),
        }
    }
}

impl Linking {
    pub const ALL: [Self; 8] = [
        Self::Shared,
        Self::Preloaded,
        Self::LinkedIn,
        Self::LinkedInStripped,
        Self::Static,
        Self::StaticStripped,
        Self::DebugFile,
        Self::MiniDebugInfo,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Preloaded => "preloaded",
            Self::LinkedIn => "linked in",
            Self::LinkedInStripped => "linked in, stripped",
            Self::Static => "static",
            Self::StaticStripped => "static, stripped",
            Self::DebugFile => "stripped, debug file",
            Self::MiniDebugInfo => "stripped, MiniDebugInfo",
        }
    }
}

impl Language {
    pub const ALL: [Self; 3] = [Self::C, Self::Cpp, Self::Rust];

    pub const fn name(self) -> &'static str {
        match self {
            Self::C => "C",
            Self::Cpp => "C++",
            Self::Rust => "Rust",
        }
    }
}

/// One cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub allocator: Allocator,
    pub linking: Linking,
    pub language: Language,
}

/// A program that was built, and how to start it.
pub struct Program {
    file: PathBuf,
    preload: Option<&'static str>,
    /// It sees this directory as its whole file system.
    root: Option<PathBuf>,
}

impl Variant {
    /// Its program. `None` if something is missing here for building it; the test is skipped then.
    pub fn program(self) -> Option<Program> {
        let with = |linking| build::build(Self { linking, ..self });
        let plain = |file| Program { file, preload: None, root: None };
        Some(match self.linking {
            Linking::Shared | Linking::LinkedIn | Linking::Static => plain(with(self.linking)?),
            Linking::Preloaded => Program { preload: self.allocator.preload(), ..plain(with(self.linking)?) },
            // Built as what it is: without the functions that nobody exports.
            Linking::LinkedInStripped => plain(strip::stripped(&with(self.linking)?)?),
            Linking::StaticStripped => plain(strip::stripped(&with(Linking::Static)?)?),
            Linking::MiniDebugInfo => plain(strip::with_mini_debug_info(&with(Linking::Static)?)?),
            Linking::DebugFile => {
                let root = strip::root_with_debug_file(&with(Linking::Static)?)?;
                Program { root: Some(root), ..plain(PathBuf::from("/program")) }
            }
        })
    }

    /// A part of the name of the shared library that has to be mapped for this to be what it is said to be.
    pub fn maps(self) -> Option<String> {
        match (self.linking, self.allocator) {
            (Linking::Shared | Linking::Preloaded, _) => {
                self.allocator.library().map(|name| format!("/lib{name}.so"))
            }
            _ => None,
        }
    }
}

impl Program {
    pub fn command(&self) -> Command {
        let mut command = match &self.root {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root);
                command.arg(&self.file);
                command
            }
            None => Command::new(&self.file),
        };
        if let Some(library) = self.preload {
            command.env("LD_PRELOAD", library);
        }
        command
    }
}
