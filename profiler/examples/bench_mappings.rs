//! What counting calls that map memory costs: a bystander's system call, and an `mmap`/`munmap` pair of a process that
//! is followed or not.
//!
//! The ways take turns within one run, round after round, so that a machine whose speed drifts disturbs all of them
//! alike. `cargo run --release --example bench_mappings -- [SECONDS]`, as root.

use std::{hint::black_box, process::ExitCode, time::Duration};

use anyhow::Context as _;
use profiler::kernel::{Facts, Kernel, Plan, Sizes, Wanted};
use profiler_common::mapping::MappingKind;

const CALLS: u32 = 2_000_000;
const PAIRS: u32 = 100_000;

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20.0);
    match bench(seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench mappings: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(seconds: f64) -> anyhow::Result<()> {
    let wanted = Wanted { mappings: true, ..Wanted::NOTHING };
    let plan = Plan::decide(wanted, &Facts::gather())?;
    let mut results: [Vec<f64>; 5] = Default::default();
    let began = std::time::Instant::now();
    while results[0].len() < 3 || began.elapsed().as_secs_f64() < seconds {
        results[0].push(calls());
        results[2].push(pairs()?);
        let mut kernel = Kernel::load(plan, Sizes { targets: 1, sites: 1 }, Duration::from_millis(1), false)?;
        results[1].push(calls());
        results[3].push(pairs()?);
        kernel.watch_process(std::process::id(), 0, false)?;
        results[4].push(pairs()?);
        let counted = kernel.mapping_counts(0)?[MappingKind::Anonymous as usize].calls;
        anyhow::ensure!(counted >= u64::from(PAIRS), "only {counted} of {PAIRS} calls were counted");
    }
    let names = [
        "getppid, nothing attached",
        "getppid, mappings counted",
        "mmap and munmap, nothing attached",
        "mmap and munmap of a bystander",
        "mmap and munmap of a target",
    ];
    println!(
        "CPU ns, {} rounds in one run:\n\n| | median | least | most |\n|---|---|---|---|",
        results[0].len()
    );
    for (name, mut values) in names.into_iter().zip(results) {
        values.sort_by(f64::total_cmp);
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} |",
            values[values.len() / 2],
            values[0],
            values[values.len() - 1]
        );
    }
    Ok(())
}

/// CPU time of this process, which has one thread.
fn cpu_ns() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn calls() -> f64 {
    let began = cpu_ns();
    for _ in 0..CALLS {
        // SAFETY: takes nothing.
        black_box(unsafe { libc::getppid() });
    }
    (cpu_ns() - began) / f64::from(CALLS)
}

fn pairs() -> anyhow::Result<f64> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let began = cpu_ns();
    for _ in 0..PAIRS {
        // SAFETY: nothing uses the memory, and nothing lies where it is placed.
        unsafe {
            let start = mmap_anonymous(std::ptr::null_mut(), 65536, ProtFlags::READ, MapFlags::PRIVATE)
                .context("mmap")?;
            munmap(start, 65536).context("munmap")?;
        }
    }
    Ok((cpu_ns() - began) / f64::from(PAIRS))
}
