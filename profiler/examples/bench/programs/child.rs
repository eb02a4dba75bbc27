//! Processes that don't outlive the bench, however it ends: by itself, by an error, by Ctrl-C, by being killed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    process::{Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// A process that was asked to end has this long.
const END: Duration = Duration::from_secs(10);

static STOPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: i32) {
    STOPPED.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C and its like end the bench at the next [`go_on`], so that everything is put away.
pub fn end_in_order() {
    let handler: extern "C" fn(i32) = stop;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does nothing but to store into an atomic, which a handler may.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// An error once the bench was asked to end.
pub fn go_on() -> anyhow::Result<()> {
    if STOPPED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, unless the bench is to end.
pub fn pause(time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    loop {
        go_on()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Waits until something is so.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_so()? {
        go_on()?;
        if began.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// A process, ended when this is dropped.
pub struct Running {
    name: String,
    child: Child,
    end: Signal,
}

impl Running {
    /// Starts it on one CPU, if told which. It is in a process group of its own, so that Ctrl-C at a terminal reaches the bench alone,
    /// which ends the profiler before its targets. `end` is the signal at which it ends with all its children.
    pub fn start(command: &mut Command, name: &str, end: Signal, cpu: Option<usize>) -> anyhow::Result<Self> {
        go_on()?;
        command.process_group(0);
        // SAFETY: two system calls, which are allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(end))?;
                pin(cpu)
            });
        }
        let child = command.spawn().with_context(|| format!("can't start {name}"))?;
        Ok(Self { name: name.to_owned(), child, end })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its input, once.
    pub fn input(&mut self) -> anyhow::Result<ChildStdin> {
        self.child.stdin.take().with_context(|| format!("{} has no input", self.name))
    }

    /// What it prints, once.
    pub fn output(&mut self) -> anyhow::Result<Lines> {
        self.child.stdout.take().map(Lines::of).with_context(|| format!("{} has no output", self.name))
    }

    /// What it complains of, once.
    pub fn complaints(&mut self) -> anyhow::Result<Lines> {
        self.child.stderr.take().map(Lines::of).with_context(|| format!("{} has no errors", self.name))
    }

    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let mut status = None;
        wait_for(&format!("{} has to end", self.name), limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("it has ended")
    }

    /// Sends it a signal. It wasn't waited for, or the library that knows so wouldn't give its id.
    pub fn signal(&mut self, signal: Signal) {
        if self.child.try_wait().is_ok_and(|status| status.is_none())
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It may have ended meanwhile: a zombie takes signals, too.
            let _sent = kill_process(pid, signal);
        }
    }

    /// Ends it in the way it is meant to be ended.
    pub fn end(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(self.end);
        self.reap(END).with_context(|| format!("{} doesn't end", self.name))
    }

    /// Its status once it has ended, also when the bench is being ended.
    fn reap(&mut self, limit: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(LOOK);
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end().is_ok() {
            return;
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _killed = kill_process_group(group, Signal::KILL);
        }
        let _reaped = self.child.wait();
    }
}

/// The first and the last CPU that this process may use: the same if it is only one.
pub fn cpus() -> anyhow::Result<[usize; 2]> {
    let set = sched_getaffinity(None).context("no CPUs are told")?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    let first = cpus.next().context("no CPU may be used")?;
    Ok([first, cpus.next_back().unwrap_or(first)])
}

/// The calling process on one CPU.
pub fn pin(cpu: Option<usize>) -> std::io::Result<()> {
    if let Some(cpu) = cpu {
        let mut cpus = CpuSet::new();
        cpus.set(cpu);
        sched_setaffinity(None, &cpus)?;
    }
    Ok(())
}

/// Runs a program to its end; what it has printed. Its complaints are in the error.
pub fn run(command: &mut Command, name: &str, limit: Duration, cpu: Option<usize>) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Running::start(command, name, Signal::KILL, cpu)?;
    let (output, complaints) = (child.output()?, child.complaints()?);
    let status = child.wait(limit)?;
    let printed = output.rest();
    if !status.success() {
        let said = complaints.rest();
        let said = said.lines().last().or_else(|| printed.lines().last()).unwrap_or_default();
        bail!("{name}: {status}: {said}");
    }
    Ok(printed)
}

/// Lines of a pipe, read by a thread, so that nobody waits for them longer than he wants.
pub struct Lines(Receiver<String>);

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }

    /// The next line; none if there are no more.
    pub fn next(&self, limit: Duration) -> anyhow::Result<Option<String>> {
        let began = Instant::now();
        loop {
            match self.0.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => go_on()?,
            }
            if began.elapsed() > limit {
                bail!("no answer within {limit:?}");
            }
        }
    }

    /// All that is left, of a process that has ended.
    pub fn rest(&self) -> String {
        let mut text = String::new();
        while let Ok(line) = self.0.recv_timeout(Duration::from_secs(1)) {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

/// A directory of this run, gone when it is dropped.
pub struct Scratch(PathBuf);

/// How such directories begin.
const SCRATCH: &str = "bench-programs-";

impl Scratch {
    /// Makes it below a directory; takes away what killed runs have left there.
    pub fn below(directory: &Path) -> anyhow::Result<Self> {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(SCRATCH)?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                // What can't be removed is in the way of nobody.
                let _removed = fs::remove_dir_all(entry.path());
            }
        }
        let path = directory.join(format!("{SCRATCH}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(Self(path))
    }

    /// A directory inside, which is made.
    pub fn room(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// A port of loopback that nobody listens at now.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Where a program lies: what the system brings goes before what somebody has put into PATH, which may be a script that chooses.
pub fn find(program: &str) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = vec!["/usr/bin".into(), "/usr/sbin".into()];
    places.extend(std::env::var_os("PATH").iter().flat_map(|path| std::env::split_paths(path)));
    // Debian keeps the servers of all versions apart; the newest is last.
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    // Before all, for Debian's wrapper of the same name is a script.
    places.splice(0..0, versions.into_iter().rev().map(|(_, path)| path));
    places.into_iter().map(|place| place.join(program)).find(|file| file.is_file())
}
