//! The process itself: takes requests from its standard input, a socket, until that is closed.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    os::{fd::FromRawFd as _, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::Arc,
};

use super::{
    Code, FileKey, Module, RawUnwound,
    analyse::analyse,
    describe::describe,
    elf::{Image, Source as _},
    perf_map,
    protocol::{Reply, Request, decode, encode},
    sandbox,
    symbolise::Names,
    unwind::Mapped,
    wire,
};
use crate::stack::End;

/// The first argument that makes the program be this process.
pub const ARGUMENT: &str = "--worker-process";

/// Sets of mapped files that are kept ready; the client tells a forgotten one again.
const SPACES: usize = 64;
/// Files whose names are kept ready. Debug information takes a multiple of what is looked up in it.
const NAMED: usize = 64;

/// Is the process, until its client closes the socket: for `main`, when the first argument is [`ARGUMENT`]. The second one is
/// the limit of memory in bytes, the third the seconds that a request may take.
pub fn serve() -> ExitCode {
    let mut arguments = std::env::args().skip(2).map(|argument| argument.parse::<u64>().ok());
    let (Some(Some(memory)), Some(Some(seconds))) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    // What it would say could hold what it has read; nobody listens, either.
    std::panic::set_hook(Box::new(|_| {}));
    // SAFETY: descriptor 0 is the socket that the client has given us, and nothing else here uses it.
    let socket = unsafe { UnixStream::from_raw_fd(0) };
    // Read before the door closes: the system's own, and the same in every process (arch/x86/entry/vdso/vma.c).
    let vdso = own_vdso();
    if sandbox::enter(memory).is_err() {
        return ExitCode::from(3);
    }
    let mut server = Server {
        socket,
        memory,
        files: HashMap::new(),
        spaces: VecDeque::new(),
        named: VecDeque::new(),
        vdso,
    };
    match server.run(u32::try_from(seconds).unwrap_or(u32::MAX)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

struct Server {
    socket: UnixStream,
    memory: u64,
    files: HashMap<u32, Given>,
    spaces: VecDeque<(u64, Mapped)>,
    named: VecDeque<(u32, Names)>,
    vdso: Option<Arc<Image>>,
}

/// A file that the client has passed.
struct Given {
    file: File,
    debug: Option<File>,
    /// `Some(None)`: it has been looked at, and is nothing.
    image: Option<Option<Arc<Image>>>,
}

impl Server {
    fn run(&mut self, seconds: u32) -> io::Result<()> {
        while let Some((bytes, descriptors)) = wire::receive(&self.socket, None)? {
            let request = decode::<Request<'_>>(&bytes).ok_or(io::ErrorKind::InvalidData)?;
            // The client kills us when time is up, if it still lives.
            sandbox::alarm(seconds);
            let answer = catch_unwind(AssertUnwindSafe(|| self.handle(request, descriptors)));
            sandbox::alarm(0);
            match answer {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(reply))) => self.say(&reply)?,
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    // What was half done is not to be trusted.
                    self.spaces.clear();
                    self.named.clear();
                    self.say(&Reply::Failed)?;
                }
            }
        }
        Ok(())
    }

    fn say(&self, reply: &Reply) -> io::Result<()> {
        wire::send(&self.socket, &encode(reply), &[], None)
    }

    fn handle(
        &mut self,
        request: Request<'_>,
        descriptors: Vec<std::os::fd::OwnedFd>,
    ) -> io::Result<Option<Reply>> {
        let mut descriptors = descriptors.into_iter().map(File::from);
        match request {
            Request::File { key } => {
                let regular = |file: &File| file.metadata().is_ok_and(|metadata| metadata.is_file());
                if let Some(file) = descriptors.next().filter(regular) {
                    let debug = descriptors.next().filter(regular);
                    self.files.insert(key, Given { file, debug, image: None });
                }
                Ok(None)
            }
            Request::Forget { key } => {
                self.files.remove(&key);
                self.named.retain(|(named, _)| *named != key);
                Ok(None)
            }
            Request::Space { id, modules } => {
                self.spaces.retain(|(known, _)| *known != id);
                self.spaces.truncate(SPACES - 1);
                let images = self.images(&modules)?;
                self.spaces.push_front((id, Mapped::new(modules, &images)));
                Ok(None)
            }
            Request::Unwind { space, registers, returned, stack } => {
                let Some(at) = self.spaces.iter().position(|(id, _)| *id == space) else {
                    return Ok(Some(Reply::WhichSpace));
                };
                if let Some(found) = self.spaces.remove(at) {
                    self.spaces.push_front(found);
                }
                let unwound =
                    self.spaces.front_mut().map(|(_, mapped)| mapped.unwind(registers, returned, stack));
                Ok(Some(unwound.map_or(Reply::Failed, Reply::Unwound)))
            }
            Request::Symbolise { key, offsets } => self.symbolise(key, &offsets).map(Some),
            Request::PerfMap { addresses } => {
                let names = descriptors.next().and_then(|map| perf_map::names(&map, &addresses));
                Ok(Some(names.map_or(Reply::Failed, Reply::Jitted)))
            }
            Request::Analyse { python } => {
                let (file, debug) = (descriptors.next(), descriptors.next());
                let analysed = file.map(|file| analyse(&file, debug.as_ref(), python));
                Ok(Some(analysed.map_or(Reply::Failed, |analysed| Reply::Analysed(Box::new(analysed)))))
            }
            Request::Describe => {
                let described = descriptors.next().map(|file| describe(&file));
                Ok(Some(described.map_or(Reply::Failed, |described| Reply::Described(Box::new(described)))))
            }
        }
    }

    fn symbolise(&mut self, key: u32, offsets: &[u64]) -> io::Result<Reply> {
        let Some(image) = self.image(key)? else { return Ok(Reply::Names(vec![Vec::new(); offsets.len()])) };
        if let Some(at) = self.named.iter().position(|(named, _)| *named == key) {
            if let Some(found) = self.named.remove(at) {
                self.named.push_front(found);
            }
        } else if let Some(given) = self.files.get(&key) {
            self.say(&Reply::Reading { key })?;
            self.named.truncate(NAMED - 1);
            self.named.push_front((key, Names::new(&given.file, given.debug.as_ref())));
        }
        let names = self.named.front().map_or_else(Vec::new, |(_, names)| names.functions(&image, offsets));
        if used_memory().is_none_or(|used| used > self.memory / 2) {
            self.named.clear();
        }
        Ok(Reply::Names(names))
    }

    fn images(&mut self, modules: &[Module]) -> io::Result<HashMap<Code, Arc<Image>>> {
        let mut images = HashMap::new();
        for module in modules {
            if images.contains_key(&module.code) {
                continue;
            }
            let image = match module.code {
                Code::File(FileKey(key)) => self.image(key)?,
                Code::Vdso => self.vdso.clone(),
                Code::Anonymous | Code::Uprobes => None,
            };
            if let Some(image) = image {
                images.insert(module.code, image);
            }
        }
        Ok(images)
    }

    fn image(&mut self, key: u32) -> io::Result<Option<Arc<Image>>> {
        let Some(given) = self.files.get(&key) else { return Ok(None) };
        if let Some(image) = &given.image {
            return Ok(image.clone());
        }
        self.say(&Reply::Reading { key })?;
        let image = Image::read(&given.file).map(Arc::new);
        if let Some(given) = self.files.get_mut(&key) {
            given.image = Some(image.clone());
        }
        Ok(image)
    }
}

/// Bytes of address space that we use (proc_pid_statm(5)).
fn used_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').next()?.parse().ok()?;
    pages.checked_mul(4096)
}

/// The kernel's code in our own process.
fn own_vdso() -> Option<Arc<Image>> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let memory = File::open("/proc/self/mem").ok()?;
    let mut bytes = vec![0; usize::try_from(end.checked_sub(start)?).ok()?];
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, start).ok()?;
    debug_assert!(bytes.as_slice().bytes(0, 4).is_some());
    Image::read(bytes.as_slice()).map(Arc::new)
}

/// A stack of which nothing is known.
pub const fn failed() -> RawUnwound {
    RawUnwound { frames: Vec::new(), end: End::Failed }
}
