//! Wiring: builds the rooms, owns channels, tasks and the end. The only file that starts tasks.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use anyhow::{Context as _, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    ask,
    config::{Choice, Config, LEAKING_CODE, View, What},
    export::{
        families::{Context, TOP_SITES},
        json, leaks,
        terminal::{self, Style},
    },
    history::{History, Limits},
    keeping::Keeper,
    leaks::{Picture, TargetReport, Verdict},
    own_file::Report,
    push::{Pusher, Source},
    sampler::{Finished, Handle, Request, Sampler, Started},
    screen::SCREEN,
    server::{self, AppState, GoQuestion},
    snapshot::{Snapshot, TargetSnapshot},
    target::Selection,
};

/// Does what the configuration says, to the end.
///
/// # Errors
///
/// If anything needed fails; nothing is left behind.
pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    // Before anything is attached: a port that is taken should cost the target nothing.
    let listeners = config.listen.iter().map(|address| bind(*address)).collect::<Result<Vec<_>, _>>()?;
    let keeper = Arc::new(open_keeper(&config)?);
    let pusher = config.push.as_ref().map(Pusher::open).transpose()?.map(Arc::new);
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let finished = runtime
        .block_on(observe(&config, listeners, &keeper, pusher.as_ref()))
        .inspect_err(|_| keeper.discard_report());
    // A reading of memory that hangs must not hold up the end.
    runtime.shutdown_background();
    if let Some(pusher) = &pusher {
        pusher.close(finished.as_ref().ok().map(|finished| &finished.last));
    }
    // Whatever goes wrong here: the last window is on its way, and is waited for below.
    let ended = finished.map(|finished| (conclude(&config, &finished, &keeper), finished));
    let ended = ended.map(|(code, Finished { session, error, runs_on, .. })| {
        drop(session);
        (code, error, runs_on)
    });
    if let Some(told) = pusher.and_then(|pusher| pusher.finish()) {
        say(&told);
    }
    let (code, error, runs_on) = ended?;
    let code = code?;
    let probes = config.alloc || config.stalls;
    if probes && !config.once && !config.json {
        say("done, every probe is gone");
    }
    if let Some(pid) = runs_on {
        say(&format!("the program runs on (pid {pid})"));
    }
    error.map_or(Ok(code), Err)
}

/// One line for people, on standard error. Whoever has closed it doesn't want to know.
pub fn say(line: &str) {
    let _written = writeln!(std::io::stderr(), "profiler: {line}");
}

/// Every scrape needs a descriptor, every probe another one.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it we have what we had.
    let _raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
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

async fn observe(
    config: &Config,
    listeners: Vec<TcpListener>,
    keeper: &Arc<Keeper>,
    pusher: Option<&Arc<Pusher>>,
) -> anyhow::Result<Finished> {
    // Installed before attaching: a Ctrl-C while probes are being placed must find us ready to take them away.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sampler, handle) = Sampler::new(config.clone(), Arc::clone(keeper), pusher.cloned());
    let (started_send, started) = oneshot::channel();
    let (finished_send, mut finished) = oneshot::channel();
    std::thread::Builder::new()
        .name("profiler-sampler".to_owned())
        .spawn(move || {
            // Nobody listens any more: we are on the way out.
            let _heard = finished_send.send(sampler.run(started_send));
        })
        .context("can't start a thread")?;
    let started = tokio::select! {
        started = started => started,
        // The kernel takes away what has been placed so far when this process ends, which is now.
        _ = interrupt.recv() => bail!("interrupted while attaching"),
        _ = terminate.recv() => bail!("ended while attaching"),
        _ = hangup.recv() => bail!("ended while attaching"),
    };
    let Ok(started) = started else {
        // It ended before it had begun, and says why.
        return finished.await.context("the sampler ended without a word")?;
    };
    describe(config, &started, keeper);
    if let Some(pusher) = pusher {
        push(config, &started, &handle, pusher)?;
    }
    let addresses = serve(config, listeners, &started, &handle, keeper)?;
    if let Some(log) = started.log {
        tokio::spawn(log.run());
    }
    announce(config, &started.snapshots.borrow(), &addresses);
    let mut snapshots = started.snapshots;
    let mut earlier: Option<Arc<Snapshot>> = None;
    let live = SCREEN.is_live() && !config.once && !config.json && matches!(config.what, What::Processes(_));
    let mut painter = if live { Some(spawn_painter()?) } else { None };
    let mut interrupted = false;
    let result = loop {
        tokio::select! {
            result = &mut finished => break result,
            _ = interrupt.recv() => {
                // With `run`, the terminal has interrupted the child, too: its end is ours, unless we are told twice.
                if started.child.is_none() || interrupted {
                    handle.ask(Request::Stop);
                }
                interrupted = true;
            }
            _ = terminate.recv() => end(started.child, &handle),
            _ = hangup.recv() => end(started.child, &handle),
            changed = snapshots.changed(), if live => {
                if let (Ok(()), Some((painter, _))) = (changed, &painter) {
                    draw(config, &snapshots.borrow_and_update().clone(), &mut earlier, painter);
                }
            }
        }
    };
    if let Some((blocks, thread)) = painter.take() {
        // A block that waits to be drawn would come after the last one.
        drop(blocks);
        let _drawn = thread.join();
    }
    result.context("the sampler ended without a word")?
}

/// A thread that draws: a terminal may stop taking text (Ctrl-S, a stalled connection), and nobody who scrapes or ends us
/// should wait for it.
fn spawn_painter() -> anyhow::Result<(SyncSender<String>, JoinHandle<()>)> {
    let (send, blocks) = sync_channel::<String>(1);
    let thread = std::thread::Builder::new()
        .name("profiler-painter".to_owned())
        .spawn(move || blocks.into_iter().for_each(|block| SCREEN.draw(block)))
        .context("can't start a thread")?;
    Ok((send, thread))
}

/// Redraws the live block, at most once an interval: scrapes make snapshots, too.
fn draw(
    config: &Config,
    now: &Arc<Snapshot>,
    earlier: &mut Option<Arc<Snapshot>>,
    painter: &SyncSender<String>,
) {
    let due = earlier
        .as_ref()
        .is_none_or(|earlier| now.taken.saturating_duration_since(earlier.taken) * 10 >= config.interval * 9);
    if due {
        // A terminal that doesn't drain misses this block.
        let style = SCREEN.style();
        let block = match (config.view, leaks_of(now)) {
            (View::Leaks { .. }, Some(picture)) => leaks::progress(&picture, config.duration, style),
            _ => terminal::render(now, earlier.as_deref(), style),
        };
        let _drawn = painter.try_send(block);
        *earlier = Some(Arc::clone(now));
    }
}

/// Somebody ends us. With `run` our own child is meant, and we end when it does.
fn end(child: Option<u32>, handle: &Handle) {
    match child.and_then(|child| rustix::process::Pid::from_raw(child.cast_signed())) {
        Some(pid) => {
            // It may have ended already.
            let _sent = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        None => handle.ask(Request::Stop),
    }
}

fn serve(
    config: &Config,
    listeners: Vec<TcpListener>,
    started: &Started,
    handle: &Handle,
    keeper: &Arc<Keeper>,
) -> anyhow::Result<Vec<SocketAddr>> {
    let (handle, keeper) = (handle.clone(), Arc::clone(keeper));
    let state = AppState {
        latest: started.snapshots.clone(),
        ask: Arc::new(move || handle.ask(Request::Sample)),
        context: context(config),
        waits: waits_for(config).is_some(),
        pictures: Arc::new(move |moment| keeper.nearest(moment)),
        ask_go: Arc::new(|target, process, question| match question {
            GoQuestion::Heap(form) => ask::heap_profile(target, process, form),
            GoQuestion::Goroutines(form) => ask::goroutine_profile(target, process, form),
        }),
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

/// What figures are made with.
const fn context(config: &Config) -> Context {
    Context { stall_threshold: config.stall_threshold, max_series: config.max_series, top_sites: TOP_SITES }
}

/// Begins to push.
fn push(config: &Config, started: &Started, handle: &Handle, pusher: &Pusher) -> anyhow::Result<()> {
    let handle = handle.clone();
    let source = Source {
        latest: started.snapshots.clone(),
        ask: Box::new(move || handle.ask(Request::Sample)),
        context: context(config),
    };
    pusher.begin(source).context("can't start a thread")
}

/// One line for people, so that they know where they are.
fn announce(config: &Config, first: &Snapshot, addresses: &[SocketAddr]) {
    if config.once || config.json {
        return;
    }
    let mut parts = vec![watched(config, first)];
    let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}/metrics")).collect();
    parts.extend(urls);
    if let Some(push) = &config.push {
        parts.push(format!("pushing to {}", push.server.url));
    }
    if matches!(config.what, What::Processes(_)) {
        parts.push("Ctrl-C ends".to_owned());
    }
    say(&parts.join(" · "));
}

/// What new processes must match to be observed, if any can come.
const fn waits_for(config: &Config) -> Option<&Selection> {
    match &config.what {
        What::Processes(Choice { selection: Some(selection), newcomers: true, .. }) => Some(selection),
        _ => None,
    }
}

/// What is observed, in a few words.
fn watched(config: &Config, first: &Snapshot) -> String {
    const TOLD: usize = 4;
    let one = |target: &TargetSnapshot| match target.processes.as_slice() {
        [process] => format!("{} (pid {})", target.name, process.info.pid),
        processes => format!("{} ({} processes)", target.name, processes.len()),
    };
    let mut told: Vec<_> = first.targets.iter().take(TOLD).map(one).collect();
    if first.targets.len() > TOLD {
        told.push(format!("{} more", first.targets.len() - TOLD));
    }
    match (told.is_empty(), waits_for(config)) {
        (true, Some(selection)) => format!("waiting for processes that match {selection}"),
        (false, Some(selection)) => format!("watching {} and what comes of {selection}", told.join(", ")),
        (_, None) => format!("watching {}", told.join(", ")),
    }
}

/// Prints and writes what there was.
fn conclude(config: &Config, finished: &Finished, keeper: &Keeper) -> anyhow::Result<ExitCode> {
    let found = leaks_of(&finished.last);
    let document = match (config.view, &found) {
        (View::Leaks { .. }, Some(picture)) => json::leaks(picture)?,
        _ => json::render(&finished.last)?,
    };
    let own_child = matches!(config.what, What::Command { .. });
    let style = if own_child { Style { colour: false, width: 0 } } else { SCREEN.style() };
    let text = match (config.view, &found) {
        _ if config.json => format!("{document}\n"),
        (View::Leaks { top, .. }, Some(picture)) => leaks::render(picture, style, top),
        _ => terminal::render(&finished.last, None, style),
    };
    let printed = if own_child {
        // Standard output is the program's.
        std::io::stderr().write_all(text.as_bytes())
    } else if SCREEN.is_live() && !config.json {
        // Whatever the terminal's height: it scrolls.
        SCREEN.draw(String::new());
        SCREEN.keep();
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::io::stdout().write_all(text.as_bytes())
    };
    let report = match config.view {
        View::Leaks { .. } => document,
        View::Summary => json::report(&finished.last)?,
    };
    keeper.write_report(&report).context("can't write the report")?;
    match printed {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("can't print"),
        _ if fails(config.view, found.as_deref()) => Ok(ExitCode::from(LEAKING_CODE)),
        _ => Ok(finished.exit.map_or(ExitCode::SUCCESS, exit_code)),
    }
}

/// What was found of leaks.
fn leaks_of(snapshot: &Snapshot) -> Option<Arc<Picture>> {
    snapshot.leaks.clone()
}

/// Whether what was found is a failure by itself.
fn fails(view: View, found: Option<&Picture>) -> bool {
    let leaking = |target: &TargetReport| target.judgement.verdict == Verdict::Leaking;
    matches!(view, View::Leaks { fail_on_leaking: true, .. })
        && found.is_some_and(|picture| picture.targets.iter().any(leaking))
}

/// As a shell does: the program's own code, or 128 plus the signal that ended it.
fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Opens the files before anything is attached: a hunt of hours must not end without a place for its result.
fn open_keeper(config: &Config) -> anyhow::Result<Keeper> {
    let limits = Limits { bytes: config.hunt.history_bytes };
    let history = config.hunt.history.as_deref().map(|path| History::open(path, limits)).transpose()?;
    let open = |path: &Path| {
        Report::open(path).with_context(|| format!("can't write the report {}", path.display()))
    };
    let report = config.report.as_deref().map(open).transpose()?;
    Ok(Keeper::new(history, report))
}

/// What the report has in it while the observation goes on: the same as at its end.
fn describe(config: &Config, started: &Started, keeper: &Keeper) {
    let snapshots = started.snapshots.clone();
    let view = config.view;
    keeper.describe(move |picture| match view {
        View::Leaks { .. } => json::leaks(picture).ok(),
        View::Summary => {
            let snapshot = Snapshot { leaks: Some(Arc::clone(picture)), ..(**snapshots.borrow()).clone() };
            json::report(&snapshot).ok()
        }
    });
}
