//! Prometheus and VictoriaMetrics pull from profiler, with the configurations that it comes with; what they have then is what
//! the text format says.

mod common;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use common::{
    LONG, Scratch, can_observe,
    child::{Guarded, run},
    has_program,
    helper::{Helper, compiled},
    http,
    profiler::Watching,
    root::WORK,
    within,
};
use serde_json::Value;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A configuration that profiler comes with.
fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/scrape").join(name)
}

/// The same in a directory of its own: for this endpoint, fast, with these changes.
fn adapted(name: &str, endpoint: SocketAddr, changes: &[(&str, &str)]) -> (Scratch, PathBuf) {
    let directory = Scratch::directory("scrape");
    let mut text = std::fs::read_to_string(shipped(name)).expect("it is there");
    let endpoint = endpoint.to_string();
    let always = [
        ("localhost:7667", endpoint.as_str()),
        ("scrape_interval: 15s", "scrape_interval: 1s"),
        ("scrape_timeout: 10s", "scrape_timeout: 1s"),
    ];
    for (from, to) in always.iter().chain(changes) {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("the build directory can be written");
    std::fs::copy(shipped("machines.yml"), directory.path().join("machines.yml"))
        .expect("the build directory can be written");
    (directory, path)
}

/// The change that makes this endpoint's port the usual one.
fn usual_port(endpoint: SocketAddr) -> (&'static str, String) {
    ("\"(.+):7667\"", format!("\"(.+):{}\"", endpoint.port()))
}

/// `machines.yml` with its example, below the first empty line, without the `#`. No name of it leads anywhere.
fn machines_of_the_example() -> String {
    let text = std::fs::read_to_string(shipped("machines.yml")).expect("it is there");
    let (head, example) = text.split_once("\n\n").expect("an empty line");
    let lines = example.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let lines: Vec<_> = std::iter::once(head).chain(lines).collect();
    lines.join("\n").replace("example.com", "invalid")
}

/// A helper that has allocated and now does nothing, and who watches it.
fn observed() -> Option<(Helper, Watching)> {
    if !can_observe() {
        return None;
    }
    let mut helper = Helper::start(&compiled("calls.c", &[])?, &WORK);
    let watching = Watching::process(helper.pid());
    helper.work();
    Some((helper, watching))
}

/// What went to and fro.
#[derive(Default)]
struct Heard {
    asked: Vec<u8>,
    answered: Vec<u8>,
}

impl Heard {
    fn has(&self, asked: &str, answered: &str) -> bool {
        let lower = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_ascii_lowercase();
        lower(&self.asked).contains(&asked.to_ascii_lowercase())
            && lower(&self.answered).contains(&answered.to_ascii_lowercase())
    }
}

/// Stands between a server and profiler, and hears what they say. Its threads end with their connections.
fn eavesdrop(profiler: SocketAddr) -> (SocketAddr, Arc<Mutex<Heard>>) {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let shared = Arc::clone(&heard);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(profiler) else { return };
            for (from, to, asks) in [(&client, &server, true), (&server, &client, false)] {
                let from = from.try_clone().expect("a descriptor");
                let to = to.try_clone().expect("a descriptor");
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    pass_on(from, to, |bytes| {
                        let mut heard = shared.lock().expect("nobody panics");
                        let memory = if asks { &mut heard.asked } else { &mut heard.answered };
                        // A minute's worth, should a test forget to end.
                        if memory.len() < 16 << 20 {
                            memory.extend_from_slice(bytes);
                        }
                    });
                });
            }
        }
    });
    (address, heard)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, hear: impl Fn(&[u8])) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        hear(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _closed = to.shutdown(Shutdown::Both);
    let _closed = from.shutdown(Shutdown::Both);
}

/// A server that somebody else made. It ends with this value.
struct Server {
    _child: Guarded,
    address: SocketAddr,
    _storage: Scratch,
}

impl Server {
    /// Starts it with the arguments, in which `ADDRESS` and `STORAGE` stand for its own, and waits until it is ready.
    fn start(program: &str, arguments: &[String], environment: &[(&str, &str)], ready: &str) -> Self {
        let storage = Scratch::directory("storage");
        // Free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port");
        let directory = storage.path().to_str().expect("UTF-8");
        let fill =
            |text: &String| text.replace("ADDRESS", &address.to_string()).replace("STORAGE", directory);
        let log = std::fs::File::create(storage.path().with_extension("log")).expect("a log");
        let _gone_later = Scratch::existing(storage.path().with_extension("log"));
        let mut command = Command::new(program);
        command.args(arguments.iter().map(fill)).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone().expect("a descriptor"));
        let mut child = Guarded(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")));
        let log = storage.path().with_extension("log");
        let up = within(LONG, || {
            assert!(
                matches!(child.0.try_wait(), Ok(None)),
                "{program} has ended: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            TcpStream::connect(address).is_ok() && asked(address, ready).0 == 200
        });
        assert!(up, "{program} isn't ready: {}", std::fs::read_to_string(&log).unwrap_or_default());
        Self { _child: child, address, _storage: storage }
    }

    fn prometheus(config: &Path, more: &[&str]) -> Self {
        let config = format!("--config.file={}", config.display());
        let fixed = [config.as_str(), "--web.listen-address=ADDRESS"];
        Self::start("prometheus", &strings(&[&fixed, more].concat()), &[], "/-/ready")
    }

    fn victoria_metrics(more: &[&str]) -> Self {
        let fixed = ["-httpListenAddr=ADDRESS", "-storageDataPath=STORAGE", "-search.latencyOffset=0s"];
        Self::start("victoria-metrics", &strings(&[&fixed, more].concat()), &[], "/health")
    }

    /// The newest value of each series that is selected, by its labels.
    fn query(&self, selector: &str) -> BTreeMap<BTreeMap<String, String>, f64> {
        let (status, body) = asked(self.address, &format!("/api/v1/query?query={}", encoded(selector)));
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).expect("the answer is JSON");
        let result = answer["data"]["result"].as_array().expect("a vector");
        let series = result.iter().map(|one| {
            let labels = serde_json::from_value(one["metric"].clone()).expect("labels");
            (labels, one["value"][1].as_str().and_then(|value| value.parse().ok()).expect("a value"))
        });
        series.collect()
    }

    fn has(&self, selector: &str) -> bool {
        !self.query(selector).is_empty()
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Status and body of an answer. HTTP/1.0, so that it comes in one piece.
fn asked(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LONG)).expect("a timeout can be set");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer comes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("the head has an end");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// What a page in the text format says. None of the values of a helper's labels holds a quote or a backslash.
fn series(page: &http::Answer) -> BTreeMap<BTreeMap<String, String>, f64> {
    let lines = page.text().lines().filter(|line| !line.starts_with('#'));
    let read = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, rest) = series.split_once('{').unwrap_or((series, ""));
        let mut labels = BTreeMap::from([("__name__".to_owned(), name.to_owned())]);
        for pair in rest.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once("=\"").expect("a label");
            let value = value.trim_end_matches('"');
            // An empty label is none.
            if !value.is_empty() {
                labels.insert(key.to_owned(), value.to_owned());
            }
        }
        (labels, value.parse().expect("a number"))
    });
    read.collect()
}

/// VictoriaMetrics keeps some twelve digits (a decimal mantissa per block of values). Prometheus keeps all.
const ROUNDED: f64 = 1e-9;
const EXACT: f64 = 0.0;

/// Checks that a server has the series of the text format and no others, and the same value where it doesn't change.
fn same_as_text(server: &Server, watching: &Watching, instance: &str, tolerance: f64) {
    // A scrape lies between the two pages, and one after them shows its values.
    let before = series(&watching.get("/metrics"));
    let count = |server: &Server| {
        server.query("count_over_time(up{job=\"profiler\"}[10m])").values().copied().sum::<f64>()
    };
    let scrapes = count(server);
    assert!(within(LONG, || count(server) >= scrapes + 3.0), "it scrapes no more");
    let mut found = server.query("{job=\"profiler\"}");
    let after = series(&watching.get("/metrics"));
    found.retain(|labels, _| {
        let name = &labels["__name__"];
        name != "up" && !name.starts_with("scrape_")
    });
    let found: BTreeMap<_, _> = found
        .into_iter()
        .map(|(mut labels, value)| {
            assert_eq!(labels.remove("job").as_deref(), Some("profiler"));
            assert_eq!(labels.remove("instance").as_deref(), Some(instance), "{labels:?}");
            (labels, value)
        })
        .collect();
    assert!(found.len() > 100, "{}", found.len());
    assert_eq!(found.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    // What profiler does itself goes on, and goes up and down.
    let still = before
        .iter()
        .filter(|(labels, value)| labels.contains_key("target") && after.get(*labels) == Some(*value));
    let still: Vec<_> = still.collect();
    assert!(
        still.iter().filter(|(_, value)| **value > 0.0).count() > 20,
        "the helper was at work, and rests"
    );
    for (labels, value) in still {
        let difference = (found[labels] - value).abs();
        assert!(difference <= value.abs() * tolerance, "{labels:?}: {} for {value}", found[labels]);
    }
}

#[test]
fn prometheus_gets_openmetrics_compressed_and_has_what_the_text_says() {
    if !has_program("prometheus") {
        return;
    }
    let Some((_helper, watching)) = observed() else { return };
    let (endpoint, heard) = eavesdrop(watching.address());
    let (_directory, config) = adapted("prometheus.yml", endpoint, &[]);
    let server = Server::prometheus(&config, &["--storage.tsdb.path=STORAGE"]);
    assert!(within(LONG, || server.has("profiler_target_up == 1")), "nothing is there");
    same_as_text(&server, &watching, &endpoint.to_string(), EXACT);
    let heard = heard.lock().expect("nobody panics");
    assert!(
        heard.has(
            "Accept: application/openmetrics-text;version=1.0.0",
            &format!("Content-Type: {OPENMETRICS}")
        )
    );
    assert!(heard.has("Accept-Encoding: gzip", "Content-Encoding: gzip"));
    // Only OpenMetrics tells units and infos, so this was understood and not only received.
    let (_, metadata) = asked(server.address, "/api/v1/targets/metadata");
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    let about = |metric: &str| {
        let all = metadata["data"].as_array().expect("a list");
        let one = all
            .iter()
            .find(|one| one["metric"] == metric)
            .unwrap_or_else(|| panic!("no {metric}: {metadata}"));
        (
            one["type"].as_str().unwrap_or_default().to_owned(),
            one["unit"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let pair = |kind: &str, unit: &str| (kind.to_owned(), unit.to_owned());
    assert_eq!(about("profiler_allocated_bytes"), pair("counter", "bytes"));
    assert_eq!(about("profiler_stall_seconds"), pair("histogram", "seconds"));
    assert_eq!(about("profiler_build"), pair("info", ""));
    // The bounds of the histogram are numbers to it: a quantile has a value (NaN while nothing has waited) only then.
    let buckets = "sum by (le) (profiler_stall_seconds_bucket)";
    assert!(server.has(&format!("histogram_quantile(0.9, {buckets})")));
    let words = format!("label_replace({buckets}, \"le\", \"up to $1\", \"le\", \"(.*)\")");
    assert!(!server.has(&format!("histogram_quantile(0.9, {words})")), "a quantile of words");
}

#[test]
fn victoria_metrics_has_what_the_text_says() {
    if !has_program("victoria-metrics") {
        return;
    }
    let Some((_helper, watching)) = observed() else { return };
    let (endpoint, heard) = eavesdrop(watching.address());
    let (from, to) = usual_port(endpoint);
    let (_directory, config) = adapted("victoria-metrics.yml", endpoint, &[(from, &to)]);
    let server = Server::victoria_metrics(&[&format!("-promscrape.config={}", config.display())]);
    assert!(within(LONG, || server.has("profiler_target_up == 1")), "nothing is there");
    same_as_text(&server, &watching, "127.0.0.1", ROUNDED);
    let heard = heard.lock().expect("nobody panics");
    assert!(heard.has("Accept-Encoding: gzip", "Content-Encoding: gzip"));
    assert!(heard.has("GET /metrics", &format!("Content-Type: {TEXT}")));
}

/// Behind NAT: Prometheus beside profiler as an agent, and one that it sends to.
#[test]
fn an_agent_of_prometheus_sends_what_it_pulls() {
    if !has_program("prometheus") {
        return;
    }
    let Some((_helper, watching)) = observed() else { return };
    let empty = Scratch::name("empty.yml");
    std::fs::write(empty.path(), "global: {}\n").expect("the build directory can be written");
    let receiver = Server::prometheus(
        empty.path(),
        &["--storage.tsdb.path=STORAGE", "--web.enable-remote-write-receiver"],
    );
    let url = format!("http://{}/api/v1/write", receiver.address);
    let changes = [("https://metrics.example.com/api/v1/write", url.as_str())];
    let (_directory, config) = adapted("prometheus-agent.yml", watching.address(), &changes);
    let arguments = [
        &format!("--config.file={}", config.display()),
        "--web.listen-address=ADDRESS",
        "--enable-feature=agent,expand-external-labels",
        "--storage.agent.path=STORAGE",
    ];
    let _agent = Server::start("prometheus", &strings(&arguments), &[("HOSTNAME", "cellar")], "/-/ready");
    // Not the usual port: it stays.
    let instance = format!("cellar:{}", watching.address().port());
    let wanted = format!("profiler_target_up{{job=\"profiler\",instance=\"{instance}\",machine=\"\"}} == 1");
    assert!(within(LONG, || receiver.has(&wanted)), "{:?}", receiver.query("profiler_target_up"));
    same_as_text(&receiver, &watching, &instance, EXACT);
}

/// The same with VictoriaMetrics' own.
#[test]
fn vmagent_sends_what_it_pulls() {
    if !has_program("vmagent") || !has_program("victoria-metrics") {
        return;
    }
    let Some((_helper, watching)) = observed() else { return };
    let receiver = Server::victoria_metrics(&[]);
    let (from, to) = usual_port(watching.address());
    let (_directory, config) = adapted("vmagent.yml", watching.address(), &[(from, &to)]);
    let arguments = [
        &format!("-promscrape.config={}", config.display()),
        "-httpListenAddr=ADDRESS",
        "-remoteWrite.tmpDataPath=STORAGE",
        "-remoteWrite.maxDiskUsagePerURL=1GB",
        &format!("-remoteWrite.url=http://{}/api/v1/write", receiver.address),
    ];
    let _agent = Server::start("vmagent", &strings(&arguments), &[("HOSTNAME", "cellar")], "/health");
    let wanted = "profiler_target_up{job=\"profiler\",instance=\"cellar\"} == 1";
    assert!(within(LONG, || receiver.has(wanted)), "{:?}", receiver.query("profiler_target_up"));
    same_as_text(&receiver, &watching, "cellar", ROUNDED);
}

/// The instances that a server knows it must ask. Nobody has to answer it.
fn instances(server: &Server) -> Vec<String> {
    let (_, body) = asked(server.address, "/api/v1/targets?state=active");
    let answer: Value = serde_json::from_str(&body).expect("the answer is JSON");
    let targets = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> = targets
        .iter()
        .map(|target| target["labels"]["instance"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn two_profilers_on_a_machine_stay_apart_and_the_example_of_machines_is_read_without_its_comment_signs() {
    if !has_program("prometheus") || !has_program("victoria-metrics") || !has_program("vmagent") {
        return;
    }
    let nobody = SocketAddr::from(([127, 0, 0, 1], 7667));
    let second = ("[\"127.0.0.1:7667\"]", "[\"127.0.0.1:7667\", \"127.0.0.1:7668\"]");
    let here = ["127.0.0.1", "127.0.0.1:7668"];
    let all = ["127.0.0.1", "127.0.0.1:7668", "db-1.invalid", "web-1.invalid", "web-2.invalid"];
    for program in ["prometheus", "victoria-metrics"] {
        for (example, wanted) in [(false, &here[..]), (true, &all[..])] {
            let (directory, config) = adapted(&format!("{program}.yml"), nobody, &[second]);
            if example {
                std::fs::write(directory.path().join("machines.yml"), machines_of_the_example())
                    .expect("the build directory can be written");
            }
            let server = if program == "prometheus" {
                Server::prometheus(&config, &["--storage.tsdb.path=STORAGE"])
            } else {
                Server::victoria_metrics(&[&format!("-promscrape.config={}", config.display())])
            };
            assert!(within(LONG, || instances(&server) == wanted), "{program}: {:?}", instances(&server));
        }
    }
    let (_directory, config) = adapted("vmagent.yml", nobody, &[second]);
    let arguments = [
        &format!("-promscrape.config={}", config.display()),
        "-httpListenAddr=ADDRESS",
        "-remoteWrite.tmpDataPath=STORAGE",
        "-remoteWrite.url=http://127.0.0.1:1/",
    ];
    let agent = Server::start("vmagent", &strings(&arguments), &[("HOSTNAME", "cellar")], "/health");
    assert!(within(LONG, || instances(&agent) == ["cellar", "cellar:7668"]), "{:?}", instances(&agent));
}

#[test]
fn every_configuration_is_valid() {
    if !has_program("promtool") || !has_program("victoria-metrics") {
        return;
    }
    for (name, more) in [("prometheus.yml", &[][..]), ("prometheus-agent.yml", &["--agent"])] {
        let ended = run(Command::new("promtool").args(["check", "config"]).args(more).arg(shipped(name)));
        assert!(ended.status.success(), "{name}: {:#?}", ended.complaints());
    }
    let checks = [
        ("victoria-metrics", "victoria-metrics.yml", "-promscrape.config.dryRun"),
        ("vmagent", "victoria-metrics.yml", "-dryRun"),
        ("vmagent", "vmagent.yml", "-dryRun"),
    ];
    for (program, name, check) in checks {
        let argument = format!("-promscrape.config={}", shipped(name).display());
        let ended = run(Command::new(program).args([&argument, check]));
        assert!(ended.status.success(), "{program}: {:#?}", ended.complaints());
    }
}
