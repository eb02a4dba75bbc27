//! Appends batches to a spool and says each on a line of its own once it is safe: `spool_writer DIRECTORY [BATCHES]`. For the
//! tests, which kill it.

use std::{
    io::Write as _,
    path::Path,
    time::{Duration, SystemTime},
};

use profiler::push::spool::{Limits, Spool};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or_else(|| anyhow::anyhow!("spool_writer DIRECTORY [BATCHES]"))?;
    let batches = arguments.next().map_or(Ok(u32::MAX), |text| text.parse())?;
    let spool = Spool::open(Path::new(&directory), Limits { bytes: 1 << 30, age: Duration::MAX })?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready")?;
    let pid = std::process::id();
    for number in 0..batches {
        let points = 1 + number % 300;
        let text: String =
            (0..points).map(|line| format!("m,pid={pid},batch={number} line={line}i 1\n")).collect();
        let id = spool.append(SystemTime::now(), points, &text)?;
        writeln!(stdout, "{number} {points} {} {}", id.time_ns, id.sequence)?;
    }
    // The spool stays locked until nobody listens any more.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
