//! Compiles the eBPF crate, packs the tables of Go's structures and records what this build is made of.
//!
//! The eBPF crate needs another compiler setup than the rest (sources of `core`, a BPF linker). `cargo xtask setup`
//! finds or installs it once and writes down where it is; this script only reads that.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let manifest_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = manifest_dir.parent().expect("the crate lies in the workspace").to_owned();
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(error) = build_ebpf(&workspace, &out_dir) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
    pack_go_tables(&manifest_dir.join("src/binary/go/tables"), &out_dir);
    record_build(&workspace, &out_dir);
}

/// Writes the tables of Go's structures for this machine as one list, packed, to `OUT_DIR/go-tables.deflate`.
fn pack_go_tables(tables: &Path, out_dir: &Path) {
    println!("cargo::rerun-if-changed={}", tables.display());
    let machine = match env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH").as_str()
    {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    };
    let ending = format!("-{machine}.json");
    let entries = fs::read_dir(tables).expect("the tables' directory can be read");
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.to_str().is_some_and(|file| file.ends_with(&ending)));
    files.sort();
    let texts: Vec<_> =
        files.iter().map(|file| fs::read_to_string(file).expect("a table can be read")).collect();
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(format!("[{}]", texts.join(",")).as_bytes()).expect("memory can be written");
    let packed = packed.finish().expect("memory can be written");
    fs::write(out_dir.join("go-tables.deflate"), packed).expect("OUT_DIR is writable");
}

/// Builds `profiler-ebpf` and copies the object to `OUT_DIR/profiler-ebpf.o`.
fn build_ebpf(workspace: &Path, out_dir: &Path) -> Result<(), String> {
    let toolchain = workspace.join("target/setup/ebpf-toolchain");
    println!("cargo::rerun-if-changed={}", toolchain.display());
    for part in
        ["profiler-ebpf/src", "profiler-ebpf/Cargo.toml", "profiler-ebpf/Cargo.lock", "profiler-common/src"]
    {
        println!("cargo::rerun-if-changed={}", workspace.join(part).display());
    }
    let text = fs::read_to_string(&toolchain).map_err(|_| {
        "the eBPF toolchain is not set up; run `cargo xtask setup` once, then build again".to_owned()
    })?;
    let setting: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let get = |key: &str| {
        setting
            .get(key)
            .copied()
            .ok_or_else(|| format!("{}: no `{key}`; run `cargo xtask setup` again", toolchain.display()))
    };
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", get("linker")?),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
    ];
    let target_dir = out_dir.join("ebpf-target");
    let mut command = Command::new(get("cargo")?);
    command
        .current_dir(workspace.join("profiler-ebpf"))
        .args(["build", "--release", "--locked", "--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTC", get("rustc")?)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // What cargo tells this script about the outer build would confuse the inner one.
    for variable in
        ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTUP_TOOLCHAIN"]
    {
        command.env_remove(variable);
    }
    if get("bootstrap")? == "1" {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    let output = command.output().map_err(|error| {
        format!("can't run {}: {error}; run `cargo xtask setup` again", get("cargo").unwrap_or("cargo"))
    })?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return Err("the eBPF crate does not compile (its messages are above)".to_owned());
    }
    let object = target_dir.join("bpfel-unknown-none/release/profiler");
    fs::copy(&object, out_dir.join("profiler-ebpf.o"))
        .map(|_| ())
        .map_err(|error| format!("can't copy {}: {error}", object.display()))
}

/// Writes what `--version --verbose` and the info metrics say: revision, compiler, every dependency in Cargo.lock.
fn record_build(workspace: &Path, out_dir: &Path) {
    let run = |program: &str, args: &[&str]| -> Option<String> {
        let output = Command::new(program).args(args).current_dir(workspace).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = run("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let branch = run("git", &["rev-parse", "--abbrev-ref", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = run(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    let version =
        version.strip_prefix("rustc ").unwrap_or(&version).split(' ').next().unwrap_or("unknown").to_owned();
    println!("cargo::rustc-env=PROFILER_REVISION={revision}");
    println!("cargo::rustc-env=PROFILER_BRANCH={branch}");
    println!("cargo::rustc-env=PROFILER_RUSTC={version}");
    // The log changes with every commit, HEAD itself only with the branch.
    for file in
        [".git/HEAD", ".git/logs/HEAD"].map(|file| workspace.join(file)).iter().filter(|file| file.exists())
    {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let mut table = String::from("&[\n");
    for lock in ["Cargo.lock", "profiler-ebpf/Cargo.lock"] {
        let path = workspace.join(lock);
        println!("cargo::rerun-if-changed={}", path.display());
        let side = if lock == "Cargo.lock" { "user" } else { "kernel" };
        for (name, version) in locked_packages(&fs::read_to_string(&path).unwrap_or_default()) {
            table.push_str(&format!("    ({side:?}, {name:?}, {version:?}),\n"));
        }
    }
    table.push(']');
    fs::write(out_dir.join("dependencies.rs"), table).expect("OUT_DIR is writable");
}

/// Name and version of every package in a Cargo.lock that comes from a registry.
fn locked_packages(lock: &str) -> Vec<(String, String)> {
    let value = |line: &str, key: &str| {
        line.strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(" = \""))
            .and_then(|rest| rest.strip_suffix('"'))
            .map(str::to_owned)
    };
    lock.split("[[package]]")
        .skip(1)
        .filter_map(|package| {
            let mut lines = package.lines();
            let name = lines.clone().find_map(|line| value(line, "name"))?;
            let version = lines.clone().find_map(|line| value(line, "version"))?;
            lines.any(|line| line.starts_with("source")).then_some((name, version))
        })
        .collect()
}
