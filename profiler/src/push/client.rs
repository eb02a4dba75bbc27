//! One batch to one server, over HTTP, in the dialect of each generation of InfluxDB.
//!
//! Blocking; for a thread of its own. Redirects are never followed: who answers must be who was named. A proxy is used as the
//! environment says (`ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, as in `ureq`), but never for this machine itself.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use ureq::{
    Agent, Body,
    http::{HeaderMap, HeaderValue, Response, Uri, header},
    tls::{RootCerts, TlsConfig},
};

use super::{
    delivery::Wire,
    policy::{self, Answer, Failure},
};

mod failure;
mod found;
mod secret;

pub use super::policy::Api;
pub use found::Found;
pub use secret::{Credentials, Secret};

/// Bytes of an answer's body that are read.
const BODY_LIMIT: usize = 64 << 10;
/// Bytes of an address, a name, a credential.
const NAME_LIMIT: usize = 4 << 10;

/// Why there can't be a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address isn't one. It isn't shown if it may hold a password.
    #[error("`{0}` is no address like http://127.0.0.1:8086")]
    Address(String),
    /// A user, password or token in the address: it would be in the list of processes and in logs.
    #[error(
        "the address of the server must not hold a user or password; give a file, or use the environment"
    )]
    CredentialsInAddress,
    /// `?` or `#` in the address.
    #[error(
        "the address of the server must end with its path; the database, organisation and precision are added to it"
    )]
    QueryInAddress,
    /// No database or bucket, or one with a name that can't be.
    #[error("the name of the database (or bucket) must not be empty, or longer than 4 KiB")]
    Database,
    /// v2 has buckets within organisations.
    #[error("InfluxDB 2 wants the name of the organisation, too")]
    Organisation,
    /// A password or token can't be read or can't be sent.
    #[error("{0}")]
    Secret(String),
}

/// Where to and as whom. No secret is ever in Debug output or a log line.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// `http(s)://host[:port][/prefix]`, without credentials and query.
    pub url: String,
    /// `None`: to be found out.
    pub api: Option<Api>,
    /// v1 and v3: the database; v2: the bucket.
    pub database: String,
    /// v2: the organisation.
    pub org: Option<String>,
    /// As whom.
    pub credentials: Credentials,
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not checked yet, perhaps.
        let url = if self.url.contains(['@', '?']) { "(hidden)" } else { &self.url };
        let mut debug = formatter.debug_struct("Server");
        debug.field("url", &url).field("api", &self.api).field("database", &self.database);
        debug.field("org", &self.org).field("credentials", &self.credentials).finish()
    }
}

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until there is a connection.
    pub connect: Duration,
    /// From the first step to the last byte of the answer.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), total: Duration::from_secs(30) }
    }
}

/// A connection to one server, as one user.
pub struct Client {
    agent: Agent,
    server: Server,
    timeouts: Timeouts,
    found: Option<Found>,
    /// What the secrets were when they were read last.
    secrets: secret::Read,
    /// Whether the server understood compressed lines so far.
    compress: bool,
}

impl Client {
    /// Checks the address and reads the secrets. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// If the address, a name or a secret can't be used; never with a secret in the text.
    pub fn new(mut server: Server, timeouts: Timeouts) -> Result<Self, ClientError> {
        server.url = server.url.trim().trim_end_matches('/').to_owned();
        let address = check(&server)?;
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let mut config = Agent::config_builder()
            .tls_config(tls)
            .https_only(address.scheme_str() == Some("https"))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(timeouts.connect.min(timeouts.total)))
            .timeout_global(Some(timeouts.total))
            .max_idle_connections(1)
            .user_agent(concat!("profiler/", env!("CARGO_PKG_VERSION")));
        if address.host().is_some_and(is_this_machine) {
            config = config.proxy(None);
        }
        let secrets = server.credentials.read().map_err(ClientError::Secret)?;
        let agent = config.build().into();
        Ok(Self { agent, server, timeouts, found: None, secrets, compress: true })
    }

    /// Changes whenever the generation of the server was found anew.
    pub fn generation(&self) -> u64 {
        0
    }

    /// Sends lines. Nothing is sent to a server that isn't known to be an InfluxDB: unless told, it is found out first.
    pub fn write(&mut self, lines: &str) -> Answer {
        let api = match self.known_api() {
            Ok(api) => api,
            Err(answer) => return answer,
        };
        let mut answer = self.post(api, lines);
        // A password or token that was replaced.
        if answer.result == Ok(401) && self.renew_secrets() {
            answer = self.post(api, lines);
        }
        // Something on the way that doesn't unpack: the server has seen no line.
        if self.compress && matches!(answer.result, Ok(400 | 415)) && speaks_of_compression(&answer.body) {
            self.compress = false;
            answer = self.post(api, lines);
        }
        // Another generation may be there now.
        if matches!(answer.result, Ok(300..=399 | 401..=405)) {
            self.found = None;
        }
        answer
    }

    /// Whether the server takes unsigned integers (`5u`). v1 does only if it was built so; it is asked with a line that no server
    /// can store: its time is none. Who complains about the time has understood the number.
    ///
    /// # Errors
    ///
    /// The answer, if it says neither: an unknown database, no rights, no server.
    pub fn knows_unsigned(&mut self) -> Result<bool, Answer> {
        if self.known_api()? != Api::V1 {
            return Ok(true);
        }
        let answer = self.write("profiler_question unsigned=1u when");
        match answer.result {
            Ok(400) if answer.body.contains("invalid number") => Ok(false),
            Ok(400) if answer.body.contains("bad timestamp") => Ok(true),
            // VictoriaMetrics leaves out what it can't read, and says nothing.
            Ok(204) => Ok(false),
            _ => Err(answer),
        }
    }

    fn known_api(&mut self) -> Result<Api, Answer> {
        match (self.server.api, &self.found) {
            (Some(api), _) => Ok(api),
            (None, Some(found)) => Ok(found.api),
            (None, None) => self.find_out().map(|found| found.api),
        }
    }

    /// One request with lines.
    fn post(&self, api: Api, lines: &str) -> Answer {
        let database = encode(&self.server.database);
        let path = match api {
            Api::V1 => format!("/write?db={database}&precision=ns"),
            Api::V2 => {
                let org = encode(self.server.org.as_deref().unwrap_or_default());
                format!("/api/v2/write?org={org}&bucket={database}&precision=ns")
            }
            Api::V3 => format!("/api/v3/write_lp?db={database}&precision=nanosecond"),
        };
        let mut request = self.agent.post(format!("{}{path}", self.server.url));
        request = request.header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        if let Some(value) = self.secrets.authorization(api) {
            request = request.header(header::AUTHORIZATION, value);
        }
        let began = Instant::now();
        let result = if self.compress {
            let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
            match encoder.write_all(lines.as_bytes()).and_then(|()| encoder.finish()) {
                Ok(body) => request.header(header::CONTENT_ENCODING, "gzip").send(&body),
                Err(error) => return Answer::failed(Failure::Other(format!("can't compress: {error}"))),
            }
        } else {
            request.send(lines)
        };
        self.answer(result, began).0
    }

    /// One question, without lines.
    fn get(&self, path: &str, authorization: Option<HeaderValue>) -> (Answer, HeaderMap) {
        let mut request = self.agent.get(format!("{}{path}", self.server.url));
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let began = Instant::now();
        self.answer(request.call(), began)
    }

    fn answer(&self, result: Result<Response<Body>, ureq::Error>, began: Instant) -> (Answer, HeaderMap) {
        let mut response = match result {
            Ok(response) => response,
            Err(error) => return (Answer::failed(failure::of(&error)), HeaderMap::new()),
        };
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        // The wish is meant by the server's clock.
        let now = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        let retry_after = text(header::RETRY_AFTER)
            .and_then(|wish| policy::retry_after(wish, now.unwrap_or_else(SystemTime::now)));
        let location = text(header::LOCATION).map(str::to_owned);
        let body = self.body(&mut response, began);
        (Answer { result: Ok(status), retry_after, location, body }, headers)
    }

    /// The beginning of a body, as much as comes in time. The status was read: what is missing here changes no acknowledgement.
    fn body(&self, response: &mut Response<Body>, began: Instant) -> String {
        let mut reader = response.body_mut().as_reader();
        let mut body = Vec::new();
        let mut buffer = [0; 8 << 10];
        while body.len() < BODY_LIMIT && began.elapsed() < self.timeouts.total {
            match reader.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => body.extend_from_slice(&buffer[..read]),
            }
        }
        body.truncate(BODY_LIMIT);
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Reads files with secrets again. Whether anything changed.
    fn renew_secrets(&mut self) -> bool {
        match self.server.credentials.read() {
            Ok(secrets) if secrets != self.secrets => {
                tracing::info!("the password or token for the InfluxDB server was replaced");
                self.secrets = secrets;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!("{error}");
                false
            }
        }
    }
}

impl Wire for Client {
    fn write(&mut self, lines: &str) -> Answer {
        Client::write(self, lines)
    }

    fn api(&self) -> Option<Api> {
        self.server.api.or_else(|| self.found.as_ref().map(|found| found.api))
    }
}

fn check(server: &Server) -> Result<Uri, ClientError> {
    if server.url.contains('@') {
        return Err(ClientError::CredentialsInAddress);
    }
    if server.url.contains(['?', '#']) {
        return Err(ClientError::QueryInAddress);
    }
    let wrong = || ClientError::Address(crate::text::clean(&server.url));
    if server.url.len() > NAME_LIMIT {
        return Err(wrong());
    }
    let address: Uri = server.url.parse().map_err(|_| wrong())?;
    let known = matches!(address.scheme_str(), Some("http" | "https"));
    let Some(authority) = address.authority().filter(|authority| known && !authority.host().is_empty())
    else {
        return Err(wrong());
    };
    // What follows the name is a port, then.
    if authority.as_str() != authority.host() && authority.port_u16().is_none() {
        return Err(wrong());
    }
    if server.database.is_empty() || server.database.len() > NAME_LIMIT {
        return Err(ClientError::Database);
    }
    let org = server.org.as_deref().unwrap_or_default();
    if (server.api == Some(Api::V2) && org.is_empty()) || org.len() > NAME_LIMIT {
        return Err(ClientError::Organisation);
    }
    Ok(address)
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A value of a query: everything but letters, digits and `-._~` is percent-encoded (RFC 3986, 2.3).
fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// What v1 says of a body that can't be unpacked (`unexpected EOF`), and what others may say; or it has taken the packed bytes for
/// lines and quotes them.
fn speaks_of_compression(body: &str) -> bool {
    let own = body.split("unable to parse").next().unwrap_or_default().to_ascii_lowercase();
    own.contains("gzip")
        || own.contains("unexpected eof")
        || body.contains("\\u001f")
        || body.contains('\u{1f}')
}
