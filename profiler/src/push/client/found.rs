//! Which generation of InfluxDB a server is.

use serde::Deserialize;
use ureq::http::HeaderMap;

use super::{Answer, Api, Client, Failure};
use crate::text;

/// What was found out about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The dialect to speak.
    pub api: Api,
    /// Its version, for people.
    pub version: String,
}

#[derive(Deserialize)]
struct About {
    name: Option<String>,
    version: Option<String>,
}

impl Client {
    /// Asks `/ping` and `/health` what the server is, and remembers it. Nothing is guessed: neither an organisation nor a token says
    /// which generation a server is. Credentials are sent only to who asks for them.
    ///
    /// # Errors
    ///
    /// The answer to act on: one that says to come later or to mend something; never one that acknowledges or refuses lines.
    pub fn find_out(&mut self) -> Result<Found, Answer> {
        let mut last = Answer::failed(Failure::NotInflux(String::new()));
        for path in ["/ping", "/health"] {
            let (mut answer, mut headers) = self.get(path, None);
            let mut found = recognize(&answer, &headers);
            if found.is_none() && matches!(answer.result, Ok(401 | 403)) {
                (answer, headers) = self.get(path, self.secrets.for_question());
                if answer.result == Ok(401) && self.renew_secrets() {
                    (answer, headers) = self.get(path, self.secrets.for_question());
                }
                found = recognize(&answer, &headers);
            }
            if let Some(found) = found {
                if found.api == Api::V2 && self.server.org.as_deref().is_none_or(str::is_empty) {
                    let reason =
                        format!("{} wants the name of the organisation, too (--influx-org)", found.version);
                    return Err(Answer::failed(Failure::NotInflux(reason)));
                }
                let before = self.found.replace(found.clone());
                self.generation += u64::from(before.is_some_and(|before| before != found));
                return Ok(found);
            }
            // Without any answer there is no use in asking something else.
            if answer.result.is_err() {
                return Err(answer);
            }
            last = answer;
        }
        Err(not_found(last))
    }
}

/// Only what can't be mistaken for a word about lines passes as it is.
fn not_found(answer: Answer) -> Answer {
    match answer.result {
        Ok(300..=399 | 401 | 403 | 408 | 425 | 429 | 502..=599) => answer,
        Ok(500) => Answer { result: Ok(503), ..answer },
        _ => Answer::failed(Failure::NotInflux(
            "the server answers neither /ping nor /health as InfluxDB does; see --influx, or say what it is (--influx-api)".to_owned(),
        )),
    }
}

/// v1 and v2 tell their version in a header of each answer, also of a refusal; v3 its build, and its version in the body of `/ping`;
/// v2 its version in the body of `/health`. VictoriaMetrics writes `X-Server-Hostname` and takes what v1 takes.
fn recognize(answer: &Answer, headers: &HeaderMap) -> Option<Found> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    // First: it may call itself InfluxDB, of any generation, to please others.
    if header("x-server-hostname").is_some() && matches!(answer.result, Ok(200 | 204)) {
        return Some(Found { api: Api::V1, version: "VictoriaMetrics".to_owned() });
    }
    let about = serde_json::from_str::<About>(&answer.body).ok();
    let is_influx = header("x-influxdb-build").is_some()
        || about.as_ref().is_some_and(|about| about.name.as_deref() == Some("influxdb"));
    let told = header("x-influxdb-version").map(str::to_owned).or_else(|| {
        let version = about.and_then(|about| about.version)?;
        is_influx.then_some(version)
    });
    if let Some(told) = told {
        let number = told.trim_start_matches(['v', 'V']);
        let api = match number.split('.').next()? {
            "0" | "1" => Api::V1,
            "2" => Api::V2,
            "3" => Api::V3,
            _ => return None,
        };
        return Some(Found { api, version: format!("InfluxDB {}", text::clean_to(number, 60)) });
    }
    None
}
