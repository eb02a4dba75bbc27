//! Asking real servers, and what they answer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::questions::{Language, Question, Shape, Variables};

/// How long a server may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// One series, or one row of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    pub name: String,
    /// The column of InfluxDB's answer.
    pub column: String,
    pub labels: BTreeMap<String, String>,
    /// Seconds since the epoch and values, in order of time.
    pub points: Vec<(f64, f64)>,
    /// Columns that are text, and those of a row which has several.
    pub words: BTreeMap<String, String>,
    pub figures: BTreeMap<String, f64>,
}

/// Where the servers are.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    pub prometheus: u16,
    pub influx: u16,
}

impl Servers {
    /// Asks one question.
    pub fn ask(&self, question: &Question, variables: &Variables) -> Result<Vec<Series>> {
        let query = question.filled(variables);
        let asked = match (question.language, question.shape) {
            (Language::InfluxQl, _) => self.influxql(&query, &question.name),
            (Language::PromQl, Shape::Variable) => self.label_values(&query),
            (Language::PromQl, Shape::Range) => self.range(&query, question, variables),
            (Language::PromQl, Shape::Now) => self.now(&query, question, variables),
        };
        asked.with_context(|| format!("{}: {query}", question.place))
    }

    fn range(&self, query: &str, question: &Question, variables: &Variables) -> Result<Vec<Series>> {
        let Variables { from, to, step, .. } = variables;
        let path = format!("/api/v1/query_range?start={from}&end={to}&step={step}&query={}", escaped(query));
        let answer = self.prometheus(&path)?;
        let of_one = |one: &Value| {
            let pairs = one["values"].as_array().map(Vec::as_slice).unwrap_or_default();
            let points = pairs.iter().filter_map(pair).collect();
            prometheus_series(one, question, points)
        };
        Ok(answer["result"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(of_one).collect())
    }

    fn now(&self, query: &str, question: &Question, variables: &Variables) -> Result<Vec<Series>> {
        let path = format!("/api/v1/query?time={}&query={}", variables.to, escaped(query));
        let answer = self.prometheus(&path)?;
        let of_one =
            |one: &Value| prometheus_series(one, question, pair(&one["value"]).into_iter().collect());
        Ok(answer["result"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(of_one).collect())
    }

    /// `label_values(selector, label)` is Grafana's own: it asks for the series.
    fn label_values(&self, query: &str) -> Result<Vec<Series>> {
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = inside
            .and_then(|inside| inside.rsplit_once(", "))
            .context("not label_values(selector, label)")?;
        let answer = self.prometheus(&format!("/api/v1/series?match[]={}", escaped(selector)))?;
        let values = answer.as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let named = |one: &Value| one[label].as_str().map(str::to_owned);
        Ok(values.filter_map(named).map(|name| Series { name, ..Series::default() }).collect())
    }

    fn prometheus(&self, path: &str) -> Result<Value> {
        let answer: Value = serde_json::from_slice(&get(self.prometheus, path)?).context("not JSON")?;
        if answer["status"] != "success" {
            bail!("{}", answer["error"]);
        }
        Ok(answer["data"].clone())
    }

    fn influxql(&self, query: &str, alias: &str) -> Result<Vec<Series>> {
        let body = get(self.influx, &format!("/query?db=profiler&epoch=ms&q={}", escaped(query)))?;
        let answer: Value = serde_json::from_slice(&body).context("not JSON")?;
        let result = &answer["results"][0];
        for error in [&answer["error"], &result["error"]] {
            if let Some(error) = error.as_str() {
                bail!("{error}");
            }
        }
        let series = result["series"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(series.iter().flat_map(|one| influx_series(one, alias)).collect())
    }
}

fn pair(value: &Value) -> Option<(f64, f64)> {
    let number = value[1].as_str()?.parse().ok()?;
    Some((value[0].as_f64()?, number))
}

fn prometheus_series(one: &Value, question: &Question, points: Vec<(f64, f64)>) -> Series {
    let labels: BTreeMap<String, String> = one["metric"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let name = labels
        .iter()
        .fold(question.name.clone(), |name, (label, value)| name.replace(&format!("{{{{{label}}}}}"), value));
    Series { name, labels, points, ..Series::default() }
}

/// Each column that holds numbers is a series of its own; the last row's columns are the row of a table.
fn influx_series(one: &Value, alias: &str) -> Vec<Series> {
    let columns: Vec<&str> = strings(&one["columns"]);
    let tags: BTreeMap<String, String> = one["tags"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let rows = one["values"].as_array().map(Vec::as_slice).unwrap_or_default();
    let time = columns.iter().position(|column| *column == "time");
    let at = |row: &Value| time.and_then(|at| row[at].as_f64()).map_or(0.0, |ms| ms / 1000.0);
    let (mut words, mut figures) = (BTreeMap::new(), BTreeMap::new());
    for (index, column) in columns.iter().enumerate().filter(|(index, _)| Some(*index) != time) {
        match rows.last().map(|row| &row[index]) {
            Some(Value::String(text)) => drop(words.insert((*column).to_owned(), text.clone())),
            Some(value) => drop(value.as_f64().and_then(|value| figures.insert((*column).to_owned(), value))),
            None => {}
        }
    }
    let of_column = |(index, column): (usize, &&str)| {
        // A word has no figure, but a moment: 1 says that it was said.
        let value = |value: &Value| value.as_f64().or(value.is_string().then_some(1.0));
        let points = rows.iter().filter_map(|row| Some((at(row), value(&row[index])?))).collect();
        let name = tags.iter().fold(alias.replace("$col", column), |name, (tag, value)| {
            name.replace(&format!("$tag_{tag}"), value)
        });
        let column = (*column).to_owned();
        Series { name, column, labels: tags.clone(), points, words: words.clone(), figures: figures.clone() }
    };
    columns.iter().enumerate().filter(|(index, _)| Some(*index) != time).map(of_column).collect()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a server on this machine answers. HTTP/1.0, so that the body is what is left until the end.
pub fn get(port: u16, path: &str) -> Result<Vec<u8>> {
    request(port, "GET", path)
}

/// The same for a request without a body that changes something.
pub fn post(port: u16, path: &str) -> Result<Vec<u8>> {
    request(port, "POST", path)
}

fn request(port: u16, method: &str, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let request = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no HTTP answer")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = answer.split_off(end + 4);
    let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    // A query that is wrong is told in the body.
    if status / 100 != 2 {
        bail!("HTTP {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

/// Percent-encoded, for a query string.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_of_influxdb_are_series_and_its_last_row_is_a_row() {
        let one = json!({"tags": {"target": "shop"}, "columns": ["time", "low", "verdict"],
            "values": [[1000, 1.5, "steady"], [2000, null, "steady"], [3000, 2, "leaking"]]});
        let series = influx_series(&one, "$tag_target $col");
        assert_eq!(series[0].name, "shop low");
        assert_eq!(series[0].column, "low");
        assert_eq!(series[0].points, [(1.0, 1.5), (3.0, 2.0)]);
        assert_eq!(series[0].words["verdict"], "leaking");
        assert_eq!(series[0].figures["low"], 2.0);
    }
}
