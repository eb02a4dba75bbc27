//! What the virtual machine finds on its disk, which is in memory: a shell, the profiler, the program that counts for
//! itself, the libraries they need, and the script that is its whole life.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

const PROGRAM: &str = include_str!("program.c");
const INIT: &str = include_str!("init.sh");

/// Makes the archive that the kernel unpacks at its start.
pub fn make(profiler: &Path) -> Result<PathBuf> {
    let root = super::dir().join("root");
    let bin = root.join("bin");
    let begin = || {
        // What an older run left there isn't wanted in this one.
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&bin)?;
        fs::write(root.join("init"), INIT)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))
    };
    begin().with_context(|| format!("can't write {}", root.display()))?;
    let program = compile()?;
    let busybox = command::find("busybox").context("there is no busybox: install busybox-static")?;
    for (file, name) in [(profiler, "profiler"), (&program, "program"), (&busybox, "busybox")] {
        copy(file, &bin.join(name))?;
        for library in libraries(file) {
            copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
    }
    pack(&root)
}

/// Compiles the program that counts for itself. The compiler must not know what malloc is, or it leaves out calls.
fn compile() -> Result<PathBuf> {
    let (source, program) = (super::dir().join("program.c"), super::dir().join("program"));
    fs::write(&source, PROGRAM).with_context(|| format!("can't write {}", source.display()))?;
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-fno-builtin", "-pthread", "-w", "-o"]).arg(&program).arg(&source);
    command::run(&mut cc, "read the compiler's messages above")?;
    Ok(program)
}

/// The shared libraries of a program; a static one has none.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let said = command::ask(Command::new("ldd").env("LC_ALL", "C").arg(program));
    paths_among(&said.unwrap_or_default())
}

/// Reads `ldd`: `name => path (address)`, or `path (address)` for the loader. The kernel's own library has no path.
fn paths_among(said: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let file = line.split_once(" => ").map_or(line, |(_, file)| file).trim();
        let file = file.split_once(" (").map_or(file, |(file, _)| file);
        file.starts_with('/').then(|| PathBuf::from(file))
    };
    said.lines().filter_map(path).collect()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::copy(from, to)
    };
    copy().map(|_| ()).with_context(|| format!("can't copy {} to {}", from.display(), to.display()))
}

fn pack(root: &Path) -> Result<PathBuf> {
    let image = super::dir().join("image.cpio");
    let mut pack = Command::new("sh");
    pack.current_dir(root).args(["-c", "find . | cpio --create --format=newc --quiet >../image.cpio"]);
    command::run(&mut pack, "is the disk full?")?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_tells() {
        let said = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld-linux.so.2 (0x1)\n\tlibnone.so => not found\n";
        assert_eq!(paths_among(said), ["/lib/x/libc.so.6", "/lib64/ld-linux.so.2"].map(PathBuf::from));
        assert_eq!(paths_among("\tnot a dynamic executable\n"), Vec::<PathBuf>::new());
    }
}
