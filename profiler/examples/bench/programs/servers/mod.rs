//! Servers of others under the load generators that belong to them. All on loopback or a socket of their own, with directories of their
//! own.

pub mod nginx;
pub mod postgres;
pub mod redis;

use std::{
    fs::File,
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::child::{self, Running};

/// A server may take this long to begin.
const BEGIN: Duration = Duration::from_secs(20);

/// Where the server writes what it has to say.
fn log_to(command: &mut Command, directory: &Path) -> anyhow::Result<()> {
    let log = File::create(directory.join("log")).context("can't make a log")?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(())
}

/// The last that it said.
fn last_word(directory: &Path) -> String {
    let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
    log.lines().last().unwrap_or_default().to_owned()
}

/// Waits until somebody answers at a port of loopback.
fn answers(server: &mut Running, port: u16, name: &str, directory: &Path) -> anyhow::Result<()> {
    child::wait_for(name, BEGIN, || {
        if server.has_ended()? {
            bail!("{name} ended at its start: {}", last_word(directory));
        }
        Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
    })
}
