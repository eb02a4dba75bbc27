//! Profiles for `go tool pprof http://HOST:PORT/debug/pprof/heap`.
//!
//! `?target=NAME` one target; `?at=WHEN` the picture kept nearest to that moment; `?since=WHEN` what has changed since then;
//! `?seconds=N` what changes in the next N seconds; `?debug=1` text. WHEN is seconds since the epoch, RFC 3339 or `10m` for
//! ten minutes ago.
//!
//! Of a Go program, `heap?target=NAME` (`&pid=N` if several of its processes run Go) is the profile that its runtime keeps itself,
//! unless the question is one for pictures. Where there is one target only, it needn't be named.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{GoQuestion, Shared, aside, leaks::nobody_looks, refuse};
use crate::{
    ask::{GoroutineForm, HeapForm},
    export::pprof::{self, Kind, Stalls, Wish},
    leaks::Picture,
    snapshot::{GoProcess, Snapshot},
};

/// Longest interval that is waited for.
const MAX_SECONDS: u64 = 600;

/// Requests of one route that wait at the same time.
const MAX_WAITING: usize = 4;

/// Who waits for the end of an interval: a place per request, by route.
#[derive(Clone)]
pub(super) struct Intervals {
    heap: Arc<Semaphore>,
    allocs: Arc<Semaphore>,
    offcpu: Arc<Semaphore>,
}

impl Default for Intervals {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(MAX_WAITING));
        Self { heap: places(), allocs: places(), offcpu: places() }
    }
}

/// The routes.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/debug/pprof", get(|| async { Redirect::permanent("/debug/pprof/") }))
        .route("/debug/pprof/", get(|| async { Html(INDEX) }))
        .route("/debug/pprof/heap", get(|shared, wishes| memory(Kind::Heap, shared, wishes)))
        .route("/debug/pprof/allocs", get(|shared, wishes| memory(Kind::Allocs, shared, wishes)))
        .route("/debug/pprof/goroutine", get(goroutines))
        .route("/debug/pprof/offcpu", get(offcpu))
}

const INDEX: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>profiles</title></head><body>\
    <h1>Profiles</h1><ul>\
    <li><a href=\"heap\">heap</a>: what lives, by call site (<a href=\"heap?debug=1\">as text</a>)</li>\
    <li><a href=\"allocs\">allocs</a>: what was allocated, by call site (<a href=\"allocs?debug=1\">as text</a>)</li>\
    <li>goroutine?target=NAME: goroutines of a Go program, by stack</li>\
    <li><a href=\"offcpu\">offcpu</a>: stalls by cause</li></ul>\
    <p>?target=NAME &#183; ?seconds=N &#183; ?since=WHEN &#183; ?at=WHEN &#183; ?debug=1</p></body></html>\n";

/// An answer that says no.
type Refusal = Box<Response>;

fn refusal(status: StatusCode, reason: &str) -> Refusal {
    Box::new(refuse(status, reason))
}

type Wishes = Query<HashMap<String, String>>;

async fn memory(kind: Kind, State(shared): State<Shared>, Query(wishes): Wishes) -> Response {
    match memory_or_refusal(kind, &shared, wishes).await {
        Ok(answer) => answer,
        Err(refusal) => *refusal,
    }
}

async fn memory_or_refusal(
    kind: Kind,
    shared: &Shared,
    wishes: HashMap<String, String>,
) -> Result<Response, Refusal> {
    let now = SystemTime::now();
    let (seconds, since, at) =
        (seconds(&wishes)?, moment(&wishes, "since", now)?, moment(&wishes, "at", now)?);
    if [seconds.is_some(), since.is_some(), at.is_some()].into_iter().filter(|asked| *asked).count() > 1 {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "only one of seconds, since and at makes sense at once",
        ));
    }
    let text = wishes.get("debug").is_some_and(|debug| debug != "0");
    let places = if kind == Kind::Heap { &shared.intervals.heap } else { &shared.intervals.allocs };
    let place = place(places, seconds)?;
    let mut snapshot = shared.app.fresh().await;
    let of_now = seconds.is_none() && since.is_none() && at.is_none();
    if of_now && let Some(process) = go_process(&snapshot, wishes.get("target"), wishes.get("pid"))? {
        let (form, name) = match kind {
            _ if text => (HeapForm::Text, ""),
            Kind::Heap => (HeapForm::Live, "heap"),
            Kind::Allocs => (HeapForm::Allocated, "allocs"),
        };
        return Ok(ask_go(shared, process, GoQuestion::Heap(form), name).await);
    }
    let mut earlier = None;
    if let Some(seconds) = seconds {
        earlier = Some(snapshot.leaks.clone().ok_or_else(|| Box::new(nobody_looks()))?);
        tokio::time::sleep(seconds).await;
        snapshot = shared.app.fresh().await;
    }
    drop(place);
    let newest = snapshot.leaks.clone().ok_or_else(|| Box::new(nobody_looks()))?;
    let pictures = Arc::clone(&shared.app.pictures);
    let target = wishes.get("target").cloned();
    Ok(aside(move || {
        let kept = |moment: Option<SystemTime>| match moment.map(|moment| pictures(moment)) {
            None => Ok(None),
            Some(Some(picture)) => Ok(Some(picture)),
            Some(None) => Err(refusal(StatusCode::NOT_FOUND, "no picture of that time is kept")),
        };
        let (picture, earlier) = match (kept(at), kept(since)) {
            (Ok(shown), Ok(before)) => (shown.unwrap_or(newest), before.or(earlier)),
            (Err(refusal), _) | (_, Err(refusal)) => return *refusal,
        };
        let program = target.as_deref().and_then(|name| program(&snapshot, name));
        show(&picture, earlier.as_deref(), &Wish { kind, target: target.as_deref(), program }, text)
    })
    .await)
}

fn show(picture: &Picture, earlier: Option<&Picture>, wish: &Wish<'_>, text: bool) -> Response {
    if wish.target.is_some_and(|name| picture.targets.iter().all(|target| *target.target != *name)) {
        return refuse(StatusCode::NOT_FOUND, "no target of that name; / lists them");
    }
    if text {
        let headers = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        return (headers, pprof::text(picture, earlier, wish)).into_response();
    }
    let bytes = match earlier {
        Some(earlier) => pprof::difference(picture, earlier, wish),
        None => pprof::heap(picture, wish),
    };
    profile(if wish.kind == Kind::Heap { "heap" } else { "allocs" }, bytes)
}

fn profile(name: &str, bytes: Vec<u8>) -> Response {
    let file = format!("attachment; filename=\"{name}.pb.gz\"");
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_DISPOSITION, file.as_str()),
    ];
    (headers, bytes).into_response()
}

/// Path of a target's program, if all its processes run the same.
fn program<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a str> {
    let target = snapshot.targets.iter().find(|target| *target.name == *name)?;
    let mut programs = target.processes.iter().map(|process| process.info.exe.as_deref());
    let first = programs.next()??;
    programs.all(|program| program == Some(first)).then_some(first)
}

/// The process of a target that runs Go: none if the target runs something else. Without a name the only target is meant; of
/// several, none.
fn go_process(
    snapshot: &Snapshot,
    name: Option<&String>,
    pid: Option<&String>,
) -> Result<Option<(String, GoProcess)>, Refusal> {
    let target = match (name, snapshot.targets.as_slice()) {
        (Some(name), targets) => targets.iter().find(|target| *target.name == **name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let Some(target) = target else { return Ok(None) };
    let name = target.name.to_string();
    let processes = target.go.as_ref().map(|go| go.programs.as_slice());
    match processes {
        None | Some([]) => Ok(None),
        Some([process]) => Ok(Some((name, process.clone()))),
        Some(several) => {
            let pids: Vec<_> = several.iter().map(|process| process.process.pid().to_string()).collect();
            let meant = several
                .iter()
                .find(|process| pid.is_some_and(|pid| *pid == process.process.pid().to_string()));
            let process = meant.ok_or_else(|| {
                let reason =
                    format!("several processes of this target run Go: give &pid= one of {}", pids.join(", "));
                refusal(StatusCode::BAD_REQUEST, &reason)
            })?;
            Ok(Some((name, process.clone())))
        }
    }
}

async fn ask_go(
    shared: &Shared,
    (target, process): (String, GoProcess),
    question: GoQuestion,
    name: &'static str,
) -> Response {
    let ask = Arc::clone(&shared.app.ask_go);
    aside(move || match ask(&target, &process, question) {
        // What has no name of a file is text.
        Ok(text) if name.is_empty() => {
            let headers = [
                (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, text).into_response()
        }
        Ok(bytes) => profile(name, bytes),
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &why),
    })
    .await
}

async fn goroutines(State(shared): State<Shared>, Query(wishes): Wishes) -> Response {
    let snapshot = shared.app.fresh().await;
    match go_process(&snapshot, wishes.get("target"), wishes.get("pid")) {
        Ok(Some(process)) => {
            let (form, name) = match wishes.get("debug").map(String::as_str) {
                None | Some("0") => (GoroutineForm::Profile, "goroutine"),
                Some("1") => (GoroutineForm::Grouped, ""),
                Some(_) => (GoroutineForm::Text, ""),
            };
            ask_go(&shared, process, GoQuestion::Goroutines(form), name).await
        }
        Ok(None) => refuse(
            StatusCode::NOT_FOUND,
            "no Go program of that name is observed: give ?target=NAME; / lists them",
        ),
        Err(refusal) => *refusal,
    }
}

async fn offcpu(State(shared): State<Shared>, Query(wishes): Wishes) -> Response {
    match offcpu_or_refusal(&shared, &wishes).await {
        Ok(answer) => answer,
        Err(refusal) => *refusal,
    }
}

async fn offcpu_or_refusal(shared: &Shared, wishes: &HashMap<String, String>) -> Result<Response, Refusal> {
    if ["since", "at"].iter().any(|name| wishes.contains_key(*name)) {
        return Err(refusal(StatusCode::BAD_REQUEST, "stalls have no history: use seconds"));
    }
    let seconds = seconds(wishes)?;
    let place = place(&shared.intervals.offcpu, seconds)?;
    let mut snapshot = shared.app.fresh().await;
    let mut earlier = None;
    if let Some(seconds) = seconds {
        tokio::time::sleep(seconds).await;
        earlier = Some(std::mem::replace(&mut snapshot, shared.app.fresh().await));
    }
    drop(place);
    let wanted = wishes.get("target");
    let chosen = snapshot.targets.iter().filter(|target| wanted.is_none_or(|name| **name == *target.name));
    let stalls: Vec<_> = chosen
        .filter_map(|target| {
            let before = earlier.iter().flat_map(|earlier| &earlier.targets);
            let earlier =
                before.filter(|before| before.name == target.name).find_map(|before| before.ledger.as_ref());
            Some(Stalls { target: &target.name, ledger: target.ledger.as_ref()?, earlier })
        })
        .collect();
    if stalls.is_empty() {
        return Err(refusal(
            StatusCode::NOT_FOUND,
            "no such target whose stalls are looked at; / lists the targets",
        ));
    }
    let observed = snapshot.targets.iter().map(|target| target.observed).max().unwrap_or_default();
    let lasted = earlier.as_ref().map_or(observed, |earlier| snapshot.taken.duration_since(earlier.taken));
    Ok(profile("offcpu", pprof::offcpu(&stalls, snapshot.taken_at, lasted)))
}

/// A place among those that wait, if there is anything to wait for.
fn place(places: &Semaphore, seconds: Option<Duration>) -> Result<Option<SemaphorePermit<'_>>, Refusal> {
    let Some(_) = seconds else { return Ok(None) };
    let full = |_| {
        refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "enough requests wait for an interval already: try again later",
        )
    };
    places.try_acquire().map(Some).map_err(full)
}

/// The interval that is asked for; zero is none, as Go's own server has it.
fn seconds(wishes: &HashMap<String, String>) -> Result<Option<Duration>, Refusal> {
    let Some(text) = wishes.get("seconds") else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(0) => Ok(None),
        Ok(seconds) if seconds <= MAX_SECONDS => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(refusal(StatusCode::BAD_REQUEST, &format!("seconds is a whole number up to {MAX_SECONDS}"))),
    }
}

/// The moment that is asked for.
fn moment(
    wishes: &HashMap<String, String>,
    name: &str,
    now: SystemTime,
) -> Result<Option<SystemTime>, Refusal> {
    let Some(text) = wishes.get(name) else { return Ok(None) };
    let read = read_moment(text, now).ok_or_else(|| {
        let reason =
            format!("{name} is a time: seconds since the epoch, RFC 3339, or 10m for ten minutes ago");
        refusal(StatusCode::BAD_REQUEST, &reason)
    });
    read.map(Some)
}

fn read_moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    if let Ok(seconds) = text.parse::<f64>() {
        return UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?);
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return now.checked_sub(ago).filter(|moment| *moment >= UNIX_EPOCH);
    }
    humantime::parse_rfc3339_weak(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_may_be_said_in_three_ways() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        let now = UNIX_EPOCH + Duration::from_secs(2_000);
        assert_eq!(read_moment("1500", now), at(1500));
        assert_eq!(read_moment("10m", now), at(1400));
        assert_eq!(read_moment("1970-01-01T00:20:00Z", now), at(1200));
        for wrong in ["", "yesterday", "-5", "nan", "1e300", "9999999y"] {
            assert_eq!(read_moment(wrong, now), None, "{wrong}");
        }
    }
}
