//! What a client would like to get: the format of `/metrics` and whether the answer is compressed (RFC 9110, 12.4 and 12.5).
//!
//! What can't be understood is as good as not said: a scrape is never refused because of a header.

use axum::http::{HeaderMap, HeaderName, header};

use crate::export::prometheus;

/// Elements of a list, and parameters of an element, that are looked at. Prometheus 3 sends six and four.
const MOST: usize = 64;

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' own.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The same under the number of its draft, for those who know no other.
    OpenMetricsDraft,
}

impl Format {
    /// All, the one for those who don't mind first.
    const ALL: [Self; 3] = [Self::Text, Self::OpenMetrics, Self::OpenMetricsDraft];

    /// The media type of an answer.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::OpenMetricsDraft => "application/openmetrics-text; version=0.0.1; charset=utf-8",
        }
    }

    /// Group of the media type, the whole of it, and the version.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Text => ("text/*", "text/plain", "0.0.4"),
            Self::OpenMetrics => ("application/*", "application/openmetrics-text", "1.0.0"),
            Self::OpenMetricsDraft => ("application/*", "application/openmetrics-text", "0.0.1"),
        }
    }

    /// How closely an element of `Accept` describes this format; `None` if it is about others. Every name we use is a plain
    /// one, so that `escaping` makes no difference, and other parameters are none of ours.
    fn described_by(self, element: &Element<'_>) -> Option<u8> {
        let (group, whole, version) = self.names();
        if element.name == "*/*" {
            Some(0)
        } else if element.name.eq_ignore_ascii_case(group) {
            Some(1)
        } else if element.name.eq_ignore_ascii_case(whole) {
            match element.version {
                None => Some(2),
                Some(asked) => (asked == version).then_some(3),
            }
        } else {
            None
        }
    }
}

/// The format to answer in: of the highest weight, then the one that was described most closely, then first. Where nothing of
/// ours is asked for (OpenMetrics 2.0, protobuf, HTML), text: every client understands it.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let mut best = (Format::Text, (0, 0));
    for (first, format) in wishes(headers) {
        if first > best.1 {
            best = (format, first);
        }
    }
    best.0
}

/// Each format that is wanted with its weight and closeness, in the order of the header.
fn wishes(headers: &HeaderMap) -> Vec<((u16, u8), Format)> {
    let mut wanted: Vec<_> = Format::ALL
        .into_iter()
        .filter_map(|format| {
            // The closest description counts, even if a looser one has a higher weight.
            let described = elements(headers, &header::ACCEPT)
                .enumerate()
                .filter_map(|(place, element)| Some((format.described_by(&element)?, place, element.weight)));
            let (close, place, weight) =
                described.max_by_key(|(close, place, _)| (*close, usize::MAX - place))?;
            (weight > 0).then_some((place, ((weight, close), format)))
        })
        .collect();
    wanted.sort_by_key(|(place, _)| *place);
    wanted.into_iter().map(|(_, wish)| wish).collect()
}

/// How an answer may be coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// As it is.
    Plain,
    /// With gzip, if it is worth it.
    Gzip,
    /// With gzip, because the plain form is refused.
    OnlyGzip,
}

/// The coding to answer in. Who refuses the plain form and doesn't name gzip gets it, for there is nothing else; who refuses
/// both gets the plain one, which is of more use than an error.
pub(super) fn coding(headers: &HeaderMap) -> Coding {
    let weight_of = |names: &[&str]| {
        elements(headers, &header::ACCEPT_ENCODING)
            .find(|element| names.iter().any(|name| element.name.eq_ignore_ascii_case(name)))
            .map(|element| element.weight)
    };
    let rest = weight_of(&["*"]);
    let gzip = weight_of(&["gzip", "x-gzip"]).or(rest);
    let plain = weight_of(&["identity"]);
    match (gzip, plain.or(rest.filter(|weight| *weight == 0))) {
        (Some(0), _) | (None, None | Some(1..)) => Coding::Plain,
        (_, Some(0)) => Coding::OnlyGzip,
        // Unless it is named, the plain form is what one takes at the worst.
        (Some(gzip), Some(plain)) if gzip < plain => Coding::Plain,
        (Some(_), _) => Coding::Gzip,
    }
}

/// An element of a list with weights.
struct Element<'a> {
    name: &'a str,
    version: Option<&'a str>,
    /// In thousandths.
    weight: u16,
}

/// The elements of all headers of that name. Those whose weight isn't one are left out. Takes time proportional to the
/// length of the headers, which the server bounds, and no memory.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Element<'a>> {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| split(list, ',')).take(MOST).filter_map(element)
}

fn element(text: &str) -> Option<Element<'_>> {
    let mut parts = split(text, ';').map(str::trim);
    let mut element = Element { name: parts.next()?, version: None, weight: 1000 };
    for (key, value) in parts.take(MOST).filter_map(|part| part.split_once('=')) {
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        if key.eq_ignore_ascii_case("q") {
            let weight = value.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight))?;
            element.weight = (weight * 1000.0).round() as u16;
        } else if key.eq_ignore_ascii_case("version") {
            element.version = Some(value);
        }
    }
    Some(element)
}

/// Splits where the separator isn't quoted.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |letter| {
        let literal = std::mem::take(&mut escaped);
        match letter {
            '"' if !literal => quoted = !quoted,
            '\\' if quoted && !literal => escaped = true,
            _ => {}
        }
        letter == separator && !quoted
    })
}
