//! gzip for every text that is worth it.
//!
//! Our own layer, because every answer is in one piece and in memory: it gets its real length, and one that is large is
//! compressed on another thread than the one that serves. tower-http's would bring six more crates, answer in chunks without a
//! length and compress on that one thread.

use std::io::Write as _;

use axum::{
    body::{Body, Bytes, HttpBody as _, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use flate2::{Compression, write::GzEncoder};
use tokio::sync::Semaphore;

use super::{
    failed,
    negotiate::{Coding, coding},
};

/// Below this, the packets saved aren't worth it.
const WORTH_IT: u64 = 1 << 10;

/// What is longer is compressed on a thread of its own: a release build does 64 KiB in less than half a millisecond.
const LONG: u64 = 64 << 10;

/// Level 1: 50,000 series (4.8 MB) take 7 ms and shrink to a tenth. Level 6 takes 41 ms for a fifth less.
const LEVEL: Compression = Compression::fast();

/// Media types that shrink, without their parameters. Profiles (application/octet-stream) are gzip already.
const TEXTS: [&str; 3] = ["application/json", "application/openmetrics-text", "image/svg+xml"];

/// Large answers that are worked on at the same time. The others wait, so that many scrapes at once don't take all CPUs
/// from the targets.
static PLACES: Semaphore = Semaphore::const_new(2);

/// Runs work on a large answer on another thread, in turn.
///
/// # Errors
///
/// If the work has panicked.
pub(super) async fn in_turn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    // It is never closed, so that there is always a place in the end.
    let place = PLACES.acquire().await.ok();
    tokio::task::spawn_blocking(move || {
        let done = work();
        // Not before, even if the client has left meanwhile.
        drop(place);
        done
    })
    .await
}

/// The layer: compresses what the request allows and the answer is fit for.
pub(super) async fn compress(request: Request, next: Next) -> Response {
    let coding = coding(request.headers());
    let mut response = next.run(request).await;
    if !is_text(response.headers()) {
        return response;
    }
    varies(response.headers_mut());
    let length = response.body().size_hint().exact();
    let worth_it = length.is_some_and(|length| match coding {
        Coding::Plain => false,
        Coding::Gzip => length >= WORTH_IT,
        Coding::OnlyGzip => length > 0,
    });
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&response.status());
    if bodiless || !worth_it {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // It is there already: nothing is waited for, and nothing is longer than it said.
    let plain = match to_bytes(body, usize::MAX).await {
        Ok(plain) => plain,
        Err(error) => return failed(&error),
    };
    let compressed = if plain.len() as u64 > LONG {
        match in_turn(move || gzip(&plain)).await {
            Ok(compressed) => compressed,
            Err(error) => return failed(&error),
        }
    } else {
        gzip(&plain)
    };
    match compressed {
        Ok(compressed) => {
            head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(compressed.len()));
            Response::from_parts(head, Body::from(compressed))
        }
        Err(error) => failed(&error),
    }
}

fn gzip(plain: &Bytes) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 8), LEVEL);
    encoder.write_all(plain)?;
    encoder.finish()
}

fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    !headers.contains_key(header::CONTENT_ENCODING) && (kind.starts_with("text/") || TEXTS.contains(&kind))
}

/// Tells caches that another client may get another form, also where this one got the plain form.
fn varies(headers: &mut HeaderMap) {
    let by_format = headers.contains_key(header::VARY);
    let value = if by_format { "Accept, Accept-Encoding" } else { "Accept-Encoding" };
    headers.insert(header::VARY, HeaderValue::from_static(value));
}
