//! Wiring: builds the rooms, owns channels, tasks and the end. The only file that starts tasks.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    config::{Config, What},
    export::{json, prometheus, terminal},
    sampler::{Finished, Handle, Request, Sampler, Started},
    screen::SCREEN,
    server::{self, AppState},
    snapshot::Snapshot,
};

/// Does what the configuration says, to the end.
///
/// # Errors
///
/// If anything needed fails; nothing is left behind.
pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    // Before anything is attached: a port that is taken should cost the target nothing.
    let listeners = config.listen.iter().map(|address| bind(*address)).collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let finished = runtime.block_on(observe(&config, listeners))?;
    conclude(&config, &finished)
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                ": another program (or profiler) serves there; use --listen IP:PORT or --listen none"
            }
            std::io::ErrorKind::PermissionDenied => {
                ": ports below 1024 need more rights; use --listen IP:PORT"
            }
            _ => "",
        };
        anyhow::anyhow!("can't listen on {address}: {error}{hint}")
    })?;
    listener.set_nonblocking(true).context("can't listen")?;
    Ok(listener)
}

async fn observe(config: &Config, listeners: Vec<TcpListener>) -> anyhow::Result<Finished> {
    // Installed before attaching: a Ctrl-C while probes are being placed must find us ready to take them away.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (sampler, handle) = Sampler::new(config.clone());
    let (started_send, started) = oneshot::channel();
    let (finished_send, mut finished) = oneshot::channel();
    std::thread::Builder::new()
        .name("profiler-sampler".to_owned())
        .spawn(move || {
            // Nobody listens any more: we are on the way out.
            let _heard = finished_send.send(sampler.run(started_send));
        })
        .context("can't start a thread")?;
    let Ok(started) = started.await else {
        // It ended before it had begun, and says why.
        return finished.await.context("the sampler ended without a word")?;
    };
    let addresses = serve(config, listeners, &started, &handle)?;
    if let Some(log) = started.log {
        tokio::spawn(log.run());
    }
    announce(config, &started.snapshots.borrow(), &addresses);
    let mut snapshots = started.snapshots;
    let mut earlier: Option<Arc<Snapshot>> = None;
    let live = SCREEN.is_live() && !config.once && !config.json && matches!(config.what, What::Pids(_));
    let mut interrupted = false;
    loop {
        tokio::select! {
            result = &mut finished => return result.context("the sampler ended without a word")?,
            _ = interrupt.recv() => {
                // With `run`, the terminal has interrupted the child, too: its end is ours, unless we are told twice.
                if started.child.is_none() || interrupted {
                    handle.ask(Request::Stop);
                }
                interrupted = true;
            }
            _ = terminate.recv() => match started.child {
                Some(child) => pass_on_termination(child),
                None => handle.ask(Request::Stop),
            },
            changed = snapshots.changed(), if live => {
                if changed.is_err() {
                    continue;
                }
                draw(config, &snapshots.borrow_and_update().clone(), &mut earlier);
            }
        }
    }
}

/// Redraws the live block, at most once an interval: scrapes make snapshots, too.
fn draw(config: &Config, now: &Arc<Snapshot>, earlier: &mut Option<Arc<Snapshot>>) {
    let due = earlier
        .as_ref()
        .is_none_or(|earlier| now.taken.saturating_duration_since(earlier.taken) * 10 >= config.interval * 9);
    if due {
        SCREEN.draw(terminal::render(now, earlier.as_deref(), SCREEN.style()));
        *earlier = Some(Arc::clone(now));
    }
}

/// Our own child, started with `run`: who ends us means it.
fn pass_on_termination(child: u32) {
    let pid = rustix::process::Pid::from_raw(child.cast_signed());
    if let Some(pid) = pid {
        // It may have ended already.
        let _sent = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

fn serve(
    config: &Config,
    listeners: Vec<TcpListener>,
    started: &Started,
    handle: &Handle,
) -> anyhow::Result<Vec<SocketAddr>> {
    let handle = handle.clone();
    let state = AppState {
        latest: started.snapshots.clone(),
        ask: Arc::new(move || handle.ask(Request::Sample)),
        context: prometheus::Context { stall_threshold: config.stall_threshold },
    };
    let router = server::router(state);
    let mut addresses = Vec::with_capacity(listeners.len());
    for listener in listeners {
        addresses.push(listener.local_addr().context("can't listen")?);
        let listener = tokio::net::TcpListener::from_std(listener).context("can't listen")?;
        let router = router.clone();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!("the HTTP server has ended: {error}");
            }
        });
    }
    Ok(addresses)
}

/// One line for people, so that they know where they are.
fn announce(config: &Config, first: &Snapshot, addresses: &[SocketAddr]) {
    if config.once || config.json {
        return;
    }
    let targets: Vec<_> = first
        .targets
        .iter()
        .map(|target| format!("{} (pid {})", target.info.name, target.info.pid))
        .collect();
    let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}/metrics")).collect();
    let mut parts = vec![format!("watching {}", targets.join(", "))];
    parts.extend(urls);
    if matches!(config.what, What::Pids(_)) {
        parts.push("Ctrl-C ends".to_owned());
    }
    eprintln!("profiler: {}", parts.join(" · "));
}

/// Prints and writes what there was.
fn conclude(config: &Config, finished: &Finished) -> anyhow::Result<ExitCode> {
    let document = json::render(&finished.last)?;
    if let Some(path) = &config.report {
        write_report(path, &document)?;
    }
    let own_child = matches!(config.what, What::Command { .. });
    let text = if config.json {
        format!("{document}\n")
    } else {
        terminal::render(&finished.last, None, SCREEN.style())
    };
    if own_child {
        // Standard output is the program's.
        SCREEN.keep();
        eprint!("{text}");
    } else if SCREEN.is_live() && !config.json {
        SCREEN.draw(text);
        SCREEN.keep();
    } else {
        // Whoever closed the pipe has read enough.
        let _written = std::io::stdout().write_all(text.as_bytes());
    }
    if !config.once && !config.json && (config.alloc || config.stalls) {
        eprintln!("profiler: done, every probe is gone");
    }
    if let Some(pid) = finished.runs_on {
        eprintln!("profiler: the program runs on (pid {pid})");
    }
    Ok(finished.exit.map_or(ExitCode::SUCCESS, exit_code))
}

/// As a shell does: the program's own code, or 128 plus the signal that ended it.
fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Writes the report for the one who called us: never through a link, readable by nobody else.
fn write_report(path: &Path, document: &str) -> anyhow::Result<()> {
    let refused = || format!("can't write the report {}", path.display());
    if path.is_dir() {
        bail!("{}: it is a directory", refused());
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .with_context(refused)?;
    file.write_all(document.as_bytes()).and_then(|()| file.write_all(b"\n")).with_context(refused)?;
    // Under sudo the report belongs to who asked for it.
    let id = |key: &str| std::env::var(key).ok().and_then(|text| text.parse::<u32>().ok());
    if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).with_context(refused)?;
    }
    Ok(())
}
