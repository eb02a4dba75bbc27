//! `--version`.

use std::fmt::Write as _;

use crate::build_info::{BUILD, DEPENDENCIES};

/// Name and version; with `verbose` the build and every library in it, of both sides.
pub fn text(verbose: bool) -> String {
    let mut text = format!("profiler {} ({})\n", BUILD.version, BUILD.revision);
    if !verbose {
        return text;
    }
    // Writing to a string can't fail.
    let _infallible = writeln!(
        text,
        "branch: {}\nrustc: {}\ntarget: {}-{}",
        BUILD.branch,
        BUILD.rustc,
        std::env::consts::ARCH,
        std::env::consts::OS
    );
    for side in ["user", "kernel"] {
        let _infallible = writeln!(text, "\n{side} side:");
        for (_, name, version) in DEPENDENCIES.iter().filter(|(of, _, _)| *of == side) {
            let _infallible = writeln!(text, "  {name} {version}");
        }
    }
    text
}
