//! A C library of one's own: every process that is observed makes the probes of a file dearer for all others, so a bench
//! whose worker shared the machine's C library would measure its neighbours, too.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

/// A directory with copies of the C library and the dynamic linker that this process runs with. Gone when it is dropped.
pub struct PrivateLibrary(PathBuf);

impl PrivateLibrary {
    /// Copies them.
    ///
    /// # Errors
    ///
    /// If this process isn't linked with a glibc, or the copies can't be written.
    pub fn new() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("profiler-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("can't make {}", directory.display()))?;
        let library = Self(directory);
        let maps = std::fs::read_to_string("/proc/self/maps").context("can't read /proc/self/maps")?;
        for (begin, name) in [("libc.so", "libc.so.6"), ("ld-linux", "ld.so")] {
            let is_it = |path: &&str| {
                let file = Path::new(path).file_name();
                file.is_some_and(|file| file.to_string_lossy().starts_with(begin))
            };
            let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(is_it);
            let path = path.with_context(|| format!("this process has no {begin}"))?;
            std::fs::copy(path, library.0.join(name)).with_context(|| format!("can't copy {path}"))?;
        }
        Ok(library)
    }

    /// This program again, with that library.
    ///
    /// # Errors
    ///
    /// If nobody knows where this program is.
    pub fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(self.0.join("ld.so"));
        command.arg("--library-path").arg(&self.0).arg(std::env::current_exe()?);
        Ok(command)
    }
}

impl Drop for PrivateLibrary {
    fn drop(&mut self) {
        // What can't be removed is in the way of nobody.
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}
