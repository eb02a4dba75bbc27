//! The page at `/`: what this is, whom it looks at, where the rest is.

use std::sync::Arc;

use axum::{extract::State, response::Html};

use super::AppState;
use crate::{
    build_info::BUILD,
    export::html::{escape, segment},
    snapshot::{AllocState, Snapshot},
};

/// The handler.
pub(super) async fn page(State(state): State<AppState>) -> Html<String> {
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
            let name = match &snapshot.leaks {
                Some(_) => {
                    format!("<a href=\"/targets/{}\">{}</a>", segment(&target.name), escape(&target.name))
                }
                None => escape(&target.name),
            };
            format!(
                "<tr><td>{name}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td><a href=\"/targets/{}/metrics\">metrics</a></td></tr>",
                pids.join(" "),
                escape(&programs.join(", ")),
                if target.up() { "running" } else { "ended" },
                escape(&states.collect::<Vec<_>>().join("; ")),
                segment(&target.name),
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
         <h2>Under observation</h2><table><tr><th>target</th><th>pid</th><th>program</th><th>state</th><th>allocations</th><th>as its own</th></tr>\
         {rows}</table><h2>Read on</h2><ul>\
         <li><a href=\"/metrics\"><code>/metrics</code></a> for Prometheus</li>\
         <li><code>/targets/NAME/metrics</code> and <code>/probe?target=NAME</code> one target as client_golang would show it from \
         inside: the last column above</li>\
         <li><a href=\"/api/v1/targets\"><code>/api/v1/targets</code></a> the same as JSON, with every probe site</li>\
         <li><a href=\"/api/v1/leaks\"><code>/api/v1/leaks</code></a> which call sites leak, as JSON; the targets' names above lead to a page of each</li>\
         <li><a href=\"/debug/pprof/\"><code>/debug/pprof/</code></a> profiles for <code>go tool pprof</code></li>\
         <li><a href=\"/-/healthy\"><code>/-/healthy</code></a> and <a href=\"/-/ready\"><code>/-/ready</code></a> for supervisors</li>\
         </ul></body></html>\n",
        escape(BUILD.version),
        escape(BUILD.revision),
    )
}
