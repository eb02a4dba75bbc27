//! The smallest client that will do.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::LONG;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is UTF-8")
    }
}

/// Asks for a path.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).expect("profiler listens");
    stream.set_read_timeout(Some(LONG)).expect("a timeout can be set");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .expect("it is sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer comes");
    let took = began.elapsed();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("the head has an end");
    let head = String::from_utf8(bytes[..end].to_vec()).expect("the head is text");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let answer = Answer { status: status.expect("a status"), headers, body: bytes[end + 4..].to_vec(), took };
    let length = answer.header("content-length").and_then(|text| text.parse().ok());
    assert_eq!(length, Some(answer.body.len()), "the whole body, in one piece");
    answer
}
