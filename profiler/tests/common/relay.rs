//! A relay between profiler and influxd that writes down what goes through, and can be down.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use flate2::read::MultiGzDecoder;

use super::{LONG, influxd::quiet_port, lines::Book};

/// A request to write, and what came of it.
#[derive(Clone, Debug)]
pub struct Written {
    pub lines: String,
    /// `None`: there was no answer.
    pub status: Option<u16>,
}

/// The relay. Each request gets a connection of its own to the server.
pub struct Relay {
    port: u16,
    to: SocketAddr,
    written: Arc<Mutex<Vec<Written>>>,
    up: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Relay {
    /// Begins to pass on what comes.
    pub fn to(server: SocketAddr) -> Self {
        let mut relay = Self { port: quiet_port(), to: server, written: Arc::default(), up: None };
        relay.up();
        relay
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All requests to write so far, in the order of their answers.
    pub fn written(&self) -> Vec<Written> {
        lock(&self.written).clone()
    }

    /// The lines that were acknowledged.
    pub fn acknowledged(&self) -> Book {
        let mut book = Book::default();
        for one in self.written().iter().filter(|one| one.status == Some(204)) {
            book.read(&one.lines);
        }
        book
    }

    pub fn count_acknowledged(&self) -> usize {
        lock(&self.written).iter().filter(|one| one.status == Some(204)).count()
    }

    /// Nobody listens any more; connections are refused.
    pub fn down(&mut self) {
        if let Some((stop, thread)) = self.up.take() {
            stop.store(true, Ordering::Relaxed);
            let _ended = thread.join();
        }
    }

    pub fn up(&mut self) {
        if self.up.is_some() {
            return;
        }
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("nobody else has the port");
        listener.set_nonblocking(true).expect("it can be told");
        let stop = Arc::new(AtomicBool::new(false));
        let (written, to, stopped) = (Arc::clone(&self.written), self.to, Arc::clone(&stop));
        let accept = move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        let written = Arc::clone(&written);
                        std::thread::spawn(move || pass_on(client, to, &written));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        };
        self.up = Some((stop, std::thread::spawn(accept)));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.down();
    }
}

/// One request. Whatever breaks ends it.
fn pass_on(client: TcpStream, to: SocketAddr, written: &Mutex<Vec<Written>>) -> Option<()> {
    client.set_nonblocking(false).ok()?;
    client.set_read_timeout(Some(LONG)).ok()?;
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (mut head, mut length, mut packed) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        packed |= lower.starts_with("content-encoding: gzip");
        if line == "\r\n" {
            break;
        }
        if !lower.starts_with("connection:") {
            head += &line;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = ask(to, &head, &body);
    if head.starts_with("POST /write") {
        let mut lines = String::new();
        let read = if packed {
            MultiGzDecoder::new(&body[..]).read_to_string(&mut lines)
        } else {
            (&body[..]).read_to_string(&mut lines)
        };
        read.expect("what profiler sends can be unpacked");
        let status =
            answer.as_ref().and_then(|answer| std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok());
        // Before profiler knows.
        lock(written).push(Written { lines, status });
    }
    (&client).write_all(&answer?).ok()
}

/// The whole answer, which ends with the connection.
fn ask(to: SocketAddr, head: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(to).ok()?;
    server.set_read_timeout(Some(LONG)).ok()?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
    server.write_all(body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
