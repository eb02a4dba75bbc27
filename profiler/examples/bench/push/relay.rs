//! Somebody between, who counts bytes.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;

/// Bytes that have passed, in both directions, without those of TCP and IP.
#[derive(Default)]
pub struct Bytes {
    there: AtomicU64,
    back: AtomicU64,
}

impl Bytes {
    pub fn read(&self) -> (u64, u64) {
        (self.there.load(Ordering::Relaxed), self.back.load(Ordering::Relaxed))
    }
}

/// Passes on to the server whoever connects; ends with this process.
pub fn start(server: SocketAddr) -> anyhow::Result<(SocketAddr, Arc<Bytes>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    let address = listener.local_addr()?;
    let bytes = Arc::new(Bytes::default());
    let counted = Arc::clone(&bytes);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(server) else { continue };
            let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
                continue;
            };
            let there = Arc::clone(&counted);
            let back = Arc::clone(&counted);
            std::thread::spawn(move || pass(from_client, server, &there.there));
            std::thread::spawn(move || pass(from_server, client, &back.back));
        }
    });
    Ok((address, bytes))
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _shut = to.shutdown(Shutdown::Write);
}
