//! Stacks that programs with known callers have written down themselves (`programs/stacks/hook.c`), and the worker that
//! unwinds and names them.

// Every test program uses a part of this.
#![allow(dead_code)]

use std::{
    collections::HashMap,
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use profiler::{
    stack::{End, Function},
    worker::{Code, FileKey, Limits, Module, RawUnwound, Space, Worker, code_ranges},
};
use profiler_common::sample::Registers;

/// What the programs ask for where the stack is taken.
pub const WANT: usize = 123_456;

/// What a sample would hold, and the process's maps.
pub struct Captured {
    pub registers: Registers,
    pub stack: Vec<u8>,
    pub maps: String,
}

pub fn limits() -> Limits {
    Limits { program: PathBuf::from(env!("CARGO_BIN_EXE_profiler")), ..Limits::default() }
}

pub fn directory() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stacks");
    std::fs::create_dir_all(&directory).expect("the build directory can be written");
    directory
}

/// A name that nobody else uses.
pub fn fresh(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    directory().join(format!("{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)))
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/stacks").join(name)
}

/// Builds a program of `programs/stacks`, with these options; `None` if its compiler isn't there.
pub fn build(compiler: &str, name: &str, options: &[&str]) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = fresh(name);
    let built = Command::new(compiler)
        .args(options.iter().filter(|option| !option.ends_with(".c")))
        .arg("-o")
        .arg(&output)
        .arg(source(name))
        .args(options.iter().filter(|option| option.ends_with(".c")).map(|option| source(option)))
        .output();
    let built = match built {
        Ok(built) => built,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{compiler}: {error}"),
    };
    assert!(built.status.success(), "{compiler} {name}: {}", String::from_utf8_lossy(&built.stderr));
    Some(output)
}

pub fn must(program: &str, arguments: &[&str]) {
    let ended =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(ended.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// Runs a program until it has written its stack down: so many bytes of it.
pub fn capture(program: &Path, arguments: &[&str], preload: bool, stack_bytes: usize) -> Captured {
    let output = fresh("capture");
    let mut command = Command::new(program);
    command.args(arguments).env("WANT", WANT.to_string()).env("STACK", stack_bytes.to_string());
    command.env("CAPTURE", &output);
    if preload {
        let hook = build("gcc", "hook.c", &["-O2", "-shared", "-fPIC"]).expect("there is a C compiler");
        command.env("LD_PRELOAD", hook);
    }
    let status = command.status().expect("the program runs");
    assert!(status.success(), "{program:?}: {status}");
    let bytes = std::fs::read(&output).expect("the stack was written down");
    let word = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
    let end = 32 + word(3) as usize;
    Captured {
        registers: Registers { ip: word(0), sp: word(1), bp: word(2), rest: [0; 5] },
        stack: bytes[32..end].to_vec(),
        maps: String::from_utf8(bytes[end..].to_vec()).unwrap(),
    }
}

pub fn descriptor(path: &Path) -> Arc<OwnedFd> {
    Arc::new(File::open(path).unwrap_or_else(|error| panic!("{path:?}: {error}")).into())
}

/// The code that was mapped; `debug` tells the debug file of a mapped file.
pub fn space(
    worker: &mut Worker,
    maps: &str,
    debug: &dyn Fn(&Path) -> Option<PathBuf>,
) -> (Space, HashMap<FileKey, PathBuf>) {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let mut keys = HashMap::new();
    let mut names = HashMap::new();
    let mut modules = Vec::new();
    for range in code_ranges(maps) {
        let code = match range.file {
            None => range.unnamed,
            Some(id) => Code::File(*keys.entry(id).or_insert_with(|| {
                let start = format!("{:x}-", range.start);
                let line =
                    maps.lines().find(|line| line.trim_start_matches('0').starts_with(&start)).unwrap();
                let path = PathBuf::from(&line[line.find('/').unwrap()..]);
                let debug = debug(&path).map(|path| descriptor(&path));
                let key = worker.add_file(descriptor(&path), debug, Arc::from("test"));
                names.insert(key, path);
                key
            })),
        };
        modules.push(Module { start: range.start, end: range.end, file_offset: range.file_offset, code });
    }
    (Space { id: u64::from(NUMBER.fetch_add(1, Ordering::Relaxed)), modules }, names)
}

/// The functions of every frame, innermost first.
pub fn functions(worker: &mut Worker, unwound: &RawUnwound) -> Vec<Vec<Function>> {
    let mut named = Vec::new();
    for frame in &unwound.frames {
        named.push(match frame.code {
            Code::File(key) => worker.symbolise(key, &[frame.offset]).remove(0),
            _ => Vec::new(),
        });
    }
    named
}

/// The names on a stack that was taken just after an allocation, innermost first, and why it ends.
pub fn names(captured: &Captured, debug: &dyn Fn(&Path) -> Option<PathBuf>) -> (Vec<String>, End) {
    let mut worker = Worker::new(limits());
    let (space, files) = space(&mut worker, &captured.maps, debug);
    let unwound = worker.unwind(&space, &captured.registers, true, &captured.stack);
    let named = functions(&mut worker, &unwound);
    let mut names = Vec::new();
    for (frame, functions) in unwound.frames.iter().zip(named) {
        if functions.is_empty() {
            let object = match frame.code {
                Code::File(key) => files[&key].file_name().unwrap().to_string_lossy().into_owned(),
                code => code.unnamed().unwrap().to_owned(),
            };
            names.push(format!("{object}+{:#x}", frame.offset));
        }
        names.extend(functions.iter().map(|function| function.name.to_string()));
    }
    assert_eq!(worker.figures().started, 1, "{:?}", worker.figures());
    (names, unwound.end)
}
