//! What this build is made of; recorded by build.rs.

/// This build.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Version of the package.
    pub version: &'static str,
    /// Commit, or `unknown`.
    pub revision: &'static str,
    /// Branch, or `unknown`.
    pub branch: &'static str,
    /// Version of the compiler of the user side.
    pub rustc: &'static str,
}

/// This build.
pub const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    revision: env!("PROFILER_REVISION"),
    branch: env!("PROFILER_BRANCH"),
    rustc: env!("PROFILER_RUSTC"),
};

/// Every locked package of both sides: side (`user` or `kernel`), name, version.
pub const DEPENDENCIES: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/dependencies.rs"));
