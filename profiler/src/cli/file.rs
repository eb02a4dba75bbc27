//! The config file: TOML, the same names as on the command line, without the dashes.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    args::{GoView, LogFormat, LogLevel, Switch},
    influx::InfluxApi,
};
use crate::{
    config::{Bytes, Leaks},
    target::GroupBy,
};

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    pub pid: Option<OneOrMany<u32>>,
    pub name: Option<OneOrMany<String>>,
    pub comm: Option<OneOrMany<String>>,
    pub exe: Option<OneOrMany<String>>,
    pub cgroup: Option<OneOrMany<String>>,
    pub container: Option<OneOrMany<String>>,
    pub unit: Option<OneOrMany<String>>,
    pub children: Option<bool>,
    pub new: Option<bool>,
    pub existing: Option<bool>,
    pub group_by: Option<GroupBy>,
    pub max_targets: Option<u32>,
    pub max_series: Option<usize>,
    pub mappings: Option<Switch>,
    pub python: Option<Switch>,
    pub go: Option<Switch>,
    pub go_view: Option<GoView>,
    pub go_stops: Option<Switch>,
    pub debuginfod: Option<String>,
    pub interval: Option<String>,
    pub duration: Option<String>,
    pub listen: Option<OneOrMany<String>>,
    pub web: Web,
    pub alloc: Option<Switch>,
    pub stalls: Option<Switch>,
    pub stall_threshold: Option<String>,
    pub leaks: Option<Leaks>,
    pub sample_bytes: Option<Bytes>,
    pub patience: Option<String>,
    pub history: Option<PathBuf>,
    pub history_size: Option<Bytes>,
    pub perf_map: Option<Switch>,
    pub references: Option<Switch>,
    pub influx: Option<String>,
    pub influx_db: Option<String>,
    pub influx_org: Option<String>,
    pub influx_api: Option<InfluxApi>,
    pub influx_user: Option<String>,
    pub influx_password_file: Option<PathBuf>,
    pub influx_token_file: Option<PathBuf>,
    pub influx_interval: Option<String>,
    pub influx_tag: Option<OneOrMany<String>>,
    pub influx_measurement_prefix: Option<String>,
    pub influx_uint: Option<bool>,
    pub influx_spool: Option<PathBuf>,
    pub influx_spool_size: Option<Bytes>,
    pub influx_spool_age: Option<String>,
    pub report: Option<PathBuf>,
    pub log_level: Option<LogLevel>,
    pub log_format: Option<LogFormat>,
}

/// `web.listen-address` is a table with one key for TOML.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Web {
    pub listen_address: Option<OneOrMany<String>>,
}

/// What may be repeated on the command line may be a list here.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}
