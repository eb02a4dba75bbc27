//! Which language a process runs: told by its program, and by the names of what it has mapped.

use std::fmt;

use super::{MappedObject, ProcessFacts, Program, ProgramCache};

/// Bytes of a file about a version that are read.
const VERSION_FILE: u64 = 64 << 10;

/// What runs in a process, with its version where that is known cheaply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// A program of Go's, with the version from its build information.
    Go(Option<String>),
    /// CPython, by itself or embedded as a library: `3.11`. One that was linked into a program of another name isn't
    /// recognised.
    CPython(Option<String>),
    /// A Java virtual machine.
    Jvm(Option<String>),
    /// Node.js.
    Node(Option<String>),
    /// None of these.
    Native,
}

impl Runtime {
    /// As metrics and JSON name it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Go(_) => "go",
            Self::CPython(_) => "cpython",
            Self::Jvm(_) => "jvm",
            Self::Node(_) => "node",
            Self::Native => "native",
        }
    }

    /// See the variants.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Go(version) | Self::CPython(version) | Self::Jvm(version) | Self::Node(version) => {
                version.as_deref()
            }
            Self::Native => None,
        }
    }
}

/// As people call it.
impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Go(_) => "Go",
            Self::CPython(_) => "CPython",
            Self::Jvm(_) => "JVM",
            Self::Node(_) => "Node",
            Self::Native => "native",
        })?;
        self.version().map_or(Ok(()), |version| write!(f, " {version}"))
    }
}

impl ProcessFacts {
    /// What its program's file tells. `None` if we may not read it, or it is for another kind of machine.
    pub fn program(&mut self, cache: &mut ProgramCache) -> Option<Program> {
        let file = self.open_exe()?;
        cache.look(&file).cloned()
    }

    /// What runs in it, given its program and what it has mapped.
    pub fn runtime(&mut self, program: Option<&Program>, objects: &[MappedObject]) -> Runtime {
        let exe = self.exe().unwrap_or_default().to_owned();
        let mapped = |prefix: &str| {
            objects.iter().map(|object| object.path.as_str()).find(|path| file_name(path).starts_with(prefix))
        };
        if let Some(program) = program.filter(|program| program.go) {
            return Runtime::Go(program.go_version.clone());
        }
        if let Some(library) = mapped("libjvm.so") {
            return Runtime::Jvm(self.jvm_version(library));
        }
        if let Some(library) = mapped("libpython") {
            return Runtime::CPython(python_version(file_name(library), "libpython").flatten());
        }
        if let Some(version) = python_version(file_name(&exe), "python") {
            return Runtime::CPython(version);
        }
        if matches!(file_name(&exe), "node" | "nodejs") || mapped("libnode.so").is_some() {
            return Runtime::Node(self.node_version(&exe));
        }
        Runtime::Native
    }

    /// From the file `release` in the JDK's or JRE's directory: two levels above the library, or one more on older
    /// ones, which have the machine's name in between.
    fn jvm_version(&mut self, library: &str) -> Option<String> {
        let (lib, _) = library.rsplit_once("/server/")?;
        let mut directory = lib;
        for _ in 0..3 {
            directory = directory.rsplit_once('/')?.0;
            if let Some(text) = self.read_below_root(&format!("{directory}/release"), VERSION_FILE) {
                return java_version(&String::from_utf8_lossy(&text));
            }
        }
        None
    }

    /// From the path, as version managers lay it out, or from the header that is installed beside the program.
    fn node_version(&mut self, exe: &str) -> Option<String> {
        let is_version = |part: &&str| part.split('.').count() == 3 && part.split('.').all(is_number);
        if let Some(version) = exe.split('/').filter_map(|part| part.strip_prefix('v')).find(is_version) {
            return Some(version.to_owned());
        }
        let (prefix, _) = exe.rsplit_once("/bin/")?;
        let header = self.read_below_root(&format!("{prefix}/include/node/node_version.h"), VERSION_FILE)?;
        node_header_version(&String::from_utf8_lossy(&header))
    }
}

/// The file's name in a path, without the mark of deleted files.
fn file_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

/// `python3.11`, `libpython3.6m.so.1.0`: whether it is Python (and not `python-config`, say), and which version.
fn python_version(name: &str, prefix: &str) -> Option<Option<String>> {
    let rest = name.strip_prefix(prefix)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, rest) = rest.split_at(end);
    // Letters of a build: m (old allocator), d (debug), t (free threading), u (wide characters).
    let rest = rest.trim_start_matches(|c| "dmtu".contains(c));
    // The dots of `.so` were taken for the version's.
    let whole = rest.is_empty() || rest.starts_with(".so") || number.ends_with('.') && rest.starts_with("so");
    let number = number.trim_end_matches('.');
    whole.then(|| number.contains('.').then(|| number.to_owned()))
}

/// The line `JAVA_VERSION="17.0.15"` of the file `release`.
fn java_version(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="))?;
    let version = value.trim().trim_matches('"');
    (version.starts_with(|c: char| c.is_ascii_digit()) && version.len() <= 64)
        .then(|| crate::text::clean(version))
}

/// The lines `#define NODE_MAJOR_VERSION 20` and so on.
fn node_header_version(text: &str) -> Option<String> {
    let number = |name: &str| -> Option<String> {
        let rest = text.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name))?;
        is_number(rest.trim()).then(|| rest.trim().to_owned())
    };
    let (major, minor, patch) =
        (number("NODE_MAJOR_VERSION")?, number("NODE_MINOR_VERSION")?, number("NODE_PATCH_VERSION")?);
    Some(format!("{major}.{minor}.{patch}"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::facts::example;

    #[test]
    fn python_is_told_by_its_library_or_its_name() {
        for (name, prefix, expected) in [
            ("python3.11", "python", Some(Some("3.11"))),
            ("python3.13t", "python", Some(Some("3.13"))),
            ("python2.7", "python", Some(Some("2.7"))),
            ("python3", "python", Some(None)),
            ("python", "python", Some(None)),
            ("python3.11-config", "python", None),
            ("python-argcomplete", "python", None),
            ("pypy3.10", "python", None),
            ("libpython3.11.so.1.0", "libpython", Some(Some("3.11"))),
            ("libpython3.6m.so.1.0", "libpython", Some(Some("3.6"))),
            ("libpython3.so", "libpython", Some(None)),
        ] {
            let found = python_version(name, prefix);
            assert_eq!(found, expected.map(|version| version.map(str::to_owned)), "{name}");
        }
    }

    #[test]
    fn versions_are_read_from_the_files_that_vendors_ship() {
        let release =
            "IMPLEMENTOR=\"Debian\"\nJAVA_RUNTIME_VERSION=\"17.0.15+6\"\nJAVA_VERSION=\"17.0.15\"\n";
        assert_eq!(java_version(release).as_deref(), Some("17.0.15"));
        assert_eq!(java_version("JAVA_VERSION=\"1.8.0_402\"\n").as_deref(), Some("1.8.0_402"));
        assert_eq!(java_version("JAVA_VERSION=\"\x1b[31m\"\n"), None);
        let header = "#ifndef X\n#define X\n#define NODE_MAJOR_VERSION 20\n#define NODE_MINOR_VERSION 1\n# define A B\n#define NODE_PATCH_VERSION 2\n";
        assert_eq!(node_header_version(header).as_deref(), Some("20.1.2"));
        assert_eq!(node_header_version("#define NODE_MAJOR_VERSION 20\n"), None);
    }

    #[test]
    fn what_is_mapped_decides_before_the_programs_name() {
        let object =
            |path: &str| MappedObject { device: (0, 1), inode: 1, path: path.to_owned(), ranges: Vec::new() };
        let runtime = |exe: &str, mapped: &[&str]| {
            let objects: Vec<_> = mapped.iter().map(|path| object(path)).collect();
            example("x", Some(exe), "").runtime(None, &objects).to_string()
        };
        assert_eq!(runtime("/usr/bin/uwsgi", &["/usr/lib/libpython3.9.so.1.0 (deleted)"]), "CPython 3.9");
        assert_eq!(runtime("/usr/bin/python3.11", &["/lib/libc.so.6"]), "CPython 3.11");
        assert_eq!(runtime("/opt/node/v20.1.2/bin/node", &[]), "Node 20.1.2");
        assert_eq!(runtime("/usr/bin/nginx", &["/lib/libc.so.6"]), "native");
        let go = Program { go: true, go_version: Some("1.22.1".to_owned()), ..Program::default() };
        assert_eq!(example("x", None, "").runtime(Some(&go), &[]).to_string(), "Go 1.22.1");
    }
}
