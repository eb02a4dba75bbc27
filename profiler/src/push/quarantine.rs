//! Lines that the server refuses for good, and why: a file that people can read, mend and send by hand.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::own_file::{self, Access};

/// How large the file may get.
const LARGEST: u64 = 16 << 20;
/// How much of a reason is kept.
const REASON: usize = 300;

/// The file, made when it is needed.
pub struct Quarantine {
    path: Option<PathBuf>,
    file: Option<File>,
    told: bool,
}

impl Quarantine {
    /// In the spool's directory; without one, lines are only counted and told.
    pub fn new(directory: Option<&Path>) -> Self {
        Self { path: directory.map(|directory| directory.join("quarantine.lp")), file: None, told: false }
    }

    /// Keeps a line. False if it couldn't be kept.
    pub fn keep(&mut self, line: &str, reason: &str) -> bool {
        let reason = crate::text::clean_to(reason, REASON);
        let kept = self.write(line, &reason);
        if !self.told {
            self.told = true;
            match (&kept, &self.path) {
                (Ok(true), Some(path)) => tracing::error!(
                    "InfluxDB refuses a point for good, it is kept in {} (this is told once, and counted): {reason}",
                    path.display()
                ),
                (Err(error), Some(path)) => tracing::error!(
                    "InfluxDB refuses a point for good ({reason}), and {} can't be written: {error}",
                    path.display()
                ),
                _ => tracing::error!(
                    "InfluxDB refuses a point for good, it is lost (this is told once, and counted): {reason}"
                ),
            }
        }
        matches!(kept, Ok(true))
    }

    fn write(&mut self, line: &str, reason: &str) -> io::Result<bool> {
        let Some(path) = &self.path else { return Ok(false) };
        if self.file.is_none() {
            let mut file = own_file::open(path, Access::Write)?;
            io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let text = format!("# {reason}\n{}\n", line.trim_end_matches('\n'));
        if file.metadata()?.len() + text.len() as u64 > LARGEST {
            return Ok(false);
        }
        file.write_all(text.as_bytes())?;
        Ok(true)
    }

    /// What was kept survives a crash of the machine from now on, if the disk allows.
    pub fn sync(&self) {
        if let Some(file) = &self.file {
            // Counted as kept all the same: it is there, if not yet for ever.
            let _synced = file.sync_data();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("profiler-quarantine-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_line_is_kept_behind_its_reason_and_what_was_there_stays() {
        let directory = directory("kept");
        for line in ["a x=1 1\n", "b x=2 2"] {
            // Each time anew, as after a restart.
            let mut quarantine = Quarantine::new(Some(&directory));
            assert!(quarantine.keep(line, "400: no\nsuch \x1b[31mfield"));
            quarantine.sync();
        }
        let text = std::fs::read_to_string(directory.join("quarantine.lp")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[1], lines[3]), (4, "a x=1 1", "b x=2 2"));
        assert!(lines[0].starts_with("# 400: no") && !text.contains('\x1b'), "{text:?}");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_full_file_and_none_at_all_take_nothing() {
        let directory = directory("full");
        let file = File::create(directory.join("quarantine.lp")).unwrap();
        file.set_len(LARGEST).unwrap();
        assert!(!Quarantine::new(Some(&directory)).keep("a x=1 1", "400"));
        assert_eq!(file.metadata().unwrap().len(), LARGEST);
        assert!(!Quarantine::new(None).keep("a x=1 1", "400"));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
