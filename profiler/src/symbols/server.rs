//! A debuginfod server: `GET URL/buildid/<id>/debuginfo` (debuginfod(8)).

use std::{
    fs::File,
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use ureq::{
    Agent,
    http::Uri,
    tls::{RootCerts, TlsConfig},
};

use super::{FILE_LIMIT, SymbolsError, nameless_file};

/// After so many failures to reach the server in a row nobody tries any more.
const MAX_FAILURES: u32 = 3;
/// So often a download says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// How much may be asked of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until there is a connection.
    pub connect: Duration,
    /// For a file, from the first step to the last byte.
    pub total: Duration,
    /// Bytes of a file.
    pub size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), total: Duration::from_secs(90), size: FILE_LIMIT }
    }
}

/// One server.
pub struct Server {
    agent: Agent,
    url: String,
    limits: Limits,
    failures: u32,
}

impl Server {
    /// Takes note of the address. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// If it is no `http://` or `https://` address.
    pub fn new(url: &str, limits: Limits) -> Result<Self, SymbolsError> {
        let url = url.trim().trim_end_matches('/');
        let wrong =
            || SymbolsError::Server(format!("`{url}` is no address like https://debuginfod.debian.net"));
        let address: Uri = url.parse().map_err(|_| wrong())?;
        if !matches!(address.scheme_str(), Some("http" | "https")) || address.host().is_none_or(str::is_empty)
        {
            return Err(wrong());
        }
        // Roots of trust are the machine's own, so that a company's server works as well.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(address.scheme_str() == Some("https"))
            .max_redirects(3)
            .timeout_connect(Some(limits.connect))
            .timeout_global(Some(limits.total))
            .max_idle_connections(0)
            .user_agent(concat!("profiler/", env!("CARGO_PKG_VERSION")));
        Ok(Self { agent: config.build().into(), url: url.to_owned(), limits, failures: 0 })
    }

    /// Where it has the debug file of a build.
    pub fn address_of(&self, build_id: &str) -> String {
        format!("{}/buildid/{build_id}/debuginfo", self.url)
    }

    /// Downloads a debug file. What is in it isn't looked at.
    pub(super) fn fetch(&mut self, build_id: &str) -> Result<File, SymbolsError> {
        if self.failures >= MAX_FAILURES {
            let reason = format!("it couldn't be reached {MAX_FAILURES} times and isn't asked any more");
            return Err(SymbolsError::Server(reason));
        }
        let address = self.address_of(build_id);
        tracing::info!("asking for symbols: {address}");
        let began = Instant::now();
        let result = self.download(&address, began);
        match &result {
            Ok((_, size)) => {
                tracing::info!("got {} KiB of symbols in {:.1} s", size >> 10, began.elapsed().as_secs_f32());
            }
            Err(error) => tracing::info!("no symbols from there: {error}"),
        }
        result.map(|(file, _)| file)
    }

    fn download(&mut self, address: &str, began: Instant) -> Result<(File, u64), SymbolsError> {
        let answer = self.agent.get(address).call();
        self.failures = match &answer {
            Ok(_) | Err(ureq::Error::StatusCode(_)) => 0,
            Err(_) => self.failures + 1,
        };
        let mut answer = answer.map_err(|error| match error {
            ureq::Error::StatusCode(404) => SymbolsError::Server("the server has none".to_owned()),
            ureq::Error::StatusCode(status) => SymbolsError::Server(format!("the server says {status}")),
            error => SymbolsError::Server(error.to_string()),
        })?;
        let too_large = |size| SymbolsError::TooLarge { size, limit: self.limits.size };
        if let Some(size) = answer.body().content_length().filter(|&size| size > self.limits.size) {
            return Err(too_large(size));
        }
        let mut file = nameless_file()?;
        let mut body = answer.body_mut().as_reader();
        let (mut size, mut said) = (0, Instant::now());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = body.read(&mut buffer).map_err(|error| SymbolsError::Server(error.to_string()))?;
            if read == 0 {
                return Ok((file, size));
            }
            size += read as u64;
            if size > self.limits.size {
                return Err(too_large(size));
            }
            // The agent's own limit counts waiting; bytes that come one by one never make it wait long.
            if began.elapsed() > self.limits.total {
                let reason = format!("not finished within {} s", self.limits.total.as_secs());
                return Err(SymbolsError::Server(reason));
            }
            file.write_all(&buffer[..read])?;
            if said.elapsed() > PROGRESS {
                said = Instant::now();
                tracing::info!("{} MiB of symbols so far", size >> 20);
            }
        }
    }
}
