//! Debian's kernels, without installing them: the package is downloaded and only its `/boot` is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, debian, style};

/// A kernel that can be booted.
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The compressed kernel.
    pub file: PathBuf,
}

/// The newest kernel of a series such as `6.1`; one that is there already isn't downloaded again.
pub fn obtain(series: &str) -> Result<Kernel> {
    let package = match package_of(series) {
        Some(package) => package,
        None => {
            debian::update()?;
            package_of(series).with_context(|| {
                format!("no package source offers Linux {series}: add the one of Debian 12 with its updates")
            })?
        }
    };
    let dir = super::dir().join(&package);
    if let Some(kernel) = kernel_in(&dir) {
        style::say(&style::dim(&format!("already here: {}", kernel.file.display())));
        return Ok(kernel);
    }
    unpack(&package, &dir)?;
    kernel_in(&dir).with_context(|| format!("{package} has no /boot/vmlinuz-*: choose another kernel"))
}

/// The package that holds the kernel. Those with plain names only point to it.
fn package_of(series: &str) -> Option<String> {
    // The default of one Debian release is the extra of another.
    let pointers = [format!("linux-image-{series}-cloud-amd64"), "linux-image-cloud-amd64".to_owned()];
    pointers.iter().find_map(|pointer| {
        let depends = command::ask(Command::new("apt-cache").env("LC_ALL", "C").args(["depends", pointer]))?;
        kernel_among(&depends, series)
    })
}

/// Reads `apt-cache depends`.
fn kernel_among(depends: &str, series: &str) -> Option<String> {
    let start = format!("linux-image-{series}.");
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.filter(|name| name.starts_with(&start)).map(str::to_owned).next()
}

/// Downloads a package and moves its `/boot` to `dir`. What is only half there never gets that name.
fn unpack(package: &str, dir: &Path) -> Result<()> {
    let part = super::dir().join(format!("{package}.part"));
    let begin = || {
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir_all(&part)
    };
    begin().with_context(|| format!("can't create {}", part.display()))?;
    if download(package, &part).is_err() {
        // Lists that are behind the mirror name files which are gone.
        debian::update()?;
        download(package, &part)?;
    }
    let archive = files_in(&part).into_iter().find(|file| file.extension().is_some_and(|end| end == "deb"));
    let Some(archive) = archive else { bail!("apt-get left no file in {}", part.display()) };
    let mut dpkg = Command::new("dpkg-deb");
    command::run(dpkg.arg("-x").arg(&archive).arg(part.join("all")), "remove it and run this again")?;
    let end = || {
        fs::rename(part.join("all/boot"), dir)?;
        fs::remove_dir_all(&part)
    };
    end().with_context(|| format!("can't move the kernel to {}", dir.display()))
}

fn download(package: &str, dir: &Path) -> Result<()> {
    let mut apt = Command::new("apt-get");
    // As root, apt would want to write here as another user, and warn that it can't.
    apt.current_dir(dir).args(["-q", "-o", "APT::Sandbox::User=root", "download", package]);
    command::run(&mut apt, "check the network and /etc/apt/sources.list")
}

fn kernel_in(dir: &Path) -> Option<Kernel> {
    files_in(dir).into_iter().find_map(|file| {
        let release = file.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some(Kernel { release, file })
    })
}

/// The files in a directory; none if there is no directory.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_pointing_package_depends_on() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: x\n";
        assert_eq!(kernel_among(depends, "6.1").as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn a_series_is_not_another_that_begins_like_it() {
        let depends = "  Depends: linux-image-6.12.117+deb12-cloud-amd64\n";
        assert_eq!(kernel_among(depends, "6.1"), None);
        assert!(kernel_among(depends, "6.12").is_some());
    }

    #[test]
    fn a_directory_that_is_not_there_holds_no_kernel() {
        assert!(kernel_in(Path::new("/nonexistent")).is_none());
    }
}
