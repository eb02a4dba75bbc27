//! A real InfluxDB 1 (Debian's `influxdb`): on loopback, in a directory of its own, ended with this value.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{
    LONG, Scratch,
    child::Guarded,
    has_program,
    influx_json::{self, Json},
    lines::{Book, Series, Value},
    within,
};

/// A server.
pub struct Influxd {
    child: Option<Guarded>,
    directory: Scratch,
    port: u16,
    /// Who asks, where everybody has to say who they are.
    user: Option<(String, String)>,
}

/// A part of an answer: rows that have the same tags.
pub struct Rows {
    pub name: String,
    pub tags: BTreeMap<String, String>,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Json>>,
}

/// A port that nobody has, and nobody gets by chance: below those that the kernel hands out.
pub fn quiet_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1_000 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id().wrapping_mul(61);
        let port = 20_000 + u16::try_from(number % 12_000).expect("it is small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("there is no port to be had");
}

impl Influxd {
    /// Starts a server; these lines are added to the section `[http]` of its configuration. `None`: there is none here; the
    /// test is skipped then.
    pub fn start(http: &str) -> Option<Self> {
        if !has_program("influxd") {
            return None;
        }
        let directory = Scratch::directory("influxd");
        for _ in 0..10 {
            let port = quiet_port();
            let configuration = configuration(directory.path(), port, quiet_port(), http);
            std::fs::write(directory.path().join("influxd.conf"), configuration).expect("it can be written");
            let mut child = spawn(directory.path());
            // Another one may have been faster with the port.
            if within(LONG, || answers(port) || !matches!(child.0.try_wait(), Ok(None)))
                && matches!(child.0.try_wait(), Ok(None))
            {
                return Some(Self { child: Some(child), directory, port, user: None });
            }
        }
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        panic!("influxd doesn't start: {log}");
    }

    /// The same with a database.
    pub fn with_database(http: &str, name: &str) -> Option<Self> {
        let server = Self::start(http)?;
        server.ask("", &format!("CREATE DATABASE \"{name}\""));
        Some(server)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// From now on, this is who asks.
    pub fn asks_as(&mut self, user: &str, password: &str) {
        self.user = Some((user.to_owned(), password.to_owned()));
    }

    /// Kills it: it can't write down what it hasn't yet.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.signal(libc::SIGKILL);
            child.wait(LONG);
        }
    }

    /// Ends it in good order.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.signal(libc::SIGTERM);
            child.wait(LONG);
        }
    }

    /// Starts it again, with what it has.
    pub fn restart(&mut self) {
        let mut child = spawn(self.directory.path());
        let up = within(LONG, || answers(self.port) || !matches!(child.0.try_wait(), Ok(None)));
        assert!(up && matches!(child.0.try_wait(), Ok(None)), "influxd doesn't start again");
        self.child = Some(child);
    }

    /// Takes away all that it has.
    pub fn empty(&mut self) {
        self.stop();
        for part in ["meta", "data", "wal"] {
            std::fs::remove_dir_all(self.directory.path().join(part)).expect("it had a directory");
        }
    }

    /// Asks something, and wants no error.
    pub fn ask(&self, database: &str, question: &str) -> Vec<Rows> {
        let question = format!("db={}&epoch=ns&chunked=true&q={}", encode(database), encode(question));
        let (status, body) = self.post("/query", &question, "application/x-www-form-urlencoded");
        let body = String::from_utf8(body).expect("JSON is text");
        assert_eq!(status, 200, "{question}: {body}");
        influx_json::documents(&body).iter().flat_map(|answer| rows(&question, answer)).collect()
    }

    /// Writes lines past everybody else. The status.
    pub fn write(&self, database: &str, lines: &str) -> u16 {
        self.post(&format!("/write?db={}", encode(database)), lines, "text/plain").0
    }

    fn post(&self, path: &str, body: &str, kind: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address()).expect("influxd listens");
        stream.set_read_timeout(Some(LONG)).expect("a timeout can be set");
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: influxd\r\nConnection: close\r\n");
        if let Some((user, password)) = &self.user {
            let mark = if path.contains('?') { '&' } else { '?' };
            head = head.replacen(
                " HTTP/1.1",
                &format!("{mark}u={}&p={} HTTP/1.1", encode(user), encode(password)),
                1,
            );
        }
        head += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        // One that refuses may do so before it has heard everything.
        let _sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        let mut answer = Vec::new();
        let _read = stream.read_to_end(&mut answer);
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            return (0, Vec::new());
        };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = answer.split_off(end + 4);
        let chunked = head.contains("transfer-encoding: chunked");
        (status, if chunked { join(&body) } else { body })
    }

    /// The types of a measurement's fields, as the server says. There is one for each.
    pub fn types(&self, database: &str, measurement: &str) -> BTreeMap<String, String> {
        let mut types = BTreeMap::new();
        for rows in self.ask(database, &format!("SHOW FIELD KEYS FROM {}", quoted(measurement))) {
            for row in rows.rows {
                let (field, kind) = (row[0].text().to_owned(), row[1].text().to_owned());
                let before = types.insert(field.clone(), kind);
                assert_eq!(before, None, "{measurement}: {field} has two types");
            }
        }
        types
    }

    pub fn measurements(&self, database: &str) -> Vec<String> {
        let all = self.ask(database, "SHOW MEASUREMENTS");
        all.iter().flat_map(|rows| &rows.rows).map(|row| row[0].text().to_owned()).collect()
    }

    /// Every point of a measurement.
    pub fn points(&self, database: &str, measurement: &str) -> Book {
        let types = self.types(database, measurement);
        let mut book = Book::default();
        for Rows { name, tags, columns, rows } in
            self.ask(database, &format!("SELECT * FROM {} GROUP BY *", quoted(measurement)))
        {
            // Series that lack a tag have it empty here.
            let tags = tags.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            let series: Series = (name, tags);
            for row in rows {
                let mut fields = BTreeMap::new();
                for (column, cell) in columns.iter().zip(&row).skip(1) {
                    if let Some(value) = value(cell, &types[column]) {
                        fields.insert(column.clone(), value);
                    }
                }
                let time = row[0].number().parse().expect("a time is a whole number");
                book.insert(series.clone(), time, fields);
            }
        }
        book
    }

    /// Every point there is.
    pub fn everything(&self, database: &str) -> Book {
        let mut all = Book::default();
        for measurement in self.measurements(database) {
            all.extend(self.points(database, &measurement));
        }
        all
    }
}

fn spawn(directory: &Path) -> Guarded {
    let log = std::fs::File::create(directory.join("log")).expect("a log can be made");
    let mut command = Command::new("influxd");
    command.arg("run").arg("-config").arg(directory.join("influxd.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Guarded(command.spawn().expect("influxd starts"))
}

fn configuration(directory: &Path, port: u16, other: u16, http: &str) -> String {
    let at = directory.display();
    format!(
        "reporting-disabled = true\nbind-address = \"127.0.0.1:{other}\"\n\
         [meta]\ndir = \"{at}/meta\"\nlogging-enabled = false\n\
         [data]\ndir = \"{at}/data\"\nwal-dir = \"{at}/wal\"\nquery-log-enabled = false\nmax-series-per-database = 0\n\
         max-values-per-tag = 0\n\
         [monitor]\nstore-enabled = false\n[subscriber]\nenabled = false\n[continuous_queries]\nenabled = false\n\
         [retention]\nenabled = false\n[shard-precreation]\nenabled = false\n[logging]\nlevel = \"error\"\n\
         [http]\nbind-address = \"127.0.0.1:{port}\"\nlog-enabled = false\n{http}\n"
    )
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.write_all(b"GET /ping HTTP/1.1\r\nHost: influxd\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 204")
}

fn rows(question: &str, answer: &Json) -> Vec<Rows> {
    assert!(answer.get("error").is_none(), "{question}: {answer:?}");
    let mut all = Vec::new();
    for result in answer.get("results").map_or(&[][..], Json::items) {
        assert!(result.get("error").is_none(), "{question}: {result:?}");
        for series in result.get("series").map_or(&[][..], Json::items) {
            let text = |key| series.get(key).map_or("", Json::text).to_owned();
            let tags = series.get("tags").map_or(&[][..], Json::members);
            let columns = series.get("columns").map_or(&[][..], Json::items);
            let values = series.get("values").map_or(&[][..], Json::items);
            all.push(Rows {
                name: text("name"),
                tags: tags.iter().map(|(key, value)| (key.clone(), value.text().to_owned())).collect(),
                columns: columns.iter().map(|column| column.text().to_owned()).collect(),
                rows: values.iter().map(|row| row.items().to_vec()).collect(),
            });
        }
    }
    all
}

fn value(cell: &Json, kind: &str) -> Option<Value> {
    Some(match (cell, kind) {
        (Json::Null, _) => return None,
        (Json::Number(text), "float") => Value::Float(text.parse::<f64>().expect("a number").to_bits()),
        (Json::Number(text), "integer") => Value::Integer(text.parse().expect("a whole number")),
        (Json::Text(text), "string") => Value::Text(text.clone()),
        (Json::Boolean(boolean), "boolean") => Value::Boolean(*boolean),
        _ => panic!("{cell:?} is said to be a {kind}"),
    })
}

/// A name as InfluxQL writes it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

fn encode(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}

/// A body in chunks (RFC 9112, 7.1), in one.
fn join(mut chunks: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = chunks.windows(2).position(|window| window == b"\r\n") {
        let size =
            std::str::from_utf8(&chunks[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.expect("a chunk has a size");
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&chunks[end + 2..end + 2 + size]);
        chunks = &chunks[end + 2 + size + 2..];
    }
    whole
}
