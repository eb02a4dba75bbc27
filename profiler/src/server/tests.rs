mod scrapes;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::*;
use crate::test_support::{
    moment::{self, CONTEXT},
    picture,
};

fn snapshot(leaks: Option<Picture>) -> Arc<Snapshot> {
    Arc::new(Snapshot { leaks: leaks.map(Arc::new), ..moment::snapshot(vec![moment::target("shop")]) })
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What the server answers to each of the requests, which are made at the same time.
fn answers(leaks: Option<Picture>, paths: &[&str]) -> Vec<Answer> {
    let requests = paths.iter().map(|path| request("GET", path, &[])).collect();
    exchange(snapshot(leaks), requests)
}

/// A request as it is sent.
fn request(method: &str, path: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{headers}\r\n")
}

/// The same, for any requests and figures.
fn exchange(snapshot: Arc<Snapshot>, requests: Vec<String>) -> Vec<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_sender, latest) = watch::channel(snapshot);
    runtime.block_on(async move {
        let address = serve(latest).await;
        let ask = |request: String| tokio::task::spawn_blocking(move || ask(address, &request));
        let asked: Vec<_> = requests.into_iter().map(ask).collect();
        let mut answers = Vec::new();
        for answer in asked {
            answers.push(answer.await.unwrap());
        }
        answers
    })
}

/// Starts a server, which ends with the runtime.
async fn serve(latest: watch::Receiver<Arc<Snapshot>>) -> SocketAddr {
    // One older picture is kept, of an hour before.
    let kept = |moment| (moment < picture::at(picture::TAKEN_AT)).then(|| Arc::new(picture::realistic()));
    let context = Context { max_series: 100_000, ..CONTEXT };
    let state = AppState {
        latest,
        ask: Arc::new(|| ()),
        context,
        waits: false,
        pictures: Arc::new(kept),
        ask_go: Arc::new(|_, _, _| Err("not here".to_owned())),
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(state)).await });
    address
}

fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

fn answer(path: &str) -> Answer {
    answers(Some(picture::later(600)), &[path]).remove(0)
}

#[test]
fn every_way_to_look_at_leaks_has_its_kind_of_content() {
    for (path, kind) in [
        ("/targets/shop", "text/html; charset=utf-8"),
        ("/targets/shop/flamegraph.svg?value=lost", "image/svg+xml"),
        ("/targets/shop/folded?value=allocated", "text/plain; charset=utf-8"),
        ("/api/v1/leaks", "application/json"),
        ("/debug/pprof/", "text/html; charset=utf-8"),
        ("/debug/pprof/heap", "application/octet-stream"),
        ("/debug/pprof/allocs?target=shop", "application/octet-stream"),
        ("/debug/pprof/heap?debug=1", "text/plain; charset=utf-8"),
        ("/debug/pprof/offcpu", "application/octet-stream"),
        ("/", "text/html; charset=utf-8"),
    ] {
        let answer = answer(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(answer.head.contains(&format!("content-type: {kind}")), "{path}: {}", answer.head);
        assert!(!answer.body.is_empty(), "{path}");
    }
}

#[test]
fn a_name_with_a_slash_and_quotes_has_a_page_and_its_own_policy() {
    let answer = answer("/targets/a%20%22b%22%2F%3Cc%3E");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("<h1>a &quot;b&quot;/&lt;c&gt;</h1>"));
    assert!(answer.head.contains("content-security-policy: default-src 'none'"), "{}", answer.head);
}

#[test]
fn what_is_wrong_is_said_as_text_that_go_shows() {
    for (path, status) in [
        ("/debug/pprof/heap?target=nobody", 404),
        ("/debug/pprof/heap?seconds=many", 400),
        ("/debug/pprof/heap?seconds=100000", 400),
        ("/debug/pprof/heap?since=yesterday", 400),
        ("/debug/pprof/heap?since=1h&seconds=5", 400),
        ("/debug/pprof/heap?at=9000000000", 404),
        ("/debug/pprof/offcpu?target=nobody", 404),
        ("/debug/pprof/offcpu?since=1h", 400),
        ("/targets/nobody", 404),
        ("/targets/shop?value=weight", 400),
    ] {
        let answer = answer(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.head.contains("x-go-pprof: 1"), "{path}: {}", answer.head);
        assert!(answer.head.contains("content-type: text/plain"), "{path}: {}", answer.head);
    }
    for path in ["/debug/pprof/heap", "/debug/pprof/heap?seconds=1", "/api/v1/leaks", "/targets/shop"] {
        let answer = answers(None, &[path]).remove(0);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text().contains("--leaks"), "{path}: {}", answer.text());
    }
}

#[test]
fn since_is_what_changed_and_at_is_what_was() {
    let figure = |path: &str| {
        let text = answer(path).text();
        text.lines().next().unwrap().to_owned()
    };
    let (now, then) = (
        figure("/debug/pprof/heap?debug=1&target=shop"),
        figure("/debug/pprof/heap?debug=1&target=shop&at=1000"),
    );
    assert_ne!(now, then);
    assert!(then.contains(": 14377984 ["), "{then}");
    let change = figure("/debug/pprof/heap?debug=1&target=shop&since=1000");
    // The leak's 6,144,000 more; the pool's half less; one site gone and one come.
    assert!(change.contains(&format!(": {} [", 6_144_000 - 4_194_304 - 262_144 + 1024)), "{change}");
}

#[test]
fn only_a_few_may_wait_for_an_interval_and_nobody_else_has_to_wait_for_them() {
    let mut paths = vec!["/debug/pprof/offcpu?seconds=2"; 6];
    paths.push("/debug/pprof/offcpu");
    let mut statuses: Vec<_> = answers(None, &paths).iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.pop(), Some(200));
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
}

#[test]
fn the_front_page_leads_to_every_targets_page() {
    assert!(answer("/").text().contains("<a href=\"/targets/shop\">shop</a>"));
    assert!(!answers(None, &["/"]).remove(0).text().contains("/targets/shop\""), "there is nothing to see");
}

#[test]
fn a_target_is_scraped_as_if_it_were_its_own() {
    let mut ended = moment::go_target("ended");
    ended.processes[0].up = false;
    let targets = vec![moment::go_target("a \"b\"/c"), moment::target("other"), ended];
    let ask = |paths: &[&str]| {
        let requests = paths.iter().map(|path| request("GET", path, &[])).collect();
        exchange(Arc::new(moment::snapshot(targets.clone())), requests)
    };
    let answers = ask(&[
        "/targets/a%20%22b%22%2Fc/metrics",
        "/probe?target=a%20%22b%22%2Fc",
        "/probe?target=other",
        "/probe?target=nobody",
        "/targets/nobody/metrics",
        "/probe",
        "/probe?target=ended",
    ]);
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 200, 404, 404, 400, 503]);
    assert!(
        answers[0].head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{}",
        answers[0].head
    );
    assert!(answers[0].text().contains("\ngo_goroutines 12\n"), "{}", answers[0].text());
    assert_eq!(answers[0].text(), answers[1].text());
    assert!(!answers[2].text().contains("go_"), "it isn't Go");
    for answer in &answers[3..6] {
        assert!(answer.text().contains("/api/v1/targets"), "{}", answer.text());
        assert_eq!(answer.text().lines().count(), 1);
    }
    let front = ask(&["/", "/api/v1/targets"]);
    assert!(front[0].text().contains("<a href=\"/targets/a%20%22b%22%2Fc/metrics\">"), "{}", front[0].text());
    assert!(front[1].text().contains("\"metrics\": \"/targets/a%20%22b%22%2Fc/metrics\""));
}

#[test]
fn a_target_as_its_own_is_always_text_as_the_library_answers_by_default() {
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let targets = vec![moment::go_target("shop")];
    let asked = vec![request("GET", "/probe?target=shop", &[accept, "Accept-Encoding: gzip"])];
    let answer = exchange(Arc::new(moment::snapshot(targets)), asked).remove(0);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    assert!(answer.head.contains("content-encoding: gzip"), "{}", answer.head);
}
