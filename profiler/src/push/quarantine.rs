//! Lines that the server refuses for good, and why: a file that people can read, mend and send by hand.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::Instant,
};

use super::spool::{Hourly, Spool};

/// What the file is called, in the spool's directory.
const NAME: &str = "quarantine.lp";
/// How large the file may get.
const LARGEST: u64 = 16 << 20;
/// How much of a reason is kept.
const REASON: usize = 300;

/// The file, made when it is needed. It is opened anew for each line: people may move it away, cut it or edit it meanwhile.
pub struct Quarantine {
    spool: Option<Arc<Spool>>,
    /// Where the last line went, until that survives a crash.
    unsafe_file: Option<File>,
    began: Instant,
    /// People know that lines are kept.
    told: bool,
    /// Lines that couldn't be kept, and what people were told of them.
    full: Lost,
    failed: Lost,
    nowhere: Lost,
}

/// Lines that couldn't be kept for one reason.
#[derive(Default)]
struct Lost {
    lines: u64,
    told: Hourly,
}

impl Quarantine {
    /// In the spool's directory; without one, lines are only counted and told.
    pub fn new(spool: Option<Arc<Spool>>) -> Self {
        let (full, failed, nowhere) = Default::default();
        Self { spool, unsafe_file: None, began: Instant::now(), told: false, full, failed, nowhere }
    }

    /// Keeps a line. False if it couldn't be kept.
    pub fn keep(&mut self, line: &str, reason: &str) -> bool {
        let reason = crate::text::clean_to(reason, REASON);
        let Some(spool) = self.spool.clone() else {
            if let Some(lines) = self.nowhere.one_more(self.began) {
                tracing::error!(
                    "InfluxDB refuses points for good; {lines} are lost, for there is no spool: {reason}"
                );
            }
            return false;
        };
        let path = spool.path().join(NAME);
        match self.write(&spool, line, &reason) {
            Ok(true) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::error!(
                        "InfluxDB refuses a point for good, it is kept in {} (this is told once, and counted): {reason}",
                        path.display()
                    );
                }
                return true;
            }
            Ok(false) => {
                if let Some(lines) = self.full.one_more(self.began) {
                    tracing::error!(
                        "InfluxDB refuses points for good; {lines} are lost, for {} is full: move it away ({reason})",
                        path.display()
                    );
                }
            }
            Err(error) => {
                if let Some(lines) = self.failed.one_more(self.began) {
                    tracing::error!(
                        "InfluxDB refuses points for good; {lines} are lost, for {} can't be written: {error} ({reason})",
                        path.display()
                    );
                }
            }
        }
        false
    }

    /// False: it is full.
    fn write(&mut self, spool: &Spool, line: &str, reason: &str) -> io::Result<bool> {
        let file = spool.open_for_append(NAME)?;
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if let Some(before) = length.checked_sub(1) {
            // Whoever has edited it may have left its last line without an end.
            file.read_exact_at(&mut last, before)?;
        }
        let end = if last == *b"\n" { "" } else { "\n" };
        let text = format!("{end}# {reason}\n{}\n", line.trim_end_matches('\n'));
        if length.saturating_add(text.len() as u64) > LARGEST {
            return Ok(false);
        }
        whole_or_nothing(&file, length, || (&file).write_all(text.as_bytes()))?;
        self.unsafe_file = Some(file);
        Ok(true)
    }

    /// What was kept survives a crash of the machine from now on, if the disk allows.
    pub fn sync(&mut self) {
        if let Some(file) = self.unsafe_file.take() {
            // Counted as kept all the same: it is there, if not yet for ever.
            let _synced = file.sync_data();
        }
    }
}

impl Lost {
    /// How many people are to be told of now.
    fn one_more(&mut self, began: Instant) -> Option<u64> {
        self.lines += 1;
        self.told.due(self.lines, began.elapsed())
    }
}

/// Writes behind the end, or takes back what a full disk has left of it: the next line would be glued to half of one.
fn whole_or_nothing(file: &File, length: u64, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    write().inspect_err(|_| {
        // Somebody may have cut it meanwhile: then there is nothing to take back.
        if file.metadata().is_ok_and(|now| now.len() > length) {
            let _cut = file.set_len(length);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, time::Duration};

    use super::*;
    use crate::push::spool::Limits;

    struct Place {
        directory: PathBuf,
        spool: Option<Arc<Spool>>,
    }

    impl Place {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("profiler-quarantine-{name}-{}", std::process::id()));
            let spool = Spool::open(&directory, Limits { bytes: 1 << 20, age: Duration::MAX }).unwrap();
            Self { directory, spool: Some(Arc::new(spool)) }
        }

        fn quarantine(&self) -> Quarantine {
            Quarantine::new(self.spool.clone())
        }

        fn file(&self) -> PathBuf {
            self.directory.join(NAME)
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.directory);
        }
    }

    #[test]
    fn a_line_is_kept_behind_its_reason_and_what_was_there_stays() {
        let place = Place::new("kept");
        for line in ["a x=1 1\n", "b x=2 2"] {
            // Each time anew, as after a restart.
            let mut quarantine = place.quarantine();
            assert!(quarantine.keep(line, "400: no\nsuch \x1b[31mfield"));
            quarantine.sync();
        }
        let text = place.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[1], lines[3]), (4, "a x=1 1", "b x=2 2"));
        assert!(lines[0].starts_with("# 400: no") && !text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn lines_go_where_the_name_leads_to_whatever_people_do_with_the_file_meanwhile() {
        let place = Place::new("moved");
        let mut quarantine = place.quarantine();
        let mut keep = |line: &str| {
            assert!(quarantine.keep(line, "400"));
            place.text()
        };
        assert_eq!(keep("a x=1 1"), "# 400\na x=1 1\n");
        fs::rename(place.file(), place.directory.join("mine")).unwrap();
        assert_eq!(keep("b x=1 1"), "# 400\nb x=1 1\n");
        fs::remove_file(place.file()).unwrap();
        assert_eq!(keep("c x=1 1"), "# 400\nc x=1 1\n");
        File::options().write(true).open(place.file()).unwrap().set_len(0).unwrap();
        assert_eq!(keep("d x=1 1"), "# 400\nd x=1 1\n");
        fs::write(place.file(), "edited").unwrap();
        assert_eq!(keep("e x=1 1"), "edited\n# 400\ne x=1 1\n");
    }

    #[test]
    fn half_a_line_is_taken_back() {
        let place = Place::new("half");
        let mut quarantine = place.quarantine();
        assert!(quarantine.keep("a x=1 1", "400"));
        let file = place.spool.as_ref().unwrap().open_for_append(NAME).unwrap();
        let before = place.text();
        let full = || {
            (&file).write_all(b"# 400\nb x=")?;
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        };
        assert!(whole_or_nothing(&file, before.len() as u64, full).is_err());
        assert_eq!(place.text(), before);
        let cut = || {
            file.set_len(0)?;
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        };
        assert!(whole_or_nothing(&file, before.len() as u64, cut).is_err());
        assert_eq!(place.text(), "", "no zeroes where nothing was written");
    }

    #[test]
    fn a_full_file_one_that_cant_be_written_and_none_at_all_take_nothing() {
        let place = Place::new("full");
        File::create(place.file()).unwrap().set_len(LARGEST).unwrap();
        assert!(!place.quarantine().keep("a x=1 1", "400"));
        assert_eq!(place.file().metadata().unwrap().len(), LARGEST);
        fs::remove_file(place.file()).unwrap();
        fs::create_dir(place.file()).unwrap();
        assert!(!place.quarantine().keep("a x=1 1", "400"));
        assert!(!Quarantine::new(None).keep("a x=1 1", "400"));
    }

    #[test]
    fn people_are_told_when_lines_are_lost_although_others_were_kept() {
        let place = Place::new("told");
        let log = crate::push::spool::log_of(|| {
            let mut quarantine = place.quarantine();
            assert!(quarantine.keep("a x=1 1", "400") && quarantine.keep("a x=1 1", "400"));
            File::create(place.file()).unwrap().set_len(LARGEST).unwrap();
            assert!(!quarantine.keep("b x=1 1", "400") && !quarantine.keep("b x=1 1", "400"));
            fs::remove_file(place.file()).unwrap();
            fs::create_dir(place.file()).unwrap();
            assert!(!quarantine.keep("c x=1 1", "400") && !quarantine.keep("c x=1 1", "400"));
        });
        let lines: Vec<_> = log.lines().collect();
        let parts = ["it is kept in", "1 are lost, for", "can't be written"];
        assert_eq!(lines.len(), parts.len(), "{log}");
        assert!(lines.iter().zip(parts).all(|(line, part)| line.contains(part)), "{log}");
    }
}
