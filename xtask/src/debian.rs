//! Packages of Debian and its descendants: what is installed, and installing what isn't.
//!
//! A package that brings a server must not start it: the tests start their own, on their own ports, and a developer's
//! machine isn't ours to change in that way.

use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use crate::command::{self, Sudo};
use crate::style;

/// Package lists older than this are fetched again before a package counts as unavailable.
const LISTS_STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Installs the packages it is given. Services stay stopped (policy-rc.d, where the machine has none of its own) and
/// aren't started at the next boot either (the units are named like the packages).
const INSTALL_SCRIPT: &str = r#"set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 "$@"
if [ -d /run/systemd/system ]; then
    for package in "$@"; do systemctl disable --quiet "$package.service" 2>/dev/null || true; done
fi
"#;

/// Whether this machine gets its programs from Debian packages.
pub fn is_here() -> bool {
    command::find("apt-get").is_some() && command::find("dpkg-query").is_some()
}

/// Whether packages can be installed without asking anybody.
pub fn may_install() -> bool {
    command::is_root()
        || (command::find("sudo").is_some()
            && command::ask(&mut command::as_root("true", Sudo::Quiet)).is_some())
}

/// Those of the packages that aren't installed.
pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    // dpkg-query fails if it doesn't know one of the names, and still answers for the others.
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"]).args(packages);
    style::say(&style::dim(&format!("$ {}", command::shown(&query))));
    let answer = query.output().map(|output| output.stdout).unwrap_or_default();
    not_installed(packages, &String::from_utf8_lossy(&answer))
}

/// Installs packages and returns those which this release doesn't have.
pub fn install(packages: &[&str]) -> Result<Vec<String>> {
    if !may_install() {
        bail!(
            "missing packages and no right to install them: run `sudo apt-get install --no-install-recommends {}`",
            packages.join(" ")
        );
    }
    let mut fresh = false;
    let mut unavailable = without_candidate(packages);
    if !unavailable.is_empty() && lists_are_stale() {
        update()?;
        fresh = true;
        unavailable = without_candidate(packages);
    }
    let wanted: Vec<&str> =
        packages.iter().copied().filter(|name| !unavailable.iter().any(|n| n == name)).collect();
    if wanted.is_empty() {
        return Ok(unavailable);
    }
    if let Err(error) = install_now(&wanted) {
        // Lists that are behind the mirror name files which are gone. New lists mend that, once.
        if fresh {
            return Err(error);
        }
        update()?;
        install_now(&wanted)?;
    }
    Ok(unavailable)
}

/// Fetches the package lists.
pub fn update() -> Result<()> {
    let mut update = command::as_root("apt-get", Sudo::Quiet);
    command::run(update.args(["update", "-q"]), "check the network and /etc/apt/sources.list")
}

fn install_now(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    let mut install = command::as_root("sh", Sudo::Quiet);
    install.args(["-c", INSTALL_SCRIPT, "install"]).args(packages);
    command::run_as(&mut install, &line, "read what apt-get says above, mend it, and run this again")
}

/// Those of the packages that no configured source offers.
fn without_candidate(packages: &[&str]) -> Vec<String> {
    let policy = command::ask(Command::new("apt-cache").env("LC_ALL", "C").arg("policy").args(packages));
    unavailable_in(packages, &policy.unwrap_or_default())
}

fn lists_are_stale() -> bool {
    let Ok(entries) = std::fs::read_dir("/var/lib/apt/lists") else { return true };
    let lists = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
    // The directories' own times say when lists were last fetched; the files carry the mirror's time.
    let touched = ["/var/lib/apt/lists", "/var/lib/apt/lists/partial"]
        .iter()
        .filter_map(|dir| std::fs::metadata(dir).and_then(|dir| dir.modified()).ok())
        .max();
    let age = touched.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default();
    lists.count() == 0 || age > LISTS_STALE_AFTER
}

/// Reads `dpkg-query`'s lines `name status`.
fn not_installed<'a>(packages: &[&'a str], answer: &str) -> Vec<&'a str> {
    let installed = |name: &str| answer.lines().any(|line| line.split_once(' ') == Some((name, "installed")));
    packages.iter().copied().filter(|name| !installed(name)).collect()
}

/// Reads `apt-cache policy`: a paragraph per known package, with its candidate or `(none)`.
fn unavailable_in(packages: &[&str], policy: &str) -> Vec<String> {
    let mut offered = Vec::new();
    let mut current = "";
    for line in policy.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            current = name;
        } else if let Some(candidate) = line.trim().strip_prefix("Candidate: ")
            && candidate != "(none)"
        {
            offered.push(current);
        }
    }
    packages.iter().filter(|name| !offered.contains(name)).map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_counts_as_installed_only_if_dpkg_says_so() {
        let answer = "gcc installed\npython3 config-files\ngcc-12 installed\n";
        assert_eq!(not_installed(&["gcc", "python3", "g++"], answer), ["python3", "g++"]);
    }

    #[test]
    fn a_package_without_a_candidate_or_unknown_to_apt_is_unavailable() {
        let policy = "gcc:\n  Installed: (none)\n  Candidate: 4:12\n  Version table:\n     4:12 500\nold:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(unavailable_in(&["gcc", "old", "unknown"], policy), ["old", "unknown"]);
    }
}
