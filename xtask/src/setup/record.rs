//! The file between `setup` and the profiler's build script: four lines `key=value`.

use std::io;
use std::path::{Path, PathBuf};

use super::rust;
use crate::command;

/// What builds the eBPF crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The real cargo, not a shim that may choose another toolchain.
    pub cargo: PathBuf,
    /// The compiler that goes with it.
    pub rustc: PathBuf,
    /// bpf-linker.
    pub linker: PathBuf,
    /// Whether this is a stable compiler, which takes `-Z` only with RUSTC_BOOTSTRAP=1.
    pub bootstrap: bool,
}

impl Record {
    /// Reads a record; a file that isn't there or isn't whole is no record.
    pub fn read(file: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(file).ok()?)
    }

    /// Whether everything it names is still there, the compiler's own library sources included.
    pub fn is_usable(&self) -> bool {
        [&self.cargo, &self.rustc, &self.linker].into_iter().all(|file| command::is_executable(file))
            && self.rustc.parent().and_then(Path::parent).is_some_and(rust::has_sources)
    }

    /// Writes the record; the same record leaves the file untouched, for its time makes cargo build again.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        if Self::read(file).as_ref() == Some(self) {
            return Ok(());
        }
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(file, self.text())
    }

    fn text(&self) -> String {
        format!(
            "cargo={}\nrustc={}\nlinker={}\nbootstrap={}\n",
            self.cargo.display(),
            self.rustc.display(),
            self.linker.display(),
            u8::from(self.bootstrap)
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key| text.lines().find_map(|line| line.split_once('=').filter(|(name, _)| *name == key));
        let path = |key| value(key).map(|(_, path)| PathBuf::from(path)).filter(|path| path.is_absolute());
        let bootstrap = match value("bootstrap")?.1 {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        Some(Self { cargo: path("cargo")?, rustc: path("rustc")?, linker: path("linker")?, bootstrap })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            cargo: "/a/cargo".into(),
            rustc: "/a/rustc".into(),
            linker: "/b/bpf-linker".into(),
            bootstrap: true,
        }
    }

    #[test]
    fn the_file_has_four_lines_which_read_back() {
        let text = record().text();
        assert_eq!(text, "cargo=/a/cargo\nrustc=/a/rustc\nlinker=/b/bpf-linker\nbootstrap=1\n");
        assert_eq!(Record::parse(&text), Some(record()));
    }

    #[test]
    fn half_a_file_is_no_record() {
        let text = record().text();
        assert_eq!(Record::parse(text.trim_end().strip_suffix("bootstrap=1").unwrap()), None);
        assert_eq!(Record::parse(&text.replace("=1", "=yes")), None);
        assert_eq!(Record::parse(&text.replace("/a/cargo", "cargo")), None);
    }

    #[test]
    fn a_record_of_files_which_are_gone_is_not_usable() {
        assert!(!record().is_usable());
    }
}
