//! One target as a scrape of its own, as if the program served it: `/targets/NAME/metrics`, and the same for relabelling.

use std::collections::HashMap;

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{AppState, Shared, aside, failed, refuse};
use crate::export::{drop_in, prometheus};

/// The routes.
pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/targets/{name}/metrics", get(named)).route("/probe", get(probed))
}

async fn named(State(state): State<AppState>, Path(name): Path<String>) -> Response {
    one(&state, name).await
}

/// As Prometheus' exporters for many targets have it.
async fn probed(
    State(state): State<AppState>,
    Query(mut wishes): Query<HashMap<String, String>>,
) -> Response {
    match wishes.remove("target") {
        Some(name) => one(&state, name).await,
        None => refuse(StatusCode::BAD_REQUEST, "say target=NAME; /api/v1/targets lists the names"),
    }
}

async fn one(state: &AppState, name: String) -> Response {
    let snapshot = state.fresh().await;
    aside(move || {
        let Some(target) = snapshot.targets.iter().find(|target| *target.name == *name) else {
            return refuse(StatusCode::NOT_FOUND, "no target of that name; /api/v1/targets lists them");
        };
        // A program that has ended answers nobody: `up` is to be 0, as it would be without us.
        if !target.up() {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "every process of the target has ended");
        }
        match drop_in::render(target) {
            Ok(text) => ([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response(),
            Err(error) => failed(&error),
        }
    })
    .await
}
