//! Formats, compression and their headers.

use std::time::Instant;

use flate2::read::GzDecoder;

use super::*;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const DRAFT: &str = "application/openmetrics-text; version=0.0.1; charset=utf-8";

/// As Prometheus 2.42 sends it [scrape/scrape.go of v2.42.0].
const PROMETHEUS_2: &str = "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// As Prometheus 3 sends it [`acceptHeader` in scrape/scrape.go, v3].
const PROMETHEUS_3: &str = "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// The same with native histograms: protobuf first.
const PROTOBUF_FIRST: &str = "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = found.next();
        assert_eq!(found.next(), None, "{name} twice in {}", self.head);
        value
    }

    fn length(&self) -> usize {
        self.header("content-length").unwrap().parse().unwrap()
    }

    /// The body as it was before it was compressed; it must be exactly one member.
    fn decoded(&self) -> String {
        let mut text = String::new();
        let mut decoder = GzDecoder::new(&*self.body);
        decoder.read_to_string(&mut text).unwrap();
        assert!(decoder.into_inner().is_empty(), "something is behind the compressed body");
        text
    }
}

fn asked(method: &str, path: &str, headers: &[&str]) -> Answer {
    exchange(snapshot(Some(picture::realistic())), vec![request(method, path, headers)]).remove(0)
}

#[test]
fn each_client_gets_the_format_that_it_likes_best() {
    let cases = [
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (PROTOBUF_FIRST, OPENMETRICS),
        // VictoriaMetrics 1.79 and vmagent, curl, Firefox, Telegraf, Go's client without a wish.
        ("Accept: text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
        ("Accept: */*", TEXT),
        ("Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        ("Accept: application/openmetrics-text;version=0.0.1", DRAFT),
        ("Accept: application/openmetrics-text", OPENMETRICS),
        ("Accept: Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=1", OPENMETRICS),
        ("Accept: application/*", OPENMETRICS),
        ("Accept: text/*;q=0.1, application/*;q=0.2", OPENMETRICS),
        ("Accept: text/plain;q=0.5, application/openmetrics-text;version=1.0.0;q=0.5", OPENMETRICS),
        ("Accept: text/plain, application/openmetrics-text", TEXT),
        ("Accept: application/openmetrics-text, text/plain", OPENMETRICS),
        ("Accept: text/plain;q=0, */*", OPENMETRICS),
        ("Accept: application/openmetrics-text;version=1.0.0;q=0.1,*/*;q=0.9", TEXT),
        ("Accept: application/openmetrics-text;q=0,*/*;q=0.1", TEXT),
        ("Accept: application/openmetrics-text;note=\"a,b;q=0\";version=1.0.0", OPENMETRICS),
        ("Accept: text/plain;q=0.2\r\nAccept: application/openmetrics-text;q=0.3", OPENMETRICS),
        (
            "Accept: application/openmetrics-text;version=0.0.1,application/openmetrics-text;version=1.0.0;q=0.9",
            DRAFT,
        ),
        // Nothing of ours.
        ("Accept: application/openmetrics-text;version=2.0.0", TEXT),
        (
            "Accept: application/openmetrics-text;version=2.0.0,application/openmetrics-text;version=1.0.0;q=0.5",
            OPENMETRICS,
        ),
        ("Accept: text/plain;version=1.0.0;escaping=allow-utf-8", TEXT),
        ("Accept: image/png", TEXT),
        ("Accept: */*;q=0", TEXT),
        // Nonsense.
        ("Accept:", TEXT),
        ("Accept: ,,;;,=;q", TEXT),
        ("Accept: application/openmetrics-text;q=much", TEXT),
        ("Accept: application/openmetrics-text;q=-1", TEXT),
        ("Accept: application/openmetrics-text;q=nan", TEXT),
        ("Accept: application/openmetrics-text;q=2", TEXT),
        ("Accept: \"application/openmetrics-text", TEXT),
        ("Accept: application/openmetrics-text\u{e9}", TEXT),
        ("X-Accept: application/openmetrics-text", TEXT),
    ];
    let requests = cases.iter().map(|(header, _)| request("GET", "/metrics", &[header])).collect();
    for (answer, (header, kind)) in exchange(snapshot(None), requests).iter().zip(cases) {
        assert_eq!(answer.status, 200, "{header}");
        assert_eq!(answer.header("content-type"), Some(kind), "{header}");
        assert_eq!(answer.header("vary"), Some("accept, accept-encoding"), "{header}");
        assert_eq!(answer.text().ends_with("# EOF\n"), kind != TEXT, "{header}");
        assert_eq!(answer.length(), answer.body.len(), "{header}");
    }
}

#[test]
fn what_is_compressed_is_what_was_asked_for() {
    let (plain, gzip) = (None, Some("gzip"));
    let cases = [
        ("Accept-Encoding: gzip", gzip),
        ("Accept-Encoding: x-gzip", gzip),
        ("Accept-Encoding: deflate, GZIP;q=1.0, *;q=0.5", gzip),
        ("Accept-Encoding: gzip, deflate, br, zstd", gzip),
        ("Accept-Encoding: *", gzip),
        ("Accept-Encoding: gzip;q=0.001", gzip),
        ("Accept-Encoding: gzip;q=0.5, identity;q=0.5", gzip),
        ("Accept-Encoding: br, identity;q=0", gzip),
        ("Accept-Encoding: identity;q=0", gzip),
        ("Accept-Encoding: gzip, *;q=0", gzip),
        ("X-Nothing: at all", plain),
        ("Accept-Encoding:", plain),
        ("Accept-Encoding: identity", plain),
        ("Accept-Encoding: br, zstd", plain),
        ("Accept-Encoding: gzip;q=0", plain),
        ("Accept-Encoding: gzip;q=0, *", plain),
        ("Accept-Encoding: gzip;q=0.4, identity;q=0.5", plain),
        ("Accept-Encoding: identity, *;q=0.5", plain),
        ("Accept-Encoding: *;q=0", plain),
        ("Accept-Encoding: gzip;q=very", plain),
        ("Accept-Encoding: gzipped", plain),
    ];
    let requests = cases.iter().map(|(header, _)| request("GET", "/metrics", &[header])).collect();
    for (answer, (header, coding)) in exchange(snapshot(None), requests).iter().zip(cases) {
        assert_eq!(answer.header("content-encoding"), coding, "{header}");
        assert_eq!(answer.header("vary"), Some("accept, accept-encoding"), "{header}");
        assert_eq!(answer.length(), answer.body.len(), "{header}");
        let text = if coding.is_some() { answer.decoded() } else { answer.text() };
        assert!(text.contains("profiler_target_up{target=\"shop\"} 1\n"), "{header}: {text}");
    }
}

#[test]
fn every_text_is_compressed_and_no_profile_twice() {
    for path in [
        "/metrics",
        "/api/v1/targets",
        "/api/v1/leaks",
        "/targets/shop",
        "/targets/shop/flamegraph.svg",
        "/debug/pprof/heap?debug=1",
        "/",
    ] {
        let plain = asked("GET", path, &[]);
        let answer = asked("GET", path, &["Accept-Encoding: gzip"]);
        assert_eq!(answer.status, 200, "{path}");
        assert!(plain.body.len() >= 1024, "{path} is no test: {}", plain.body.len());
        assert_eq!(answer.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(answer.header("content-type"), plain.header("content-type"), "{path}");
        assert_eq!(answer.header("content-security-policy"), plain.header("content-security-policy"));
        assert!(plain.header("vary").unwrap().contains("accept-encoding"), "{path}");
        // Times in /api/v1/targets are of now.
        assert_eq!(answer.decoded().len(), plain.body.len(), "{path}");
        assert!(answer.body.len() < plain.body.len() * 3 / 4, "{path}: {}", answer.body.len());
    }
    for path in ["/debug/pprof/heap", "/debug/pprof/allocs", "/debug/pprof/offcpu"] {
        let answer = asked("GET", path, &["Accept-Encoding: gzip"]);
        assert_eq!(answer.header("content-encoding"), None, "{path}");
        assert_eq!(answer.header("vary"), None, "{path}: it is always the same");
        let mut message = Vec::new();
        GzDecoder::new(&*answer.body).read_to_end(&mut message).unwrap();
        assert!(!message.starts_with(&[0x1f, 0x8b]), "{path} is compressed twice");
    }
}

#[test]
fn what_is_small_stays_as_it_is_unless_that_is_refused() {
    for path in ["/-/healthy", "/nowhere", "/debug/pprof/heap?seconds=many"] {
        assert_eq!(asked("GET", path, &["Accept-Encoding: gzip"]).header("content-encoding"), None, "{path}");
        let answer = asked("GET", path, &["Accept-Encoding: gzip, identity;q=0"]);
        assert_eq!(answer.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(answer.decoded(), asked("GET", path, &[]).text(), "{path}");
    }
    let redirect = asked("GET", "/debug/pprof", &["Accept-Encoding: identity;q=0"]);
    assert_eq!((redirect.status, redirect.header("content-encoding")), (308, None));
}

#[test]
fn the_head_of_an_answer_is_that_of_the_whole() {
    for (path, headers) in [
        ("/metrics", &[PROMETHEUS_2, "Accept-Encoding: gzip"][..]),
        ("/metrics", &[]),
        ("/targets/shop", &["Accept-Encoding: gzip"]),
        ("/-/healthy", &["Accept-Encoding: gzip"]),
        ("/debug/pprof/heap", &[]),
    ] {
        let (head, whole) = (asked("HEAD", path, headers), asked("GET", path, headers));
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        for name in ["content-type", "content-encoding", "vary", "content-length"] {
            assert_eq!(head.header(name), whole.header(name), "{path}: {name}");
        }
        assert_eq!(whole.length(), whole.body.len(), "{path}");
    }
    let refused = asked("POST", "/metrics", &["Accept-Encoding: gzip"]);
    assert_eq!((refused.status, refused.header("allow")), (405, Some("get,head")));
}

#[test]
fn long_headers_cost_little_and_many_are_refused() {
    let long = format!("Accept: {}text/plain;q=0.1", "application/openmetrics-text;q=0.9,;;;\"".repeat(1500));
    let parameters = format!("Accept-Encoding: gzip{}", ";a=\"\\\"\"".repeat(6000));
    let began = std::time::Instant::now();
    let answer = asked("GET", "/metrics", &[&long, &parameters]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
    assert!(answer.header("content-type").is_some());
    let many: Vec<_> = (0..200).map(|number| format!("Accept: text/{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(asked("GET", "/metrics", &many).status, 431);
}

/// Everything else is served on one thread, so what is measured is how long that one was away.
#[test]
fn fifty_thousand_series_hold_nobody_up() {
    let targets = (0..700).map(|number| moment::target(&format!("service-{number}"))).collect();
    let (_sender, latest) = watch::channel(Arc::new(moment::snapshot(targets)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (answer, took, longest) = runtime.block_on(async move {
        let address = serve(latest).await;
        let request = request("GET", "/metrics", &[PROMETHEUS_2, "Accept-Encoding: gzip"]);
        let began = Instant::now();
        let mut asked = tokio::task::spawn_blocking(move || ask(address, &request));
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        loop {
            let answer = tokio::time::timeout(Duration::from_millis(1), &mut asked).await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if let Ok(answer) = answer {
                break (answer.unwrap(), began.elapsed(), longest);
            }
        }
    });
    let text = answer.decoded();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    println!("{series} series, {} bytes, {took:?}; the server was away for {longest:?}", text.len());
    assert!(series > 50_000, "{series}");
    assert_eq!((answer.header("content-encoding"), answer.length()), (Some("gzip"), answer.body.len()));
    assert!(longest < took / 3, "{longest:?} of {took:?}");
}
