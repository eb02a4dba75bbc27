//! For tests: a Go program with a symbol table, and where its runtime is, by that table alone.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

use crate::{
    binary::go::{Globals, Layout, Places, Span, layout::Tables},
    runtime::go::{GoError, GoRuntime, attach::FileId},
    target::{Process, ProcessMemory},
};

const TABLES: [&str; 8] = [
    include_str!("../../binary/go/tables/1.19-amd64.json"),
    include_str!("../../binary/go/tables/1.21-amd64.json"),
    include_str!("../../binary/go/tables/1.22-amd64.json"),
    include_str!("../../binary/go/tables/1.23-amd64.json"),
    include_str!("../../binary/go/tables/1.24-amd64.json"),
    include_str!("../../binary/go/tables/1.25-amd64.json"),
    include_str!("../../binary/go/tables/1.26-amd64.json"),
    include_str!("../../binary/go/tables/1.27-amd64.json"),
];

/// The layout of a minor version (`1.27`), and the version that it was made of.
pub fn layout(minor: &str) -> (String, Layout) {
    let all = TABLES.iter().map(|text| serde_json::from_str::<Tables>(text).unwrap());
    let tables = all.into_iter().find(|tables| tables.go == minor).unwrap();
    let (version, variant) = tables.versions.last_key_value().unwrap();
    (version.clone(), Layout::of(&tables.variants[*variant]).unwrap())
}

/// Every minor version that there is a table of.
pub fn minors() -> Vec<String> {
    TABLES.iter().map(|text| serde_json::from_str::<Tables>(text).unwrap().go).collect()
}

/// Where the runtime is, by the program's symbols and the table of that minor version.
pub fn places(path: &Path, minor: &str) -> Places {
    let bytes = std::fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let symbol = |name: &str| {
        let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
        found.map(|symbol| symbol.address())
    };
    let known = |name: &str| symbol(name).unwrap_or_else(|| panic!("no {name}"));
    let (table, layout) = layout(minor);
    Places {
        base: file.segments().map(|segment| segment.address()).min().unwrap() & !0xfff,
        table,
        exact: false,
        globals: Globals {
            memstats: known("runtime.memstats"),
            mheap: known("runtime.mheap_"),
            gc_controller: known("runtime.gcController"),
            sched: known("runtime.sched"),
            allp: known("runtime.allp"),
            allglen: known("runtime.allglen"),
            allgs: known("runtime.allgs"),
            gomaxprocs: known("runtime.gomaxprocs"),
            ncpu: symbol("runtime.ncpu").or_else(|| symbol("runtime.numCPUStartup")),
            emptymspan: symbol("runtime.emptymspan"),
            ..Globals::default()
        },
        layout,
        text: Span { start: known("runtime.text"), end: known("runtime.etext") },
        ..Places::default()
    }
}

/// tests/programs/go_figures, running.
pub struct Program {
    pub child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    pub fn start(path: &Path, gomaxprocs: u32) -> Self {
        let mut child = Command::new(path)
            .env("GOMAXPROCS", gomaxprocs.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut program = Self { child, input, output: BufReader::new(output) };
        // It is ready for readers when it answers.
        assert_eq!(program.ask("gc 1"), "ok");
        program
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the program has ended");
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// Waits until it has stopped itself.
    pub fn wait_until_stopped(&self) {
        for _ in 0..2000 {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            if stat.rsplit(") ").next().unwrap().starts_with('T') && self.all_stopped() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("it doesn't stop");
    }

    fn all_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    }

    pub fn go_on(&self) {
        let status = Command::new("kill").args(["-CONT", &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub fn memory(&self) -> ProcessMemory {
        ProcessMemory::from(Arc::new(Process::open(self.pid()).unwrap()))
    }

    pub fn maps(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap()
    }

    /// What file it runs, as its own mappings have it.
    pub fn file(&self, path: &Path) -> FileId {
        let maps = self.maps();
        let path = path.canonicalize().unwrap();
        let line = maps.lines().find(|line| line.ends_with(path.to_str().unwrap())).unwrap();
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (major, minor) = fields[3].split_once(':').unwrap();
        let hex = |text: &str| i32::from_str_radix(text, 16).unwrap();
        ((hex(major), hex(minor)), fields[4].parse().unwrap())
    }

    pub fn attach(&self, path: &Path, places: &Arc<Places>) -> Result<GoRuntime<ProcessMemory>, GoError> {
        GoRuntime::attach(places, self.memory(), &self.maps(), self.file(path))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}
