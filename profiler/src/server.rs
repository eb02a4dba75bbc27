//! HTTP: a handler picks a snapshot and an exporter, nothing more.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

use crate::{
    build_info::BUILD,
    export::{
        json,
        prometheus::{self, CONTENT_TYPE, Context},
    },
    snapshot::{AllocState, Snapshot, TargetSnapshot},
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
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(|| async { "profiler is healthy\n" }))
        .route("/-/ready", get(ready))
        .route("/api/v1/targets", get(targets))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found; see / for what there is\n") })
        .with_state(state)
}

async fn metrics(State(state): State<AppState>) -> Response {
    match prometheus::render(&state.fresh().await, state.context) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => failed(&error),
    }
}

async fn targets(State(state): State<AppState>) -> Response {
    match json::render(state.fresh().await.as_ref()) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => failed(&error),
    }
}

async fn ready(State(state): State<AppState>) -> Response {
    if state.waits || state.latest.borrow().targets.iter().any(TargetSnapshot::up) {
        "profiler is ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "every target has ended\n").into_response()
    }
}

fn failed(error: &dyn std::error::Error) -> Response {
    tracing::error!("{error}");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

async fn landing(State(state): State<AppState>) -> Html<String> {
    let snapshot = Arc::clone(&state.latest.borrow());
    Html(landing_page(&snapshot))
}

/// The page at `/`: what this is, whom it looks at, where the rest is.
fn landing_page(snapshot: &Snapshot) -> String {
    let rows: String = snapshot
        .targets
        .iter()
        .map(|target| {
            let live = format!("{} live objects since attach", target.alloc.live_objects());
            let states = target.alloc_states().into_iter().map(|(state, _)| match state {
                AllocState::Counting => live.clone(),
                AllocState::Partly(reason) => format!("{live}; {reason}"),
                AllocState::Off => "not asked for".to_owned(),
                AllocState::NotCounting(reason) => format!("not counted: {reason}"),
            });
            let pids: Vec<_> = target.processes.iter().map(|process| process.info.pid.to_string()).collect();
            let mut programs: Vec<_> = target
                .processes
                .iter()
                .map(|process| process.info.exe.as_deref().unwrap_or(&process.info.comm))
                .collect();
            programs.sort_unstable();
            programs.dedup();
            format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&target.name),
                pids.join(" "),
                escape(&programs.join(", ")),
                if target.up() { "running" } else { "ended" },
                escape(&states.collect::<Vec<_>>().join("; ")),
            )
        })
        .collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>profiler</title><style>\
         body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:3rem auto;padding:0 1rem;color:#222;background:#fff}}\
         h1{{margin-bottom:0}}p.sub{{margin-top:0;color:#666}}table{{border-collapse:collapse;width:100%}}\
         th,td{{text-align:left;padding:.4rem .8rem .4rem 0;border-bottom:1px solid #ddd;vertical-align:top}}\
         code{{background:#f3f3f3;padding:.1rem .3rem;border-radius:3px}}\
         @media(prefers-color-scheme:dark){{body{{color:#ddd;background:#181818}}code{{background:#2a2a2a}}a{{color:#8bf}}\
         th,td{{border-color:#444}}}}</style></head><body>\
         <h1>profiler</h1><p class=\"sub\">version {} ({}) &middot; where a running process's memory goes and why it stalls</p>\
         <h2>Under observation</h2><table><tr><th>target</th><th>pid</th><th>program</th><th>state</th><th>allocations</th></tr>\
         {rows}</table><h2>Read on</h2><ul>\
         <li><a href=\"/metrics\"><code>/metrics</code></a> for Prometheus</li>\
         <li><a href=\"/api/v1/targets\"><code>/api/v1/targets</code></a> the same as JSON, with every probe site</li>\
         <li><a href=\"/-/healthy\"><code>/-/healthy</code></a> and <a href=\"/-/ready\"><code>/-/ready</code></a> for supervisors</li>\
         </ul></body></html>\n",
        escape(BUILD.version),
        escape(BUILD.revision),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
