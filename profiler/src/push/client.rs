//! One batch to one server, over HTTP, in the dialect of each generation of InfluxDB.

use std::path::PathBuf;

/// A generation of InfluxDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/write`.
    V1,
    /// `/api/v2/write`.
    V2,
    /// `/api/v3/write_lp`.
    V3,
}

/// Where to and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `http(s)://host:port[/prefix]`.
    pub url: String,
    /// `None`: find out.
    pub api: Option<Api>,
    /// The database, or bucket.
    pub database: String,
    /// The organisation.
    pub org: Option<String>,
    /// As whom.
    pub credentials: Credentials,
}

/// As whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Name.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// A token.
    pub token: Option<Secret>,
}

/// A secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// From the environment.
    Value(String),
}
