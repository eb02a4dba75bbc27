//! What a process is made of beside its own program: the libraries that it has mapped, and the distributions of Python that
//! are installed where it looks for them.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::{MappedObject, Process, ProcessFacts, ProgramCache, Runtime};
use crate::text::clean;

/// Parts of one kind that are told.
const PARTS_LIMIT: usize = 2048;
/// Entries of a directory that are looked at.
const ENTRIES_LIMIT: usize = 16_384;
/// Directories that are looked into.
const DIRECTORIES_LIMIT: usize = 16;
/// Bytes of a command line of which the first word is looked at.
const WORD_LIMIT: usize = 4096;

/// A part.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Its name: `libssl.so`, `requests`.
    pub name: String,
    /// Its version; empty if its name doesn't tell.
    pub version: String,
    /// Of a library: its build id, if it has one; else empty.
    pub build_id: String,
}

/// Parts of one kind, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Each once.
    pub list: Vec<Part>,
    /// How many more there are. What a directory has beyond the entries that are looked at counts as one.
    pub left_out: u64,
}

impl Parts {
    /// `cut`: directories of which not all was looked at.
    fn of(all: BTreeSet<Part>, cut: u64) -> Self {
        let left_out = all.len().saturating_sub(PARTS_LIMIT) as u64 + cut;
        Self { list: all.into_iter().take(PARTS_LIMIT).collect(), left_out }
    }
}

impl Process {
    /// The files that it has mapped as code, without its own program: by their names, with their build ids.
    pub fn libraries(&self, objects: &[MappedObject], cache: &mut ProgramCache) -> Parts {
        let exe = std::fs::metadata(format!("/proc/{}/exe", self.pid())).ok();
        let own = exe.as_ref().map(std::os::unix::fs::MetadataExt::ino);
        let mut all = BTreeSet::new();
        for object in objects.iter().filter(|object| Some(object.inode) != own) {
            let (name, version) = library_name(&object.path);
            let file = self.pin(object).ok().map(|pinned| File::from(pinned.into_file()));
            let build_id = file.and_then(|file| cache.look(&file)?.build_id.clone()).unwrap_or_default();
            all.insert(Part { name: clean(name), version: clean(version), build_id });
        }
        Parts::of(all, 0)
    }

    /// The distributions of Python that are installed in the directories where this interpreter looks for them. What the
    /// program has added to `sys.path` itself is known only by the modules that are mapped from there.
    pub fn python_distributions(
        &self,
        facts: &mut ProcessFacts,
        runtime: &Runtime,
        objects: &[MappedObject],
    ) -> Parts {
        let mut all = BTreeSet::new();
        let (directories, mut cut) = self.python_directories(facts, runtime, objects);
        for directory in directories {
            let (names, more) = self.names_in(&directory);
            cut += u64::from(more);
            for name in names {
                if let Some((name, version)) = distribution(&name) {
                    all.insert(Part { name: clean(name), version: clean(version), build_id: String::new() });
                }
            }
        }
        Parts::of(all, cut)
    }

    /// PEP 405 and Debian's /usr/lib/python3/dist-packages/README: below the virtual environment that the program was started
    /// from, or else below the interpreter's prefix; and wherever modules are mapped from. And how many there are too many.
    fn python_directories(
        &self,
        facts: &mut ProcessFacts,
        runtime: &Runtime,
        objects: &[MappedObject],
    ) -> (Vec<String>, u64) {
        let mut directories: Vec<String> = Vec::new();
        let mut beyond = BTreeSet::new();
        let mut add = |directory: String| {
            if directories.len() < DIRECTORIES_LIMIT && !directories.contains(&directory) {
                directories.push(directory);
            } else if !directories.contains(&directory) {
                beyond.insert(directory);
            }
        };
        let version = runtime.version().unwrap_or("3");
        let environment = self.called_as().and_then(|word| virtual_environment(&word));
        let environment = environment.filter(|prefix| self.is_there(&format!("{prefix}/pyvenv.cfg")));
        if let Some(prefix) = &environment {
            add(format!("{prefix}/lib/python{version}/site-packages"));
            add(format!("{prefix}/lib64/python{version}/site-packages"));
        } else if let Some(prefix) =
            facts.exe().and_then(|exe| exe.rsplit_once("/bin/")).map(|(prefix, _)| prefix.to_owned())
        {
            for (below, kind) in [("", "site"), ("", "dist"), ("/local", "site"), ("/local", "dist")] {
                add(format!("{prefix}{below}/lib/python{version}/{kind}-packages"));
            }
            add(format!("{prefix}/lib64/python{version}/site-packages"));
            add(format!("{prefix}/lib/python3/dist-packages"));
        }
        for object in objects {
            for kind in ["/site-packages/", "/dist-packages/"] {
                if let Some(at) = object.path.find(kind) {
                    add(object.path[..at + kind.len() - 1].to_owned());
                }
            }
        }
        (directories, beyond.len() as u64)
    }

    /// How its program was called: the first word of its command line, found by its own `PATH` as a shell finds it.
    fn called_as(&self) -> Option<String> {
        let text = self.read_text("cmdline").ok()?;
        let word = text.split('\0').next().filter(|word| !word.is_empty() && word.len() <= WORD_LIMIT)?;
        if word.contains('/') {
            return Some(word.to_owned());
        }
        let environment = self.read_text("environ").ok()?;
        let path = environment.split('\0').find_map(|variable| variable.strip_prefix("PATH="))?;
        let places = path.split(':').take(DIRECTORIES_LIMIT).map(|directory| format!("{directory}/{word}"));
        places.into_iter().find(|place| place.len() <= WORD_LIMIT && self.is_there(place))
    }

    fn open_below(&self, path: &str, flags: OFlags) -> Option<File> {
        let flags_of_root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, self.root(), flags_of_root, Mode::empty()).ok()?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = Path::new(path.trim_start_matches('/'));
        let file = openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).ok()?;
        // The id may be another process's by now.
        self.is_alive().then(|| File::from(file))
    }

    fn is_there(&self, path: &str) -> bool {
        self.open_below(path, OFlags::PATH).is_some()
    }

    /// Names in a directory below its root, and whether there are more than are looked at.
    fn names_in(&self, directory: &str) -> (Vec<String>, bool) {
        let Some(opened) = self.open_below(directory, OFlags::PATH | OFlags::DIRECTORY) else {
            return (Vec::new(), false);
        };
        let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        let mut entries = std::fs::read_dir(path).into_iter().flatten();
        let first = entries.by_ref().take(ENTRIES_LIMIT);
        let names = first.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        (names, entries.next().is_some())
    }
}

/// `/usr/lib/libssl.so.3` is `libssl.so` of version 3, `ld-2.31.so` is `ld` of version 2.31.
fn library_name(path: &str) -> (&str, &str) {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let file = path.rsplit('/').next().unwrap_or(path);
    match file.split_once(".so.") {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => {
            (file.get(..name.len() + 3).unwrap_or(file), version)
        }
        _ => {
            let stem = file.strip_suffix(".so").unwrap_or(file);
            match stem.rsplit_once('-') {
                Some((name, version)) if is_version(version) && !name.is_empty() => (name, version),
                _ => (file, ""),
            }
        }
    }
}

fn is_version(text: &str) -> bool {
    text.contains('.')
        && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The directory of the virtual environment whose `bin` a program was called from.
fn virtual_environment(word: &str) -> Option<String> {
    let (prefix, program) = word.rsplit_once("/bin/")?;
    (prefix.starts_with('/') && program.starts_with("python")).then(|| prefix.to_owned())
}

/// Names of directories that tell of an installed distribution (PEP 376; setuptools' documentation, "The Internal Structure
/// of Python Eggs"): `requests-2.31.0.dist-info`, `PyYAML-6.0.egg-info`, `six-1.16.0-py3.11.egg-info`.
fn distribution(name: &str) -> Option<(&str, &str)> {
    let (stem, egg) = match name.strip_suffix(".dist-info") {
        Some(stem) => (stem, false),
        None => (name.strip_suffix(".egg-info")?, true),
    };
    let (name, version) = stem.split_once('-')?;
    let version = if egg { version.split("-py").next().unwrap_or(version) } else { version };
    (!name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit())).then_some((name, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_libraries_tell_their_versions() {
        for (path, told) in [
            ("/usr/lib/x86_64-linux-gnu/libssl.so.3", ("libssl.so", "3")),
            ("/usr/lib/libstdc++.so.6.0.30 (deleted)", ("libstdc++.so", "6.0.30")),
            ("/lib/libpython3.11.so.1.0", ("libpython3.11.so", "1.0")),
            ("/lib/ld-2.31.so", ("ld", "2.31")),
            (
                "/usr/lib/python3/dist-packages/_cffi.cpython-311-x86_64-linux-gnu.so",
                ("_cffi.cpython-311-x86_64-linux-gnu.so", ""),
            ),
            ("/opt/plugin", ("plugin", "")),
            ("/opt/a.so.bak", ("a.so.bak", "")),
        ] {
            assert_eq!(library_name(path), told, "{path}");
        }
    }

    #[test]
    fn directories_of_distributions_are_told_from_others() {
        for (name, told) in [
            ("requests-2.31.0.dist-info", Some(("requests", "2.31.0"))),
            ("PyYAML-6.0.egg-info", Some(("PyYAML", "6.0"))),
            ("six-1.16.0-py3.11.egg-info", Some(("six", "1.16.0"))),
            ("ruamel.yaml.clib-0.2.7.dist-info", Some(("ruamel.yaml.clib", "0.2.7"))),
            ("__pycache__", None),
            ("requests", None),
            ("-1.dist-info", None),
            ("x.dist-info", None),
        ] {
            assert_eq!(distribution(name), told, "{name}");
        }
    }

    #[test]
    fn what_is_beyond_a_bound_is_counted_as_left_out() {
        let part = |number: usize| Part { name: format!("{number:05}"), ..Part::default() };
        assert_eq!(Parts::of((0..PARTS_LIMIT).map(part).collect(), 0).left_out, 0);
        let parts = Parts::of((0..PARTS_LIMIT + 3).map(part).collect(), 2);
        assert_eq!((parts.list.len(), parts.left_out), (PARTS_LIMIT, 5));

        let process = Process::open(std::process::id()).unwrap();
        let home = std::env::temp_dir().join(format!("profiler-parts-{}", std::process::id()));
        let directory = |number: usize| home.join(format!("{number}/site-packages"));
        let object = |number: usize| MappedObject {
            path: directory(number).join("a.so").to_string_lossy().into_owned(),
            device: (0, 0),
            inode: 0,
            ranges: Vec::new(),
        };
        let look = |objects: &[MappedObject]| {
            let mut facts = ProcessFacts::read(std::process::id()).unwrap();
            process.python_distributions(&mut facts, &Runtime::CPython(None), objects)
        };
        // One more than are looked at, and the distribution may be among those.
        std::fs::create_dir_all(directory(0)).unwrap();
        (0..ENTRIES_LIMIT).for_each(|number| {
            std::fs::File::create(directory(0).join(number.to_string())).unwrap();
        });
        let whole = look(&[object(0)]);
        std::fs::create_dir(directory(0).join("requests-2.31.0.dist-info")).unwrap();
        let cut = look(&[object(0)]);
        let directories: Vec<_> =
            (0..DIRECTORIES_LIMIT + 9).chain([3]).map(|number| object(number + 1)).collect();
        let many = look(&directories);
        std::fs::remove_dir_all(home).unwrap();
        assert_eq!((whole.left_out, cut.left_out), (0, 1));
        assert_eq!(many.left_out, 9, "each directory once");
    }

    #[test]
    fn a_process_tells_its_own_libraries_with_their_build_ids() {
        let process = Process::open(std::process::id()).unwrap();
        let objects = process.mapped_objects().unwrap();
        let parts = process.libraries(&objects, &mut ProgramCache::default());
        let libc = parts.list.iter().find(|part| part.name == "libc.so").unwrap();
        assert_eq!(libc.version, "6");
        assert!(libc.build_id.len() >= 32, "{libc:?}");
        let own = std::env::current_exe().unwrap();
        let own = own.file_name().unwrap().to_string_lossy().into_owned();
        assert!(parts.list.iter().all(|part| part.name != own), "its program is no part of itself");
    }
}
