//! The Go program that is read: that of the tests, which answers lines with lines.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use profiler::{
    binary::{self, go::Places},
    runtime::go::GoRuntime,
    target::{Process, ProcessMemory},
};

/// A Go program of this machine, being read.
pub type Runtime = GoRuntime<ProcessMemory>;

/// A program that was built and looked at.
pub struct Program {
    path: PathBuf,
    places: Arc<Places>,
    pub version: String,
}

/// Builds it by this `go`.
pub fn build(go: &Path) -> anyhow::Result<Program> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/go");
    let own = std::env::current_exe()?;
    let directory = own.parent().context("a program lies in a directory")?.join("bench-go");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("target");
    let mut command = Command::new(go);
    command.args(["build", "-o"]).arg(&path).arg(".").current_dir(source);
    command.env("GOCACHE", directory.join("cache")).env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod");
    command.env("GOPROXY", "off").env("CGO_ENABLED", "0");
    let status = command.status().with_context(|| go.display().to_string())?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    let image = binary::go::analyse(&std::fs::read(&path)?)?.context("Go's programs are known as such")?;
    let places = image.runtime.map_err(anyhow::Error::msg)?;
    Ok(Program { path, places: Arc::new(places), version: image.version })
}

/// It, running.
pub struct Target {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Target {
    pub fn start(program: &Program, procs: u32) -> anyhow::Result<Self> {
        let mut command = Command::new(&program.path);
        command.env("GOMAXPROCS", procs.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes")
        };
        let mut target = Self { child, input, output: BufReader::new(output) };
        target.line()?;
        Ok(target)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the program has ended");
        }
        Ok(line.trim().to_owned())
    }

    pub fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.input, "{command}")?;
        self.line()
    }

    /// How often its world was stopped, by its own count; `None` if its Go has no such count (before 1.22).
    pub fn stops(&mut self) -> anyhow::Result<Option<u64>> {
        let answer: serde_json::Value = serde_json::from_str(&self.ask("stops")?)?;
        Ok(answer["stops"].as_u64())
    }

    /// Lets it ask itself so often; how long each took.
    pub fn measure(&mut self, times: usize) -> anyhow::Result<Vec<Duration>> {
        let answer: serde_json::Value = serde_json::from_str(&self.ask(&format!("bench {times}"))?)?;
        let took = answer["took_ns"].as_array().context("a list")?;
        Ok(took.iter().filter_map(serde_json::Value::as_u64).map(Duration::from_nanos).collect())
    }

    pub fn attach(&self, program: &Program) -> anyhow::Result<Runtime> {
        let pid = self.child.id();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let exe = std::fs::metadata(&program.path)?;
        let device = (libc::major(exe.st_dev()).cast_signed(), libc::minor(exe.st_dev()).cast_signed());
        let memory = ProcessMemory::from(Arc::new(Process::open(pid)?));
        Ok(GoRuntime::attach(&program.places, memory, &maps, (device, exe.st_ino()))?)
    }

    /// How often its threads were switched away, all together.
    pub fn switches(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(thread?.path().join("status"))?;
            let lines = text.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
            sum += lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    }

    /// Waits until none of its threads has run for half a second.
    pub fn rest(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut last = (self.switches()?, Instant::now());
        while last.1.elapsed() < Duration::from_millis(500) {
            thread::sleep(Duration::from_millis(20));
            let now = self.switches()?;
            if now != last.0 {
                last = (now, Instant::now());
            }
            if begin.elapsed() > Duration::from_secs(60) {
                bail!("it doesn't come to rest");
            }
        }
        Ok(())
    }

    pub fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        self.child.wait()?;
        Ok(())
    }
}
