//! Passwords and tokens: from files or the environment, never shown.

use std::{fmt, io::Read as _, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ureq::http::HeaderValue;

use super::Api;
use crate::own_file;

/// Bytes of a file with a secret.
const LIMIT: u64 = 4 << 10;

/// As whom lines are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// v1.
    pub user: Option<String>,
    /// v1.
    pub password: Option<Secret>,
    /// v2 and v3; v1 from 1.8 on.
    pub token: Option<Secret>,
}

/// A password or token.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The contents of a file, without white space around them. Read again when the server refuses what was read before.
    File(PathBuf),
    /// From the environment.
    Value(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Self::Value(_) => formatter.write_str("Value(..)"),
        }
    }
}

/// Ready to be sent. Has no Debug.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Read {
    basic: Option<HeaderValue>,
    token: Option<HeaderValue>,
    bearer: Option<HeaderValue>,
}

impl Credentials {
    /// Reads the files. The text of an error holds no secret.
    pub(super) fn read(&self) -> Result<Read, String> {
        let password = self.password.as_ref().map(Secret::read).transpose()?;
        let token = self.token.as_ref().map(Secret::read).transpose()?;
        let basic = match (&self.user, password) {
            (Some(user), _) if user.contains(':') => {
                return Err("a user's name can't hold a colon".to_owned());
            }
            (Some(user), password) => {
                let both = format!("{user}:{}", password.unwrap_or_default());
                Some(header(&format!("Basic {}", STANDARD.encode(both)))?)
            }
            (None, Some(_)) => {
                return Err("there is a password for the InfluxDB server, but no user".to_owned());
            }
            (None, None) => None,
        };
        let as_token = |scheme: &str| token.as_ref().map(|it| header(&format!("{scheme} {it}"))).transpose();
        Ok(Read { basic, token: as_token("Token")?, bearer: as_token("Bearer")? })
    }
}

impl Secret {
    fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::Value(value) => value.trim().to_owned(),
            Self::File(path) => {
                let wrong =
                    |why: &dyn fmt::Display| format!("can't read the secret in {}: {why}", path.display());
                let file = own_file::open_to_read(path).map_err(|error| wrong(&error))?;
                let mut text = String::new();
                file.take(LIMIT + 1).read_to_string(&mut text).map_err(|error| wrong(&error))?;
                if text.len() as u64 > LIMIT {
                    return Err(wrong(&"more than 4 KiB is no password or token"));
                }
                if text.trim().is_empty() {
                    return Err(wrong(&"there is no password or token in it"));
                }
                text.trim().to_owned()
            }
        };
        Ok(text)
    }
}

fn header(value: &str) -> Result<HeaderValue, String> {
    let wrong = |_| "the password or token holds characters that can't be sent".to_owned();
    let mut value = HeaderValue::from_str(value).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

impl Read {
    /// What is sent along with lines.
    pub(super) fn authorization(&self, api: Api) -> Option<HeaderValue> {
        match api {
            Api::V1 => self.basic.clone().or_else(|| self.token.clone()),
            Api::V2 => self.token.clone(),
            Api::V3 => self.bearer.clone(),
        }
    }

    /// What is sent to a server of an unknown generation that wants to know who asks: v2 and v3 both know `Token`.
    pub(super) fn for_question(&self) -> Option<HeaderValue> {
        self.token.clone().or_else(|| self.basic.clone())
    }
}
