//! Where memory leaks: a page for each target, its flame graph and folded stacks, everything as JSON.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{AppState, Shared, aside, failed, refuse};
use crate::{
    export::{flamegraph, folded, json, page, weigh::Weight},
    leaks::{Picture, TargetReport},
};

/// Nothing is loaded from elsewhere, whatever a name in a page may hold.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The routes.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/v1/leaks", get(everything))
        .route("/targets/{name}", get(one_page))
        .route("/targets/{name}/flamegraph.svg", get(one_flamegraph))
        .route("/targets/{name}/folded", get(one_folded))
}

async fn everything(State(state): State<AppState>) -> Response {
    let Some(picture) = state.fresh().await.leaks.clone() else { return nobody_looks() };
    aside(move || match json::leaks(&picture) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => failed(&error),
    })
    .await
}

/// What is asked for in an address.
type Wishes = Query<HashMap<String, String>>;

async fn one_page(State(state): State<AppState>, Path(name): Path<String>, wishes: Wishes) -> Response {
    let show =
        |picture: &Picture, target: &TargetReport, weight| page::render(target, picture.taken_at, weight);
    one(&state, name, &wishes, "text/html; charset=utf-8", show).await
}

async fn one_flamegraph(State(state): State<AppState>, Path(name): Path<String>, wishes: Wishes) -> Response {
    one(&state, name, &wishes, "image/svg+xml", |_, target, weight| flamegraph::render(target, weight)).await
}

async fn one_folded(State(state): State<AppState>, Path(name): Path<String>, wishes: Wishes) -> Response {
    one(&state, name, &wishes, "text/plain; charset=utf-8", |_, target, weight| {
        folded::render(target, weight)
    })
    .await
}

async fn one(
    state: &AppState,
    name: String,
    wishes: &Wishes,
    kind: &'static str,
    show: impl FnOnce(&Picture, &TargetReport, Weight) -> String + Send + 'static,
) -> Response {
    let weight = match wishes.get("value").map(|value| (Weight::named(value), value)) {
        None => Weight::Live,
        Some((Some(weight), _)) => weight,
        Some((None, _)) => {
            return refuse(StatusCode::BAD_REQUEST, "value is one of live, lost, allocated");
        }
    };
    let Some(picture): Option<Arc<Picture>> = state.fresh().await.leaks.clone() else {
        return nobody_looks();
    };
    aside(move || match picture.targets.iter().find(|target| *target.target == *name) {
        Some(target) => {
            let headers = [
                (header::CONTENT_TYPE, kind),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, show(&picture, target, weight)).into_response()
        }
        None => refuse(StatusCode::NOT_FOUND, "no target of that name; / lists them"),
    })
    .await
}

/// Leaks aren't looked for.
pub(super) fn nobody_looks() -> Response {
    refuse(StatusCode::NOT_FOUND, "leaks are not looked for: start profiler with --leaks")
}
