//! Helper programs: compiled once, started, told to begin, asked for what they counted.

use std::{
    collections::HashSet,
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use serde_json::Value;

use super::{
    LONG,
    child::{Guarded, Lines, run},
    has_program, within,
};

/// How long a helper may count; the long tests are given minutes.
const WORK: std::time::Duration = std::time::Duration::from_secs(880);

/// The program made of a file in `tests/programs`, with these options for the compiler. `None` if there is no compiler;
/// the test is skipped then.
pub fn compiled(source: &str, options: &[&str]) -> Option<PathBuf> {
    static DONE: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let name: String = [&[source], options].concat().join("_").replace(['/', '=', '.', '-', '+'], "_");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    let output = directory.join(&name);
    let (compiler, fixed): (&str, &[&str]) = match source.rsplit('.').next() {
        Some("c") => ("cc", &["-O1", "-fno-builtin", "-pthread"]),
        Some("cpp") => ("c++", &["-O1", "-std=c++17", "-pthread"]),
        Some("rs") => ("rustc", &["-O", "--edition=2021", "--cap-lints=allow"]),
        _ => panic!("{source}: no compiler for that"),
    };
    // Every test of a run waits for the one that compiles.
    let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let done = done.get_or_insert_default();
    if !done.contains(&output) {
        if !has_program(compiler) {
            return None;
        }
        std::fs::create_dir_all(&directory).expect("the build directory can be written");
        // Several runs may be at work in the same build directory.
        let partial = directory.join(format!("{name}.{}", std::process::id()));
        let mut command = Command::new(compiler);
        command.args(fixed).args(options).arg("-o").arg(&partial).arg(sources.join(source));
        let ended = run(&mut command);
        assert!(ended.status.success(), "{command:?}: {:#?}", ended.complaints());
        // An older one may be running; it keeps its file.
        std::fs::rename(&partial, &output).expect("the build directory can be written");
        done.insert(output.clone());
    }
    Some(output)
}

/// A helper that runs and is idle, or at work.
pub struct Helper {
    child: Guarded,
    lines: Lines,
}

impl Helper {
    /// Starts a program and waits until it is ready to begin.
    pub fn start<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> Self {
        Self::spawn(Command::new(program).args(arguments))
    }

    /// The same, for a command that needs more than arguments.
    pub fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A file that was written just now is still open for writing in whatever another test's thread has forked meanwhile,
        // until that replaces its program.
        let mut spawned = command.spawn();
        within(LONG, || {
            let busy =
                spawned.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy);
            if busy {
                spawned = command.spawn();
            }
            !busy
        });
        let mut child = Guarded(spawned.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let lines = Lines::of(child.0.stdout.take().expect("it is a pipe"));
        let ready = lines.next(LONG);
        assert_eq!(ready.as_deref(), Some(&b"ready"[..]), "{command:?} isn't ready");
        Self { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn signal(&mut self, signal: i32) {
        self.child.signal(signal);
    }

    /// Says a line to it.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.child.0.stdin.as_mut().expect("it is a pipe");
        // In one piece: not every helper gathers what it reads.
        stdin.write_all(format!("{line}\n").as_bytes()).expect("the helper listens");
    }

    /// What it answers.
    pub fn answer(&self) -> Value {
        let line = self.lines.next(WORK).expect("the helper answers");
        let answer: Value = serde_json::from_slice(&line)
            .unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(&line)));
        assert!(answer.get("error").is_none(), "the helper failed: {answer}");
        answer
    }

    /// Waits until it is ready once more: it has become another program.
    pub fn ready(&self) {
        assert_eq!(self.lines.next(LONG).as_deref(), Some(&b"ready"[..]), "the new program isn't ready");
    }

    /// What it says next; `None` if it has ended.
    pub fn last_words(&self) -> Option<Vec<u8>> {
        self.lines.next(LONG)
    }

    /// Lets it work, to the end of its counted part.
    pub fn work(&mut self) -> Value {
        self.tell("start");
        self.answer()
    }

    /// Lets it end.
    pub fn end(mut self) -> std::process::ExitStatus {
        drop(self.child.0.stdin.take());
        self.child.wait(LONG)
    }
}
