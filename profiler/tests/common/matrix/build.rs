//! Compiling a program of the matrix, before anything is stripped from it.

use std::{
    collections::HashMap,
    ffi::OsString,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use super::{
    super::{child::run_within, has_program, skip},
    Allocator, Language, Linking, Variant,
};

/// A directory for what is built here.
pub fn directory() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix");
    std::fs::create_dir_all(&directory).expect("the build directory can be written");
    directory
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/matrix")
}

/// Makes a file once, however many tests ask for it, in this run and later ones. `make` is given the place to write to.
pub fn once(output: &Path, make: impl FnOnce(&Path) -> Option<()>) -> Option<PathBuf> {
    static LOCKS: Mutex<Option<HashMap<PathBuf, Arc<Mutex<()>>>>> = Mutex::new(None);
    let lock = {
        let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.get_or_insert_default().entry(output.to_owned()).or_default())
    };
    // Different programs are built at the same time.
    let _only_one = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if !output.exists() {
        // Another run may be at the same work; each moves a whole file to the name.
        let partial = output.with_extension(format!("{}.partial", std::process::id()));
        make(&partial)?;
        std::fs::rename(&partial, output).expect("the build directory can be written");
    }
    Some(output.to_owned())
}

/// Building an allocator from source takes a minute of a machine that has nothing else to do.
const BUILD: Duration = Duration::from_secs(900);

/// Runs a tool that has to succeed.
pub fn must(command: &mut Command) -> Vec<u8> {
    let ended = run_within(command, BUILD);
    assert!(ended.status.success(), "{command:?}: {:#?}", ended.complaints());
    ended.stdout
}

/// The program of a variant, with all its symbols.
pub fn build(variant: Variant) -> Option<PathBuf> {
    let Variant { allocator, language, .. } = variant;
    let (compiler, options) = match language {
        Language::C if allocator == Allocator::Musl => ("musl-gcc", c_options(variant)?),
        Language::C => ("cc", c_options(variant)?),
        Language::Cpp => ("c++", c_options(variant)?),
        Language::Rust => ("cargo", rust_options(variant)?),
    };
    if !has_program(compiler) {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (compiler, &options, crate_feature(variant), contents_of_sources()).hash(&mut hasher);
    // Some are the same program, and are built once.
    let output = directory().join(format!("{compiler}-{:016x}", hasher.finish()));
    once(&output, |partial| {
        match language {
            Language::Rust => cargo(variant, &options, partial),
            _ => must(Command::new(compiler).args(&options).arg("-o").arg(partial)),
        };
        Some(())
    })
}

/// All that a program is made of, so that another text gives another name.
fn contents_of_sources() -> &'static [Vec<u8>] {
    static CONTENTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    CONTENTS.get_or_init(|| {
        let names =
            ["matrix.c", "matrix.cpp", "matrix.h", "own.h", "../helper.h", "Cargo.toml", "Cargo.lock"];
        let files = names.iter().chain(&["src/main.rs"]).map(|name| sources().join(name));
        files.map(|file| std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"))).collect()
    })
}

/// Whether the linker finds a library by this file name. If not, the test is skipped.
fn has_library(compiler: &str, file: &str) -> Option<PathBuf> {
    let answer = must(Command::new(compiler).arg(format!("-print-file-name={file}")));
    let path = PathBuf::from(String::from_utf8_lossy(&answer).trim());
    if !path.is_absolute() || !path.exists() {
        skip(&format!("there is no {file}"));
        return None;
    }
    Some(path)
}

/// The archive of an allocator, where a program is linked with it.
fn archive(variant: Variant) -> Option<String> {
    let within = matches!(variant.linking, Linking::LinkedIn | Linking::LinkedInStripped | Linking::Static);
    variant.allocator.library().filter(|_| within).map(|name| format!("lib{name}.a"))
}

fn c_options(variant: Variant) -> Option<Vec<OsString>> {
    let Variant { allocator, linking, language } = variant;
    let mut options: Vec<OsString> =
        ["-O1", "-g", "-fno-builtin", "-pthread", "-Wl,--build-id"].map(OsString::from).into();
    let source = if language == Language::C { "matrix.c" } else { "matrix.cpp" };
    options.extend(["-std=c++17".into()].into_iter().filter(|_| language == Language::Cpp));
    // A preloaded allocator has no pvalloc, perhaps, and the program can't know its other functions.
    if linking != Linking::Preloaded {
        let has_pvalloc = !matches!(allocator, Allocator::Musl | Allocator::Jemalloc);
        options.extend(["-DWITH_PVALLOC".into()].into_iter().filter(|_| has_pvalloc));
        // What nobody else calls isn't exported by the program: a stripped one can't tell of it.
        if linking != Linking::LinkedInStripped && allocator.library().is_some() {
            options.push(format!("-D{}", allocator.name().to_uppercase()).into());
        }
    }
    options.push(sources().join(source).into());
    if !has_program("cc") {
        return None;
    }
    if let Some(archive) = archive(variant) {
        has_library("cc", &archive)?;
        options.extend([format!("-l:{archive}").into(), "-lstdc++".into(), "-lm".into()]);
    } else if let Some(name) = allocator.library().filter(|_| linking == Linking::Shared) {
        has_library("cc", &format!("lib{name}.so"))?;
        options.push(format!("-l{name}").into());
    }
    options.extend(["-static".into()].into_iter().filter(|_| linking == Linking::Static));
    Some(options)
}

/// The feature that links an allocator's crate, where there is one.
fn crate_feature(variant: Variant) -> Option<&'static str> {
    archive(variant)?;
    match variant.allocator {
        Allocator::Jemalloc => Some("jemalloc"),
        Allocator::Mimalloc => Some("mimalloc"),
        _ => None,
    }
}

/// Whether the allocators' crates are here or can be fetched. If not, the test is skipped.
fn has_crates() -> bool {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    let obstacle = OBSTACLE.get_or_init(|| {
        if !has_program("cargo") {
            return Some("there is no cargo".to_owned());
        }
        let mut fetch = Command::new("cargo");
        fetch.args(["fetch", "--quiet", "--locked", "--manifest-path"]).arg(sources().join("Cargo.toml"));
        let ended = run_within(&mut fetch, BUILD);
        (!ended.status.success()).then(|| format!("crates can't be fetched: {:?}", ended.complaints()))
    });
    obstacle.as_ref().map(|reason| skip(reason)).is_none()
}

/// Options for the compiler of the program alone: what it depends on is built once for all.
fn rust_options(variant: Variant) -> Option<Vec<OsString>> {
    let mut options: Vec<OsString> = vec!["-Clink-arg=-Wl,--build-id".into()];
    if variant.linking == Linking::Static {
        options.push("-Ctarget-feature=+crt-static".into());
    }
    if crate_feature(variant).is_some() {
        return has_crates().then_some(options);
    }
    if !has_program("cc") {
        return None;
    }
    if let Some(archive) = archive(variant) {
        // An archive in the language's own way, before the C library; it is written in C++.
        for file in [archive.as_str(), "libstdc++.a"] {
            let path = has_library("cc", file)?;
            let name = file.trim_start_matches("lib").trim_end_matches(".a");
            options.push("-L".into());
            options.push(path.parent().expect("a file has a directory").into());
            options.push(format!("-lstatic={name}").into());
        }
    } else if let Some(name) = variant.allocator.library().filter(|_| variant.linking == Linking::Shared) {
        has_library("cc", &format!("lib{name}.so"))?;
        options.push(format!("-ldylib={name}").into());
    }
    Some(options)
}

/// Builds the crate. Each allocator has a build directory of its own, or they would wait for each other.
fn cargo(variant: Variant, options: &[OsString], output: &Path) -> Vec<u8> {
    static ONE_PROGRAM_AT_A_TIME: Mutex<()> = Mutex::new(());
    let feature = crate_feature(variant);
    let target = directory().join(format!("cargo-{}", feature.unwrap_or("none")));
    let mut command = Command::new("cargo");
    command.args(["rustc", "--release", "--quiet", "--locked", "--manifest-path"]);
    command.arg(sources().join("Cargo.toml")).arg("--target-dir").arg(&target);
    feature.map(|feature| command.args(["--features", feature]));
    command.arg("--").args(options);
    let _lock;
    if feature.is_none() {
        // Several programs come out under one name.
        _lock = ONE_PROGRAM_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    }
    let said = must(&mut command);
    std::fs::copy(target.join("release/matrix"), output).expect("cargo has built it");
    said
}
