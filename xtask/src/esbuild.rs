//! esbuild as its makers pack it for the npm registry: a Go program of others, stripped, of which no Debian package has these
//! versions. What was fetched stays below `target/esbuild/`: 11 MB for each version, of which 5 MB are downloaded.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{command, debian, workspace};

/// Where tests look for the programs: a directory with one for each version, `VERSION/node_modules/...` as npm lays it out.
pub const PLACE: &str = "PROFILER_ESBUILD";

/// One of Go 1.25.4, without `.go.buildinfo`; one of Go 1.20.7, which there is no table of.
const VERSIONS: [&str; 2] = ["0.27.0", "0.19.0"];

/// The package with the program alone.
const PACKAGE: &str = "@esbuild/linux-x64";

/// The directory of the programs, which are fetched if they aren't here yet.
pub fn programs() -> Result<PathBuf> {
    let place = workspace::target_dir().join("esbuild");
    for version in VERSIONS {
        let whole = place.join(version);
        let program = whole.join("node_modules").join(PACKAGE).join("bin/esbuild");
        if !command::is_executable(&program) {
            // Debian's npm is 23 MB in 357 packages: only for those who have none at all.
            if command::find("npm").is_none() {
                ensure!(
                    debian::is_here() && debian::install(&["npm"])?.is_empty(),
                    "esbuild comes by npm: install it"
                );
            }
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
            npm.arg(&whole).arg(format!("{PACKAGE}@{version}"));
            command::run(&mut npm, "check the network and that `npm` works")?;
            ensure!(command::is_executable(&program), "npm left no {}", program.display());
        }
    }
    Ok(place)
}
