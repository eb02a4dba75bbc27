//! Shared by unit tests.

pub mod moment;
pub mod picture;

/// Says that a test can't run here. In CI (`PROFILER_TESTS_MUST_RUN`) that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("PROFILER_TESTS_MUST_RUN").is_none(), "may not be skipped here: {reason}");
    eprintln!("SKIPPED: {reason}");
}
