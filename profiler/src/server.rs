//! HTTP: a handler picks a snapshot and an exporter, nothing more.

mod compression;
mod landing;
mod leaks;
mod negotiate;
mod pprof;
mod targets;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{FromRef, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

use negotiate::Format;

use crate::{
    ask::{GoroutineForm, HeapForm},
    export::{
        families::{Context, Families},
        json, openmetrics, prometheus,
    },
    leaks::Picture,
    snapshot::{GoProcess, Snapshot, TargetSnapshot},
};

/// A scrape waits this long for fresh figures, then takes the last ones.
const FRESH_WAIT: Duration = Duration::from_millis(40);

/// What the handlers need.
#[derive(Clone)]
pub struct AppState {
    /// The newest snapshot.
    pub latest: watch::Receiver<Arc<Snapshot>>,
    /// Asks for a new one, without waiting.
    pub ask: Arc<dyn Fn() + Send + Sync>,
    /// Constants of the exporters.
    pub context: Context,
    /// New targets may come: being without one is no failure.
    pub waits: bool,
    /// The picture of leaks that was taken nearest to a moment, among those that are kept. It is called on a thread that may
    /// wait for a disk.
    pub pictures: Pictures,
    /// Asks a Go process of a target of that name for a profile; why not, in words. It is called on a thread that may wait.
    pub ask_go: AskGo,
}

/// What a Go process can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoQuestion {
    /// The profile of the heap that its runtime keeps.
    Heap(HeapForm),
    /// Its goroutines.
    Goroutines(GoroutineForm),
}

/// See [`AppState::ask_go`].
pub type AskGo = Arc<dyn Fn(&str, &GoProcess, GoQuestion) -> Result<Vec<u8>, String> + Send + Sync>;

/// See [`AppState::pictures`].
pub type Pictures = Arc<dyn Fn(SystemTime) -> Option<Arc<Picture>> + Send + Sync>;

/// What the routes have in common.
#[derive(Clone)]
struct Shared {
    app: AppState,
    intervals: pprof::Intervals,
}

impl FromRef<Shared> for AppState {
    fn from_ref(shared: &Shared) -> Self {
        shared.app.clone()
    }
}

impl AppState {
    /// A snapshot made for this request, or the last one if that takes too long.
    async fn fresh(&self) -> Arc<Snapshot> {
        let mut latest = self.latest.clone();
        latest.mark_unchanged();
        (self.ask)();
        let _changed = tokio::time::timeout(FRESH_WAIT, latest.changed()).await;
        Arc::clone(&latest.borrow())
    }
}

/// All routes.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/", get(landing::page))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(|| async { "profiler is healthy\n" }))
        .route("/-/ready", get(ready))
        .route("/api/v1/targets", get(every_target))
        .merge(leaks::routes())
        .merge(pprof::routes())
        .merge(targets::routes())
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found; see / for what there is\n") })
        .layer(middleware::from_fn(compression::compress))
        .with_state(Shared { app: state, intervals: pprof::Intervals::default() })
}

/// All figures, in the format that the client likes best.
async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let format = negotiate::format(&headers);
    let (snapshot, context) = (state.fresh().await, state.context);
    let text = compression::in_turn(move || {
        let families = Families::of(&snapshot, context);
        match format {
            Format::Text => prometheus::render(families),
            Format::OpenMetrics | Format::OpenMetricsDraft => Ok(openmetrics::render(&families)),
        }
    });
    match text.await {
        Ok(Ok(text)) => {
            let headers = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, "Accept")];
            (headers, text).into_response()
        }
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

async fn every_target(State(state): State<AppState>) -> Response {
    match json::render(state.fresh().await.as_ref()) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => failed(&error),
    }
}

async fn ready(State(state): State<AppState>) -> Response {
    let latest = Arc::clone(&state.latest.borrow());
    if !state.waits && !latest.targets.iter().any(TargetSnapshot::up) {
        return (StatusCode::SERVICE_UNAVAILABLE, "every target has ended\n").into_response();
    }
    // It observes and serves, and keeps what it can't push: nobody should take it out of service for that.
    match latest.push.as_ref().and_then(|push| push.trouble.as_deref()) {
        Some(trouble) => {
            format!("profiler is ready, but degraded: InfluxDB takes no points: {trouble}\n").into_response()
        }
        None => "profiler is ready\n".into_response(),
    }
}

fn failed(error: &dyn std::error::Error) -> Response {
    tracing::error!("{error}");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

/// An answer that says what is wrong and what to do. Go's reader shows it to people because of the header.
fn refuse(status: StatusCode, reason: &str) -> Response {
    let headers = [(header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"), ("x-go-pprof", "1")];
    (status, headers, format!("{reason}\n")).into_response()
}

/// Work that takes longer than a scrape may wait, on a thread of its own.
async fn aside(work: impl FnOnce() -> Response + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => failed(&error),
    }
}
