//! Placing probes: many at once where the kernel can do it properly, else one by one.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    fmt, io,
    num::NonZeroU32,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    sync::Mutex,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
    programs::uprobe::{UProbe, UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
};
use aya_obj::Object;

use super::{
    Kernel, KernelError, LoaderLink,
    loader::OBJECT,
    sys::{Point, When, link_uprobe_multi, load_uprobe_multi},
};

/// The programs for probes in user space.
pub(super) const UPROBES: [&str; 4] = ["alloc", "loaded", "empty", "trial"];
/// Those that look at returns as well, where the kernel can leave it to a program whether to.
pub(super) const SESSIONS: [&str; 2] = ["alloc_session", "trial_session"];
/// Those that do the same where every return is taken.
pub(super) const PAIRS: [&str; 3] = ["alloc_entry", "alloc_return", "trial_return"];
/// So many links are taken away at a time: the kernel lets those that wait together wait for the same grace periods.
const DETACHERS: usize = 64;
/// All they do is close.
const DETACHER_STACK: usize = 64 * 1024;

/// How probes are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All probes of a file by one link (`uprobe_multi`, Linux 6.6, right since 6.10).
    Multi,
    /// Every probe by a performance event of its own. Taking one away costs about a tenth of a second.
    Single,
}

impl Placement {
    /// One word, for people and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Multi => "uprobe_multi",
            Self::Single => "perf_uprobe",
        }
    }
}

/// Probes in place. They go away when this is dropped.
#[expect(dead_code, reason = "held, so that the probes stay")]
pub struct Probes(Places);

#[expect(dead_code, reason = "held, so that the probes stay")]
enum Places {
    Multi(OwnedFd),
    Single(Vec<UProbeLink>),
}

/// When a program runs.
fn when(program: &str) -> When {
    match program {
        "alloc_session" | "trial_session" => When::Session,
        "alloc_return" | "trial_return" => When::Return,
        _ => When::Entry,
    }
}

/// The programs as loaded for links to many places.
pub(super) struct Multi {
    programs: HashMap<&'static str, OwnedFd>,
    /// What further ones can be loaded from.
    object: Option<Object>,
}

/// Why probes are placed one by one.
#[derive(Debug)]
pub(super) struct Unfit(pub(super) String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn unfit(what: &str) -> impl FnOnce(io::Error) -> Unfit {
    move |error| Unfit(format!("{what}: {error}"))
}

impl Multi {
    /// Loads the programs next to aya, which owns the maps, and tries them on ourselves. `more` are loaded with those that
    /// always are.
    pub(super) fn load(
        maps: &MapFds,
        trials: &Array<MapData, u64>,
        more: &[&'static str],
    ) -> Result<Self, Unfit> {
        let mut object = Object::parse(OBJECT).map_err(|error| Unfit(error.to_string()))?;
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let declared = object.maps.clone();
        let fds = declared.iter().map(|(name, map)| {
            let fd = maps.0.get(name).copied().unwrap_or(-1);
            (name.as_str(), fd, map)
        });
        object.relocate_maps(fds, &text).map_err(|error| Unfit(error.to_string()))?;
        object.relocate_calls(&text).map_err(|error| Unfit(error.to_string()))?;
        let mut multi = Self { programs: HashMap::new(), object: Some(object) };
        multi.add(&[&UPROBES, more].concat())?;
        multi.try_on_ourselves(trials)?;
        Ok(multi)
    }

    /// Loads further programs: all of them or none.
    pub(super) fn add(&mut self, names: &[&'static str]) -> Result<(), Unfit> {
        let object = self.object.as_ref().ok_or_else(|| Unfit("all programs are loaded".to_owned()))?;
        let mut programs = Vec::with_capacity(names.len());
        for &name in names {
            let function = object
                .programs
                .get(name)
                .and_then(|program| object.functions.get(&program.function_key()))
                .ok_or_else(|| Unfit(format!("no program {name}")))?;
            let program = load_uprobe_multi(&function.instructions, &object.license, when(name));
            programs.push((name, program.map_err(unfit(name))?));
        }
        self.programs.extend(programs);
        Ok(())
    }

    /// No further programs will be loaded.
    pub(super) fn seal(&mut self) {
        self.object = None;
    }

    /// Before 6.10 (and the stable kernels that have "bpf: fix multi-uprobe PID filtering logic"), a link for a process was
    /// for its main thread only. So another thread of ours must be seen.
    fn try_on_ourselves(&self, trials: &Array<MapData, u64>) -> Result<(), Unfit> {
        let point = trial_function();
        let points = [trial_place()?];
        let link = self.attach("trial", Path::new("/proc/self/exe"), std::process::id(), &points);
        let link = link.map_err(unfit("a link to ourselves"))?;
        let call = std::thread::Builder::new().spawn(point).map_err(unfit("a thread to try with"))?;
        let called = call.join();
        // It takes tens of milliseconds, and nobody has to wait. Without a thread to spare, here and now.
        let _thread = std::thread::Builder::new().spawn(move || drop(link));
        match (called, trials.get(&0, 0)) {
            (Ok(TRIED), Ok(1)) => Ok(()),
            (_, Ok(hits)) => Err(Unfit(format!("a call in another thread was seen {hits} times"))),
            (_, Err(error)) => Err(Unfit(error.to_string())),
        }
    }

    fn attach(&self, program: &str, file: &Path, pid: u32, points: &[Point]) -> io::Result<OwnedFd> {
        let when = when(program);
        let program = self.programs.get(program).ok_or(io::ErrorKind::NotFound)?;
        let file = CString::new(file.as_os_str().as_bytes())?;
        link_uprobe_multi((program.as_fd(), when), &file, pid, points)
    }
}

/// What [`trial_point`] returns.
pub(super) const TRIED: u32 = 0x7472_6965;

/// A function that nobody calls but the trial.
#[inline(never)]
fn trial_point() -> u32 {
    std::hint::black_box(TRIED)
}

/// The function for trials, in a way that the compiler calls it.
pub(super) fn trial_function() -> fn() -> u32 {
    std::hint::black_box(trial_point)
}

/// Where that function is in the file of our program.
pub(super) fn trial_place() -> Result<Point, Unfit> {
    let file_offset = own_file_offset(trial_function() as usize as u64)
        .ok_or_else(|| Unfit("our own program isn't in /proc/self/maps".to_owned()))?;
    Ok(Point { file_offset, cookie: 0 })
}

/// Where in its file the code at an address of ours is.
fn own_file_offset(address: u64) -> Option<u64> {
    // proc_pid_maps(5): start-end permissions offset device inode path
    std::fs::read_to_string("/proc/self/maps").ok()?.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (start, end, offset) = (hex(start)?, hex(end)?, hex(fields.nth(1)?)?);
        (start..end).contains(&address).then(|| address - start + offset)
    })
}

/// The maps' descriptors by name, as aya has made them.
pub(super) struct MapFds(HashMap<String, RawFd>);

impl MapFds {
    pub(super) fn of(ebpf: &Ebpf) -> Self {
        let fd = |map: &Map| match map {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)
            | Map::RingBuf(data) => Some(data.fd().as_fd().as_raw_fd()),
            _ => None,
        };
        Self(ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), fd(map)?))).collect())
    }
}

impl Kernel {
    /// How probes are placed on this machine.
    pub const fn placement(&self) -> Placement {
        if self.multi.is_some() { Placement::Multi } else { Placement::Single }
    }

    /// Puts a program at places of a file, for one process only: all of them or none.
    pub(super) fn place(
        &mut self,
        program: &'static str,
        pid: u32,
        file: &Path,
        points: &[Point],
    ) -> Result<Probes, KernelError> {
        let Some(multi) = &self.multi else { return self.place_singly(program, pid, file, points) };
        match multi.attach(program, file, pid, points) {
            Ok(link) => Ok(Probes(Places::Multi(link))),
            Err(source) => {
                // The kernel doesn't say which one it is: it can be found by trying each alone.
                let (file_offset, source) = points
                    .iter()
                    .find_map(|point| {
                        let alone = multi.attach(program, file, pid, std::slice::from_ref(point));
                        alone.err().map(|error| (point.file_offset, error))
                    })
                    .unwrap_or((points.first().map_or(0, |point| point.file_offset), source));
                Err(KernelError::Probe { pid, file_offset, source: source.into() })
            }
        }
    }

    /// Takes our breakpoints out of processes that a target has forked and that nobody observes: `fork` copies them with the
    /// memory, and every call would go through the kernel there until the child replaces its program. `pid` is the target,
    /// `file_offsets` are places where it has probes.
    ///
    /// Only needed where probes are placed by one link (single ones are removed by the kernel at the first hit), and where
    /// the child stays. The kernel looks through all processes when a probe is taken away, and leaves those breakpoints only
    /// that somebody wants (kernel/events/uprobes.c, `register_for_each_vma`); so a probe is added and taken away, which
    /// takes tens of milliseconds: it happens when what is returned is dropped. The target's own stay.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the probes.
    pub fn sweep_forks(
        &mut self,
        pid: u32,
        file: &Path,
        file_offsets: &[u64],
    ) -> Result<Option<LoaderLink>, KernelError> {
        if self.multi.is_none() || file_offsets.is_empty() {
            return Ok(None);
        }
        let points: Vec<_> =
            file_offsets.iter().map(|&file_offset| Point { file_offset, cookie: 0 }).collect();
        Ok(Some(LoaderLink(self.place("empty", pid, file, &points)?)))
    }

    fn place_singly(
        &mut self,
        program: &'static str,
        pid: u32,
        file: &Path,
        points: &[Point],
    ) -> Result<Probes, KernelError> {
        let scope = NonZeroU32::new(pid).map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess);
        let program: &mut UProbe = self.uprobe(program)?;
        let mut links = Vec::with_capacity(points.len());
        for point in points {
            let refused = |source| KernelError::Probe {
                pid,
                file_offset: point.file_offset,
                source: Box::<aya::programs::ProgramError>::new(source),
            };
            if program.fd().is_err() {
                program.load().map_err(refused)?;
            }
            let at = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(point.file_offset),
                cookie: Some(point.cookie),
            };
            let id = program.attach(at, file, scope).map_err(refused)?;
            links.push(program.take_link(id).map_err(refused)?);
        }
        Ok(Probes(Places::Single(links)))
    }
}

/// Takes many probes away. Each one waits for the kernel's grace periods, so they had better wait together.
pub fn detach_all<T: Send>(links: impl IntoIterator<Item = T>) {
    let links: Vec<T> = links.into_iter().collect();
    let threads = links.len().min(DETACHERS);
    let links = Mutex::new(links);
    let take = || links.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
    let work = || {
        while let Some(link) = take() {
            drop(link);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Fewer threads take longer, nothing else.
            let _thread = std::thread::Builder::new().stack_size(DETACHER_STACK).spawn_scoped(scope, work);
        }
        work();
    });
}
