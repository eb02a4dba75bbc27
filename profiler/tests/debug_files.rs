//! Debug files are found in the target's root, on this machine and on a server, and nothing that lies there instead does
//! any harm.

mod common;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use common::{
    LONG, Scratch,
    child::{Guarded, run},
    has_program,
    helper::{Helper, compiled},
    within,
};
use profiler::{
    binary::{self, SymbolSource},
    session::Images,
    symbols::{self, Limits, Origin, Server, SymbolFinder, SymbolsError},
    target::Process,
    worker,
};

/// A static program without symbols, its debug file, its build id, and where `nm` says that its functions are.
struct Program {
    _directory: Scratch,
    stripped: PathBuf,
    debug: PathBuf,
    build_id: String,
    truth: BTreeSet<(String, u64)>,
}

/// What was read of a debug file, or why none was found.
type Search = symbols::Search<Vec<u8>>;

fn find(finder: &mut SymbolFinder, build_id: &str, root: Option<&Path>) -> Search {
    finder.find(build_id, root, |file| symbols::read(file, build_id))
}

/// Analyses are made by the program under test.
fn images() -> Images {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_profiler"));
    let limits = worker::Limits { program, ..worker::Limits::for_analyses() };
    Images::new(None, true).expect("no address").with_limits(limits)
}

const NAMES: [&str; 4] = ["malloc", "free", "calloc", "main"];

/// `None`, and a skipped test, if it can't be made here.
fn program() -> Option<Arc<Program>> {
    if !["objcopy", "strip", "nm", "readelf"].into_iter().all(has_program) {
        return None;
    }
    let whole = compiled("calls.c", &["-static", "-g", "-Wl,--build-id"])?;
    let directory = Scratch::directory("debug-files");
    let [stripped, debug] = ["stripped", "program.debug"].map(|name| directory.path().join(name));
    let tool = |name: &str, arguments: &[&Path]| {
        let ended = run(Command::new(name).args(arguments));
        assert!(ended.status.success(), "{name}: {:?}", ended.complaints());
        String::from_utf8(ended.stdout).expect("it speaks ASCII")
    };
    tool("strip", &[Path::new("-o"), &stripped, &whole]);
    tool("objcopy", &[Path::new("--only-keep-debug"), &whole, &debug]);
    let notes = tool("readelf", &[Path::new("-n"), &stripped]);
    let build_id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).expect("it has one");
    let functions = tool("nm", &[&whole]);
    let function = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let name = words.nth(1)?;
        NAMES.contains(&name).then(|| (name.to_owned(), address))
    };
    let truth: BTreeSet<_> = functions.lines().filter_map(function).collect();
    assert_eq!(truth.len(), NAMES.len());
    let build_id = build_id.to_owned();
    Some(Arc::new(Program { _directory: directory, stripped, debug, build_id, truth }))
}

impl Program {
    /// A root with something at the place of the debug file.
    fn root(&self, put: impl FnOnce(&Path)) -> Scratch {
        let root = Scratch::directory("root");
        let place = self.place(root.path());
        std::fs::create_dir_all(place.parent().expect("a directory")).expect("it can be made");
        put(&place);
        root
    }

    fn place(&self, root: &Path) -> PathBuf {
        let (directory, file) = self.build_id.split_at(2);
        root.join(format!("usr/lib/debug/.build-id/{directory}/{file}.debug"))
    }

    /// The functions of the stripped program are where they are, by what was found.
    fn is_known_by(&self, search: &Search) {
        let (debug, _) = search.found.as_ref().unwrap_or_else(|| panic!("{:?}", search.tried));
        let image = std::fs::read(&self.stripped).expect("it can be read");
        let wanted = |name: &[u8]| NAMES.iter().any(|wanted| wanted.as_bytes() == name);
        let bare = binary::symbols(&image, None, &wanted).expect("it is an ELF file");
        assert!(bare.functions.is_empty() && bare.is_stripped && bare.is_static);
        let symbols = binary::symbols(&image, Some(debug), &wanted).expect("it is an ELF file");
        assert_eq!(symbols.problems, []);
        let found: BTreeSet<_> =
            symbols.functions.iter().map(|function| (function.name.clone(), function.address)).collect();
        assert_eq!(found, self.truth);
        assert!(symbols.functions.iter().all(|function| function.source == SymbolSource::DebugFile));
    }

    /// Why there is no file in that root.
    fn refusal(&self, root: &Path) -> String {
        let began = Instant::now();
        let search = find(&mut SymbolFinder::default(), &self.build_id, Some(root));
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
        assert!(search.found.is_none(), "{:?}", search.found.map(|(_, origin)| origin));
        assert!(matches!(search.tried[0], (Origin::Host(_), SymbolsError::Missing)));
        let inside = |(origin, _): &&(Origin, SymbolsError)| matches!(origin, Origin::Target(_));
        search.tried.iter().find(inside).expect("it was looked for").1.to_string()
    }

    /// The debug file with every function one byte behind its place.
    fn forged(&self) -> Vec<u8> {
        let mut bytes = std::fs::read(&self.debug).expect("it can be read");
        let word = |bytes: &[u8], at: usize, length: usize| {
            bytes[at..at + length].iter().rev().fold(0, |word, byte| word << 8 | usize::from(*byte))
        };
        // The table of sections, and of the one that is the symbol table (type 2) the entries for functions (type 2).
        let (sections, count) = (word(&bytes, 0x28, 8), word(&bytes, 0x3c, 2));
        let header = (0..count).map(|index| sections + 64 * index).find(|at| word(&bytes, at + 4, 4) == 2);
        let header = header.expect("it has a symbol table");
        let (start, length) = (word(&bytes, header + 0x18, 8), word(&bytes, header + 0x20, 8));
        for symbol in
            (start..start + length).step_by(24).filter(|at| bytes[at + 4] & 15 == 2).collect::<Vec<_>>()
        {
            let moved = word(&bytes, symbol + 8, 8) as u64 + 1;
            bytes[symbol + 8..symbol + 16].copy_from_slice(&moved.to_le_bytes());
        }
        bytes
    }
}

/// Where the program's functions are hooked by what is known for a process that runs it, and by which symbols.
fn looked_at(images: &mut Images, pid: u32) -> (Vec<u64>, bool) {
    let process = Process::open(pid).expect("it runs");
    let objects = process.mapped_objects().expect("they can be read");
    assert_eq!(objects.len(), 1, "a static program has nothing else: {objects:?}");
    let (_, analysis) = images.look_at(&process, &objects[0]).expect("it can be had");
    let image = (*analysis).as_ref().unwrap_or_else(|error| panic!("{objects:?}: {error}"));
    let offsets = image.hooks.iter().map(|hook| hook.site.file_offset).collect();
    (offsets, image.symbols.contains(&SymbolSource::DebugFile))
}

#[test]
fn a_debug_file_in_one_processs_root_says_nothing_of_a_process_with_another() {
    let Some(program) = program() else { return };
    let inside = |root: &Scratch| {
        std::fs::hard_link(&program.stripped, root.path().join("program")).expect("the same file system");
        Helper::spawn(Command::new("chroot").arg(root.path()).args(["/program", "5", "20"]))
    };
    if !has_program("chroot") || !run(Command::new("chroot").args(["/", "true"])).status.success() {
        return common::skip("no right to have another root");
    }
    let copy = |place: &Path| {
        std::fs::copy(&program.debug, place).expect("it can be copied");
    };
    let forge = |place: &Path| std::fs::write(place, program.forged()).expect("it can be written");
    let (true_root, forged_root) = (program.root(copy), program.root(forge));
    let outside = Helper::start(&program.stripped, &["5", "20"]);
    let (honest, forged) = (inside(&true_root), inside(&forged_root));
    let pids = [outside.pid(), honest.pid(), forged.pid()];
    let alone = pids.map(|pid| looked_at(&mut images(), pid));
    assert_eq!(alone[0], (Vec::new(), false));
    assert!(alone[1].1 && !alone[1].0.is_empty(), "{alone:?}");
    assert!(alone[2].1 && alone[2].0 != alone[1].0, "{alone:?}");
    // Whoever was looked at before.
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut images = images();
        for index in [order, order].concat() {
            assert_eq!(looked_at(&mut images, pids[index]), alone[index], "{order:?}");
        }
    }
}

#[test]
fn a_debug_file_in_the_targets_root_is_found() {
    let Some(program) = program() else { return };
    let copy = |place: &Path| {
        std::fs::copy(&program.debug, place).expect("it can be copied");
    };
    let find = |root: &Scratch| find(&mut SymbolFinder::default(), &program.build_id, Some(root.path()));
    let plain = find(&program.root(copy));
    program.is_known_by(&plain);
    assert!(matches!(plain.tried[..], [(Origin::Host(_), SymbolsError::Missing)]));
    assert!(matches!(plain.found.map(|(_, origin)| origin), Some(Origin::Target(_))));

    // Distributions link from there to the file; absolute links mean the target's root.
    let root = program.root(|place| symlink("/somewhere/program.debug", place).expect("it can be made"));
    std::fs::create_dir(root.path().join("somewhere")).expect("it can be made");
    copy(&root.path().join("somewhere/program.debug"));
    program.is_known_by(&find(&root));
}

#[test]
fn of_a_large_debug_file_only_the_symbols_are_read() {
    let Some(program) = program() else { return };
    // Nearly a gigabyte of nothing behind them.
    let root = program.root(|place| {
        std::fs::copy(&program.debug, place).expect("it can be copied");
        File::options().write(true).open(place).and_then(|f| f.set_len(1 << 30)).expect("it can be made");
    });
    let mut finder = SymbolFinder::default();
    let before = resident();
    let search = find(&mut finder, &program.build_id, Some(root.path()));
    let grown = resident().saturating_sub(before);
    program.is_known_by(&search);
    assert!(grown < 200 << 20, "{grown} bytes for a few kilobytes of symbols");
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn what_a_hostile_root_has_instead_of_a_debug_file_is_refused() {
    let Some(program) = program() else { return };
    let refusal = |put: &dyn Fn(&Path)| program.refusal(program.root(put).path());

    assert_eq!(refusal(&|_| ()), "there is none");
    assert_eq!(
        refusal(&|place| std::fs::create_dir(place).expect("it can be made")),
        "it is no regular file"
    );
    let pipe = |place: &Path| assert!(run(Command::new("mkfifo").arg(place)).status.success());
    assert_eq!(refusal(&pipe), "it is no regular file");
    let device = |place: &Path| {
        // Without the right to make one there is a pipe.
        if !run(Command::new("mknod").arg(place).args(["c", "1", "5"])).status.success() {
            pipe(place);
        }
    };
    assert_eq!(refusal(&device), "it is no regular file");

    // Links that would lead out of the root lead nowhere, although the file is there outside.
    let outside = program.debug.clone();
    assert_eq!(refusal(&|place| symlink(&outside, place).expect("a link")), "there is none");
    let up = Path::new(&"../".repeat(40)).join(outside.strip_prefix("/").expect("it is absolute"));
    assert_eq!(refusal(&|place| symlink(&up, place).expect("a link")), "there is none");
    let fd = File::open(&outside).expect("it is there");
    let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    assert_eq!(refusal(&|place| symlink(&magic, place).expect("a link")), "there is none");
    let in_circles = refusal(&|place| symlink(place.file_name().expect("a name"), place).expect("a link"));
    assert!(in_circles.starts_with("it can't be read"), "{in_circles}");

    let large = |place: &Path| File::create(place).and_then(|f| f.set_len((1 << 30) + 1)).expect("a file");
    assert_eq!(refusal(&large), "it has 1073741825 bytes, more than the 1073741824 that are read");
    assert!(
        refusal(&|place| std::fs::write(place, "").expect("a file")).contains("no 64 bit x86-64 ELF file")
    );
    let zeroes = |place: &Path| File::create(place).and_then(|f| f.set_len(1 << 30)).expect("a file");
    assert!(refusal(&zeroes).contains("no 64 bit x86-64 ELF file"));
    let stripped = |place: &Path| {
        std::fs::copy(&program.stripped, place).expect("it can be copied");
    };
    assert_eq!(refusal(&stripped), "it has no symbol table");
    // Of another build: one digit of it is changed.
    let id: Vec<u8> =
        (0..4).map(|at| u8::from_str_radix(&program.build_id[2 * at..][..2], 16).expect("digits")).collect();
    let other = |place: &Path| {
        let mut bytes = std::fs::read(&program.debug).expect("it can be read");
        let at = bytes.windows(4).position(|window| window == id).expect("it has it");
        bytes[at + 3] ^= 1;
        std::fs::write(place, bytes).expect("it can be written");
    };
    assert!(refusal(&other).contains(&format!(", not {}", program.build_id)));
    for wrong in ["", "../../../etc/passwd", "ABCDEF"] {
        let search = find(&mut SymbolFinder::default(), wrong, None);
        assert!(search.found.is_none() && search.tried.is_empty(), "{wrong}");
    }
}

/// A server on the loopback that answers everybody with the same, and counts.
fn server(answer: impl Fn(&mut TcpStream, &str) + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = format!("http://{}", listener.local_addr().expect("it is bound"));
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    // Ends with the tests.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            count.fetch_add(1, Ordering::SeqCst);
            answer(&mut stream, &String::from_utf8_lossy(&request[..length]));
        }
    });
    (address, asked)
}

fn ask(finder: &mut SymbolFinder, build_id: &str) -> String {
    let mut search = find(finder, build_id, None);
    assert!(search.found.is_none());
    let (origin, error) = search.tried.pop().expect("something was tried");
    assert!(matches!(origin, Origin::Server(_)), "{origin}");
    error.to_string()
}

fn finder(url: &str, limits: Limits) -> SymbolFinder {
    SymbolFinder::new(Some(Server::new(url, limits).expect("an address")))
}

#[test]
fn a_server_is_asked_once_for_each_build() {
    let Some(program) = program() else { return };
    let contents = std::fs::read(&program.debug).expect("it can be read");
    let path = format!("GET /buildid/{}/debuginfo HTTP/1.1", program.build_id);
    let (url, asked) = server(move |stream, request| {
        let status = if request.starts_with(&path) { "200 OK" } else { "404 Not Found" };
        let body = if request.starts_with(&path) { &contents[..] } else { b"none" };
        let length = body.len();
        let _gone =
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let _gone = stream.write_all(body);
    });
    let mut finder = finder(&format!("{url}/"), Limits::default());
    for _ in 0..3 {
        let search = find(&mut finder, &program.build_id, None);
        program.is_known_by(&search);
        let Some(Origin::Server(from)) = search.found.map(|(_, origin)| origin) else { panic!() };
        assert_eq!(from, format!("{url}/buildid/{}/debuginfo", program.build_id));
        assert!(matches!(search.tried[..], [(Origin::Host(_), SymbolsError::Missing)]));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    for _ in 0..3 {
        assert_eq!(ask(&mut finder, "00112233445566778899"), "the server has none");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn a_server_cant_take_more_time_or_space_than_it_is_given() {
    let build_id = "00112233445566778899";
    let limits = Limits { connect: Duration::from_secs(2), total: Duration::from_secs(3), size: 1 << 20 };
    let quick = |url: &str, what: &str| {
        let began = Instant::now();
        let error = ask(&mut finder(url, limits), build_id);
        assert!(began.elapsed() < Duration::from_secs(10), "{what}: {:?}", began.elapsed());
        error
    };
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let (endless, _) = server(move |stream, _| {
        let _gone = stream.write_all(head.as_bytes());
        while stream.write_all(&[0; 65536]).is_ok() {}
    });
    assert!(quick(&endless, "endless").contains("more than the 1048576 that are read"));
    let (large, _) =
        server(|stream, _| drop(write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")));
    assert!(quick(&large, "large").starts_with("it has 999999999999 bytes"));
    let (slow, _) = server(move |stream, _| {
        let _gone = stream.write_all(head.as_bytes());
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let error = quick(&slow, "slow");
    assert!(error.contains("timeout") || error.contains("not finished"), "{error}");
    let (silent, _) = server(|stream, _| drop(stream.read(&mut [0; 1])));
    assert!(quick(&silent, "silent").contains("timeout"));
    let (circles, _) = server(|stream, _| {
        drop(write!(stream, "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"));
    });
    assert!(quick(&circles, "in circles").contains("redirects"));
    let (broken, _) = server(|stream, _| drop(stream.write_all(b"220 mail.example ESMTP\r\n")));
    assert!(!quick(&broken, "no HTTP").is_empty());
    let (short, _) = server(|stream, _| {
        drop(write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nELF"));
    });
    assert!(!quick(&short, "short").is_empty());
    let (other, _) =
        server(|stream, _| drop(write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nELF")));
    assert_eq!(quick(&other, "no ELF file"), "it is no 64 bit x86-64 ELF file");
}

#[test]
fn a_server_that_cant_be_reached_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    drop(listener);
    let mut finder = finder(&url, Limits::default());
    for id in ["aa00", "aa01", "aa02"] {
        assert!(!ask(&mut finder, id).contains("any more"));
    }
    assert!(ask(&mut finder, "aa03").contains("isn't asked any more"));
    for wrong in ["", "debuginfod.debian.net", "ftp://example.org", "file:///etc/passwd", "http://"] {
        let error = Server::new(wrong, Limits::default()).err().unwrap_or_else(|| panic!("{wrong}"));
        assert!(error.to_string().contains("is no address"), "{wrong}: {error}");
    }
    assert!(Server::new("https://debuginfod.debian.net/", Limits::default()).is_ok());
}

#[test]
fn a_real_server_has_the_symbols() {
    let Some(program) = program() else { return };
    if !["debuginfod", "unshare", "ip"].into_iter().all(has_program) {
        return;
    }
    // It listens on all addresses: in a network of its own nobody else can reach it.
    let alone = ["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
    if !run(Command::new("unshare").args(alone).arg("true")).status.success() {
        return common::skip("no right to have a network of one's own");
    }
    let files = Scratch::directory("served");
    std::fs::copy(&program.debug, files.path().join("program.debug")).expect("it can be copied");
    let mut command = Command::new("unshare");
    command.args(alone).args(["debuginfod", "-F", "-p", "8002", "-d", ":memory:"]).arg(files.path());
    command.env_remove("DEBUGINFOD_URLS").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Guarded(command.spawn().expect("it can be started"));
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).expect("it runs");
    let pid = server.pid().to_string();
    assert!(within(LONG, || network(&pid) != network("self")), "it has a network of its own");
    let network = File::open(format!("/proc/{pid}/ns/net")).expect("it runs");
    // A thread of its own, for only that one changes into the other network.
    let client = std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), kind)
            .expect("it can be entered");
        let mut search = Search::default();
        within(LONG, || {
            // Until it listens and has looked at its files; each finder asks only once.
            let mut finder = finder("http://127.0.0.1:8002", Limits::default());
            search = find(&mut finder, &program.build_id, None);
            search.found.is_some()
        });
        program.is_known_by(&search);
        let mut finder = finder("http://127.0.0.1:8002", Limits::default());
        assert_eq!(ask(&mut finder, "00112233445566778899"), "the server has none");
    });
    client.join().expect("the client is content");
    drop(server);
}
