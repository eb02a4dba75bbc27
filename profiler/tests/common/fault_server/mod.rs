//! A server on loopback that plays InfluxDB 1.6, 2 or 3, and misbehaves as it is told. It keeps what it stored, and so knows the
//! truth: what it acknowledged, and whether one point was ever written with two values.

// Every test program uses a part of this.
#![allow(dead_code)]

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use flate2::read::MultiGzDecoder;

pub mod points;

pub use points::{Play, Store};

/// What happens to one write.
#[derive(Clone, Debug)]
pub enum Act {
    /// As the server that is played does.
    Serve,
    /// Nothing is stored, this is said: status, headers, body.
    Say(u16, Vec<(&'static str, String)>, String),
    /// Nothing is stored, these bytes are sent and the connection is closed.
    Raw(Vec<u8>),
    /// It is stored, but these bytes are sent instead of the answer, and the connection is closed.
    StoreThenRaw(Vec<u8>),
    /// The connection is closed after so many bytes of the body: with what is unread, that is a reset.
    ResetAfter(usize),
    /// Stored, and then the connection is closed without a word.
    StoreThenClose,
    /// So long nothing is said, and then the connection is closed.
    Silence(Duration),
    /// After so long it serves.
    Late(Duration),
    /// It serves so many bytes (unpacked) in a second.
    Slow(u64),
    /// The answer of the played server, byte by byte, with such pauses.
    Trickle(Duration),
}

/// What the server is told to be.
#[derive(Clone, Debug)]
pub struct Role {
    pub play: Play,
    /// The value that `Authorization` must have.
    pub authorization: Option<String>,
    /// `/ping` and `/health` want to know it, too.
    pub ping_wants_authorization: bool,
    /// What there is; anything, if this is empty.
    pub databases: Vec<String>,
    /// Bytes of a body as it is transferred (v1: `max-body-size`).
    pub most_packed: usize,
    /// Bytes of a body once it is unpacked (v3: `max request size`).
    pub most_raw: usize,
    /// Instead of the answer to a question, by path.
    pub questions: Vec<(&'static str, Act)>,
}

impl Role {
    pub fn new(play: Play) -> Self {
        Self {
            play,
            authorization: None,
            ping_wants_authorization: false,
            databases: Vec::new(),
            most_packed: 25_000_000,
            most_raw: 10 << 20,
            questions: Vec::new(),
        }
    }
}

/// A request that came in.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Unpacked.
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    fn query(&self, key: &str) -> Option<&str> {
        let query = self.target.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }
}

struct State {
    role: Role,
    acts: VecDeque<Act>,
    /// What happens to writes that nothing else was planned for.
    always: Act,
    store: Store,
    seen: Vec<Seen>,
}

/// The server. Ends when it is dropped.
pub struct FaultServer {
    address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FaultServer {
    pub fn start(role: Role) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            role,
            acts: VecDeque::new(),
            always: Act::Serve,
            store: Store::default(),
            seen: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
                    std::thread::spawn(move || connection(stream.unwrap(), &state, &stop));
                }
            }
        });
        Self { address, state, stop, thread: Some(thread) }
    }

    pub fn playing(play: Play) -> Self {
        Self::start(Role::new(play))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What happens to the next writes, one after the other.
    pub fn plan(&self, acts: impl IntoIterator<Item = Act>) {
        self.lock().acts.extend(acts);
    }

    /// What happens to all writes from now on that nothing else is planned for.
    pub fn always(&self, act: Act) {
        self.lock().always = act;
    }

    pub fn role(&self, change: impl FnOnce(&mut Role)) {
        change(&mut self.lock().role);
    }

    pub fn store<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.lock().store)
    }

    /// Lines with this in them make the server fail.
    pub fn poison_with(&self, poison: &str) {
        self.lock().store.poison = Some(poison.to_owned());
    }

    /// So many series, and no more, are taken (v1, v2).
    pub fn limit_series(&self, most: usize) {
        self.lock().store.most_series = Some(most);
    }

    /// Nothing with more than so many lines is taken, for the cache is full (v1, v2).
    pub fn overload(&self, most: Option<usize>) {
        self.lock().store.most_lines = most;
    }

    /// The measurement has as many columns as there may be.
    pub fn fill(&self, measurement: &str) {
        self.lock().store.full.insert(measurement.to_owned());
    }

    /// Points before this are too old.
    pub fn keep_from(&self, oldest: i64) {
        self.lock().store.oldest = oldest;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    pub fn writes(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method == "POST").collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes who waits for connections.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Requests of one connection, until somebody closes it.
fn connection(mut stream: TcpStream, state: &Mutex<State>, stop: &AtomicBool) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while !stop.load(Ordering::SeqCst) {
        match request(&mut stream, state, stop) {
            Some(true) => {}
            Some(false) | None => return,
        }
    }
}

/// One request. `Some(true)`: the connection stays open.
fn request(stream: &mut TcpStream, state: &Mutex<State>, stop: &AtomicBool) -> Option<bool> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, &mut bytes, 1, stop)?;
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ').map(str::to_owned);
    let mut seen = Seen { method: first.next()?, target: first.next()?, ..Seen::default() };
    let header =
        |line: &str| line.split_once(':').map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()));
    seen.headers = lines.filter_map(header).collect();
    let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut guard = state.lock().unwrap();
    let act = if seen.method == "POST" {
        let always = guard.always.clone();
        guard.acts.pop_front().unwrap_or(always)
    } else {
        let asked = guard.role.questions.iter().find(|(path, _)| *path == seen.path());
        asked.map_or(Act::Serve, |(_, act)| act.clone())
    };
    drop(guard);
    let read = if let Act::ResetAfter(bytes) = act { bytes.min(length) } else { length };
    while bytes.len() < head + read {
        let missing = head + read - bytes.len();
        more(stream, &mut bytes, missing, stop)?;
    }
    if let Act::ResetAfter(_) = act {
        // What was sent meanwhile and isn't read makes a reset of the close.
        std::thread::sleep(Duration::from_millis(30));
        return None;
    }
    let packed = bytes[head..].to_vec();
    let mut body = Vec::new();
    if seen.header("content-encoding") == Some("gzip") {
        MultiGzDecoder::new(&packed[..]).read_to_end(&mut body).unwrap();
    } else {
        body.clone_from(&packed);
    }
    seen.body = String::from_utf8(body).unwrap();
    let mut guard = state.lock().unwrap();
    guard.seen.push(seen.clone());
    let State { role, store, .. } = &mut *guard;
    match act {
        Act::Serve => {
            let answer = answer(role, store, &seen, packed.len());
            drop(guard);
            stream.write_all(&answer).ok()?;
            return Some(true);
        }
        Act::Say(status, headers, body) => {
            drop(guard);
            stream.write_all(&http(status, &headers, &body)).ok()?;
            return Some(true);
        }
        Act::Raw(bytes) => {
            drop(guard);
            stream.write_all(&bytes).ok()?;
        }
        Act::StoreThenRaw(bytes) => {
            answer(role, store, &seen, packed.len());
            drop(guard);
            stream.write_all(&bytes).ok()?;
        }
        Act::StoreThenClose => {
            answer(role, store, &seen, packed.len());
        }
        Act::Silence(time) => {
            drop(guard);
            pause(time, stop);
        }
        Act::Late(_) | Act::Slow(_) => {
            drop(guard);
            let time = match act {
                Act::Slow(rate) => Duration::from_secs_f64(seen.body.len() as f64 / rate as f64),
                Act::Late(time) => time,
                _ => Duration::ZERO,
            };
            pause(time, stop);
            let mut guard = state.lock().unwrap();
            let State { role, store, .. } = &mut *guard;
            let answer = answer(role, store, &seen, packed.len());
            drop(guard);
            stream.write_all(&answer).ok()?;
            return Some(true);
        }
        Act::Trickle(time) => {
            let answer = answer(role, store, &seen, packed.len());
            drop(guard);
            for byte in answer {
                stream.write_all(&[byte]).ok()?;
                pause(time, stop);
            }
        }
        Act::ResetAfter(_) => {}
    }
    let _closed = stream.shutdown(Shutdown::Both);
    Some(false)
}

fn pause(time: Duration, stop: &AtomicBool) {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end && !stop.load(Ordering::SeqCst) {
        std::thread::sleep(time.min(Duration::from_millis(20)));
    }
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>, most: usize, stop: &AtomicBool) -> Option<()> {
    let mut buffer = vec![0; most.min(64 << 10)];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(read) => {
                bytes.extend_from_slice(&buffer[..read]);
                return Some(());
            }
            Err(_) if stop.load(Ordering::SeqCst) => return None,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(_) => return None,
        }
    }
}

/// An answer with the right length.
pub fn http(status: u16, headers: &[(&'static str, String)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Words\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if status != 204 {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    (text + "\r\n" + if status == 204 { "" } else { body }).into_bytes()
}

/// As the played server does.
fn answer(role: &Role, store: &mut Store, seen: &Seen, packed: usize) -> Vec<u8> {
    let allowed =
        role.authorization.is_none() || role.authorization.as_deref() == seen.header("authorization");
    let mut headers = match role.play {
        Play::V1 { .. } => {
            vec![("X-Influxdb-Version", "1.6.7~rc0".to_owned()), ("X-Influxdb-Build", "OSS".to_owned())]
        }
        Play::V2 => vec![("X-Influxdb-Version", "v2.7.1".to_owned()), ("X-Influxdb-Build", "OSS".to_owned())],
        // 3.6 tells its build only where it lets somebody in.
        Play::V3 if allowed => vec![("x-influxdb-build", "Core".to_owned())],
        Play::V3 => Vec::new(),
    };
    headers.push(("Content-Type", "application/json".to_owned()));
    let say = |status, body: &str| http(status, &headers, body);
    let error = |status, words: &str| say(status, &role.play.error(words));
    if seen.method == "GET" {
        return match (role.play, seen.path()) {
            _ if role.ping_wants_authorization && !allowed => error(401, "who asks?"),
            (Play::V1 { .. } | Play::V2, "/ping") => say(204, ""),
            (Play::V3, "/ping") => say(200, r#"{"version":"3.6.0","revision":"abc","process_id":"x"}"#),
            (Play::V2, "/health") => {
                say(200, r#"{"name":"influxdb","message":"ready","status":"pass","version":"v2.7.1"}"#)
            }
            _ => http(404, &headers, "404 page not found\n"),
        };
    }
    let (path, database, precision) = match role.play {
        Play::V1 { .. } => ("/write", "db", "ns"),
        Play::V2 => ("/api/v2/write", "bucket", "ns"),
        Play::V3 => ("/api/v3/write_lp", "db", "nanosecond"),
    };
    let database = seen.query(database).unwrap_or_default();
    let org = role.play != Play::V2 || seen.query("org").is_some_and(|org| !org.is_empty());
    if seen.path() != path {
        return http(404, &headers, "404 page not found\n");
    }
    assert_eq!(seen.query("precision"), Some(precision), "said, and in this dialect");
    assert!(!seen.body.is_empty(), "an empty body is an error for v3");
    if !allowed {
        return error(401, "authorization failed");
    }
    if !org || !role.databases.is_empty() && !role.databases.iter().any(|known| known == database) {
        return error(404, &format!("database not found: \"{database}\""));
    }
    match role.play {
        _ if packed > role.most_packed => return error(413, "Request Entity Too Large"),
        Play::V3 if seen.body.len() > role.most_raw => {
            return error(500, &format!("max request size ({} bytes) exceeded", role.most_raw));
        }
        Play::V2 if seen.body.len() > role.most_raw => return error(413, "unable to read data"),
        _ => {}
    }
    let (status, body) = store.write(role.play, &seen.body);
    say(status, &body)
}
