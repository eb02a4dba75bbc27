//! What is meant by the options of the push to InfluxDB.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use serde::Deserialize;

use super::{
    UsageError,
    args::{Options, parse_duration},
    duration,
    file::File,
    given,
};
use crate::{
    config::{
        Bytes, DEFAULT_PUSH_INTERVAL, DEFAULT_SPOOL_AGE, DEFAULT_SPOOL_BYTES, LOWEST_SPOOL_BYTES, Push,
        SHORTEST_PUSH_INTERVAL,
    },
    export::catalogue::measurements,
    push::{
        client::{Credentials, Secret, Server},
        policy::Api,
    },
};

const HEADING: &str = "Push to InfluxDB";

/// The options as typed.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = HEADING)]
pub struct InfluxOptions {
    /// Push everything to this InfluxDB: http://HOST:PORT. What it doesn't take waits on disk [default: nothing is pushed].
    #[arg(long, value_name = "URL")]
    pub influx: Option<String>,
    /// The database (or the bucket, of InfluxDB 2).
    #[arg(long, visible_alias = "influx-bucket", value_name = "NAME")]
    pub influx_db: Option<String>,
    /// The organisation, of InfluxDB 2.
    #[arg(long, value_name = "NAME")]
    pub influx_org: Option<String>,
    /// Which generation of InfluxDB it is [default: auto, which asks it].
    #[arg(long, value_name = "auto|v1|v2|v3")]
    pub influx_api: Option<InfluxApi>,
    /// The user, of InfluxDB 1. Also from INFLUX_USERNAME.
    #[arg(long, value_name = "NAME")]
    pub influx_user: Option<String>,
    /// A file with the user's password. Also from INFLUX_PASSWORD; never on the command line, which everybody can read.
    #[arg(long, value_name = "FILE")]
    pub influx_password_file: Option<PathBuf>,
    /// A file with the token, of InfluxDB 2 and 3. Also from INFLUX_TOKEN.
    #[arg(long, value_name = "FILE")]
    pub influx_token_file: Option<PathBuf>,
    /// Time between two points of a series [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub influx_interval: Option<Duration>,
    /// A tag of every point. May be given several times. Every point has the tag host already.
    #[arg(long, value_name = "KEY=VALUE")]
    pub influx_tag: Vec<String>,
    /// Put this before the name of every measurement.
    #[arg(long, value_name = "TEXT")]
    pub influx_measurement_prefix: Option<String>,
    /// Write counters as unsigned integers. A server remembers a field's type for ever: decide before the first point.
    #[arg(long)]
    pub influx_uint: bool,
    /// Where points wait until they are acknowledged, or none [default: a directory below /var/lib/profiler].
    #[arg(long, value_name = "DIR")]
    pub influx_spool: Option<PathBuf>,
    /// How large that directory may get; the oldest points go first [default: 512MiB].
    #[arg(long, value_name = "BYTES")]
    pub influx_spool_size: Option<Bytes>,
    /// How old points may get there [default: 30days].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub influx_spool_age: Option<Duration>,
}

/// gops' verb: one process, one database, nothing served unless it is asked for.
///
/// # Errors
///
/// If something is said twice.
pub fn memstatexport(
    process: u32,
    server: &str,
    database: String,
    options: Options,
) -> Result<Options, UsageError> {
    let influx = &options.influx;
    if !options.pid.is_empty() || influx.influx.is_some() || influx.influx_db.is_some() {
        return Err(UsageError(
            "memstatexport takes process, server and database as its three arguments: leave --pid, --influx and --influx-db out"
                .to_owned(),
        ));
    }
    let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let influx = InfluxOptions { influx: Some(url), influx_db: Some(database), ..options.influx };
    let listen = if options.listen.is_empty() { vec!["none".to_owned()] } else { options.listen };
    Ok(Options { pid: vec![process], listen, influx, ..options })
}

/// Which generation of InfluxDB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InfluxApi {
    /// It is asked.
    #[default]
    Auto,
    /// 1.x.
    V1,
    /// 2.x.
    V2,
    /// 3.x.
    V3,
}

/// What the environment says.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Command line before file before environment before default. `None`: nothing is pushed.
pub fn resolve(
    options: &InfluxOptions,
    file: &File,
    path: Option<&Path>,
    environment: Environment<'_>,
) -> Result<Option<Push>, UsageError> {
    let Some(url) = options.influx.clone().or_else(|| file.influx.clone()) else {
        return if mentions(options, file) {
            Err(UsageError("the options of InfluxDB need --influx http://HOST:PORT".to_owned()))
        } else {
            Ok(None)
        };
    };
    let database =
        options.influx_db.clone().or_else(|| file.influx_db.clone()).filter(|name| !name.is_empty());
    let Some(database) = database else {
        return Err(UsageError("--influx needs --influx-db NAME: the database, or the bucket".to_owned()));
    };
    let api = match options.influx_api.or(file.influx_api).unwrap_or_default() {
        InfluxApi::Auto => None,
        InfluxApi::V1 => Some(Api::V1),
        InfluxApi::V2 => Some(Api::V2),
        InfluxApi::V3 => Some(Api::V3),
    };
    let org = options.influx_org.clone().or_else(|| file.influx_org.clone());
    if api == Some(Api::V2) && org.is_none() {
        return Err(UsageError("InfluxDB 2 needs --influx-org NAME".to_owned()));
    }
    let secret = |option: &Option<PathBuf>, file: &Option<PathBuf>, variable: &str| {
        let path = option.clone().or_else(|| file.clone());
        path.map(Secret::File).or_else(|| environment(variable).map(Secret::Value))
    };
    let credentials = Credentials {
        user: options
            .influx_user
            .clone()
            .or_else(|| file.influx_user.clone())
            .or_else(|| environment("INFLUX_USERNAME")),
        password: secret(&options.influx_password_file, &file.influx_password_file, "INFLUX_PASSWORD"),
        token: secret(&options.influx_token_file, &file.influx_token_file, "INFLUX_TOKEN"),
    };
    let server = Server { url: checked_url(&url)?, api, database, org, credentials };
    let interval = options
        .influx_interval
        .or(duration(file.influx_interval.clone(), "influx-interval", path)?)
        .unwrap_or(DEFAULT_PUSH_INTERVAL);
    if interval < SHORTEST_PUSH_INTERVAL {
        return Err(UsageError(format!(
            "--influx-interval {} is too short: the shortest is {}",
            humantime::format_duration(interval),
            humantime::format_duration(SHORTEST_PUSH_INTERVAL)
        )));
    }
    let spool_bytes =
        options.influx_spool_size.or(file.influx_spool_size).map_or(DEFAULT_SPOOL_BYTES, |bytes| bytes.0);
    if spool_bytes < LOWEST_SPOOL_BYTES {
        return Err(UsageError(format!("--influx-spool-size {spool_bytes}: give 1MiB or more")));
    }
    let spool = match options.influx_spool.clone().or_else(|| file.influx_spool.clone()) {
        Some(none) if none.as_os_str() == "none" => None,
        Some(path) => Some(path),
        None => Some(default_spool(&server, environment, rustix::process::geteuid().is_root())?),
    };
    Ok(Some(Push {
        tags: tags(given(options.influx_tag.clone(), file.influx_tag.clone()))?,
        prefix: prefix(options, file)?,
        unsigned: options.influx_uint || file.influx_uint.unwrap_or(false),
        server,
        interval,
        spool,
        spool_bytes,
        spool_age: options
            .influx_spool_age
            .or(duration(file.influx_spool_age.clone(), "influx-spool-age", path)?)
            .unwrap_or(DEFAULT_SPOOL_AGE),
    }))
}

/// Whether something is said of InfluxDB although none is named.
fn mentions(options: &InfluxOptions, file: &File) -> bool {
    // Named one by one, so that none that comes later is forgotten.
    let InfluxOptions {
        influx: _,
        influx_db,
        influx_org,
        influx_api,
        influx_user,
        influx_password_file,
        influx_token_file,
        influx_interval,
        influx_tag,
        influx_measurement_prefix,
        influx_uint,
        influx_spool,
        influx_spool_size,
        influx_spool_age,
    } = options;
    let texts = [
        influx_db,
        influx_org,
        influx_user,
        influx_measurement_prefix,
        &file.influx_db,
        &file.influx_org,
        &file.influx_user,
        &file.influx_measurement_prefix,
        &file.influx_interval,
        &file.influx_spool_age,
    ];
    let paths = [
        influx_password_file,
        influx_token_file,
        influx_spool,
        &file.influx_password_file,
        &file.influx_token_file,
        &file.influx_spool,
    ];
    texts.into_iter().any(Option::is_some)
        || paths.into_iter().any(Option::is_some)
        || [influx_api, &file.influx_api].into_iter().any(Option::is_some)
        || [influx_interval, influx_spool_age].into_iter().any(Option::is_some)
        || [influx_spool_size, &file.influx_spool_size].into_iter().any(Option::is_some)
        || !influx_tag.is_empty()
        || file.influx_tag.is_some()
        || *influx_uint
        || file.influx_uint.is_some()
}

/// An address without anything that isn't one: what is secret would be read by everybody who may list processes. What stands
/// before an @ may be a password, wherever it stands; it isn't shown.
fn checked_url(text: &str) -> Result<String, UsageError> {
    let wrong = |what: &str| UsageError(format!("--influx: {what}"));
    if text.contains('@') {
        return Err(wrong(
            "a password in the address can be read by everybody: use --influx-user and --influx-password-file",
        ));
    }
    let url = text.trim_end_matches('/');
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).ok_or_else(|| {
        wrong(&format!("{text:?} is no address: give http://HOST:PORT or https://HOST:PORT"))
    })?;
    let host = rest.split('/').next().unwrap_or("");
    if host.is_empty()
        || rest.contains(['?', '#'])
        || rest.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err(wrong(&format!(
            "{text:?} is no address: give http://HOST:PORT, and the database by --influx-db"
        )));
    }
    Ok(url.to_owned())
}

/// Names that InfluxDB keeps for itself.
const RESERVED: [&str; 3] = ["time", "_field", "_measurement"];

fn tags(words: Vec<String>) -> Result<Vec<(String, String)>, UsageError> {
    let measurements = measurements();
    let mut tags: Vec<(String, String)> = Vec::new();
    for word in words {
        let wrong = |what: &str| UsageError(format!("--influx-tag {word:?}: {what}"));
        let (key, value) = word.split_once('=').ok_or_else(|| wrong("give KEY=VALUE"))?;
        let clean = |text: &str| !text.is_empty() && text == crate::text::clean(text) && !text.contains('\\');
        if !clean(key) || !clean(value) {
            return Err(wrong("key and value have at least one character, no control characters and no \\"));
        }
        let own = measurements
            .values()
            .any(|one| one.tags.contains(&key) || one.fields.keys().any(|field| may_be(field, key)));
        if RESERVED.contains(&key) || own {
            return Err(wrong("that key is taken: choose another one"));
        }
        if tags.iter().any(|(known, _)| known == key) {
            return Err(wrong("that key is given twice"));
        }
        tags.push((key.to_owned(), value.to_owned()));
    }
    if !tags.iter().any(|(key, _)| key == "host") {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        tags.push(("host".to_owned(), crate::text::clean(&host).to_string()));
    }
    Ok(tags)
}

/// Whether a field may have this name. Where it has a label in braces, any text may stand.
fn may_be(field: &str, name: &str) -> bool {
    let mut fixed = field.split(['{', '}']).step_by(2);
    let Some(mut rest) = name.strip_prefix(fixed.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<_> = fixed.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

fn prefix(options: &InfluxOptions, file: &File) -> Result<String, UsageError> {
    let prefix = options.influx_measurement_prefix.clone().or_else(|| file.influx_measurement_prefix.clone());
    let prefix = prefix.unwrap_or_default();
    if !prefix.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
        return Err(UsageError(format!(
            "--influx-measurement-prefix {prefix:?}: use letters, digits, and any of _ - ."
        )));
    }
    Ok(prefix)
}

/// A directory of its own for each destination: what waits for one server must not go to another one. Never one below /tmp,
/// where somebody else may have made it before.
fn default_spool(server: &Server, environment: Environment<'_>, root: bool) -> Result<PathBuf, UsageError> {
    let named = |name: &str| environment(name).filter(|path| path.starts_with('/')).map(PathBuf::from);
    let home = || named("HOME").map(|home| home.join(".local/state"));
    let base = match named("STATE_DIRECTORY") {
        Some(base) => Some(base),
        None if root => Some(PathBuf::from("/var/lib/profiler")),
        None => named("XDG_STATE_HOME").or_else(home).map(|state| state.join("profiler")),
    };
    let base = base.ok_or_else(|| {
        UsageError(
            "there is no HOME, so points have no place to wait: give --influx-spool DIR (or none)".to_owned(),
        )
    })?;
    let whole = format!("{} {} {}", server.url, server.database, server.org.as_deref().unwrap_or(""));
    let host = server.url.split("://").nth(1).unwrap_or("");
    let readable: String = format!("{host}-{}", server.database)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' })
        .take(80)
        .collect();
    Ok(base.join("influx").join(format!("{readable}-{:08x}", fnv(whole.as_bytes()))))
}

/// Fowler, Noll and Vo's hash (FNV-1a, 32 bits): the same in every build, for a name that must not change.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests;
