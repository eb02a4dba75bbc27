//! The config file: TOML, the same names as on the command line, without the dashes.

use std::path::PathBuf;

use serde::Deserialize;

use super::args::{LogFormat, LogLevel, Switch};
use crate::{
    config::{Bytes, Leaks},
    target::GroupBy,
};

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", from = "Written")]
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
    pub debuginfod: Option<String>,
    pub interval: Option<String>,
    pub duration: Option<String>,
    pub listen: Option<OneOrMany<String>>,
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
    pub report: Option<PathBuf>,
    pub log_level: Option<LogLevel>,
    pub log_format: Option<LogFormat>,
}

/// `web.listen-address` is a table with one key for TOML.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    pid: Option<OneOrMany<u32>>,
    name: Option<OneOrMany<String>>,
    comm: Option<OneOrMany<String>>,
    exe: Option<OneOrMany<String>>,
    cgroup: Option<OneOrMany<String>>,
    container: Option<OneOrMany<String>>,
    unit: Option<OneOrMany<String>>,
    children: Option<bool>,
    new: Option<bool>,
    existing: Option<bool>,
    group_by: Option<GroupBy>,
    max_targets: Option<u32>,
    max_series: Option<usize>,
    mappings: Option<Switch>,
    debuginfod: Option<String>,
    python: Option<Switch>,
    interval: Option<String>,
    duration: Option<String>,
    listen: Option<OneOrMany<String>>,
    web: Web,
    alloc: Option<Switch>,
    stalls: Option<Switch>,
    stall_threshold: Option<String>,
    leaks: Option<Leaks>,
    sample_bytes: Option<Bytes>,
    patience: Option<String>,
    history: Option<PathBuf>,
    history_size: Option<Bytes>,
    perf_map: Option<Switch>,
    references: Option<Switch>,
    report: Option<PathBuf>,
    log_level: Option<LogLevel>,
    log_format: Option<LogFormat>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Web {
    listen_address: Option<OneOrMany<String>>,
}

impl From<Written> for File {
    fn from(written: Written) -> Self {
        Self {
            pid: written.pid,
            name: written.name,
            comm: written.comm,
            exe: written.exe,
            cgroup: written.cgroup,
            container: written.container,
            unit: written.unit,
            children: written.children,
            new: written.new,
            existing: written.existing,
            group_by: written.group_by,
            max_targets: written.max_targets,
            max_series: written.max_series,
            mappings: written.mappings,
            python: written.python,
            debuginfod: written.debuginfod,
            interval: written.interval,
            duration: written.duration,
            listen: written.listen.or(written.web.listen_address),
            alloc: written.alloc,
            stalls: written.stalls,
            stall_threshold: written.stall_threshold,
            leaks: written.leaks,
            sample_bytes: written.sample_bytes,
            patience: written.patience,
            history: written.history,
            history_size: written.history_size,
            perf_map: written.perf_map,
            references: written.references,
            report: written.report,
            log_level: written.log_level,
            log_format: written.log_format,
        }
    }
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
