//! Metrics as text (Prometheus' format), and two exporters' answers of the same process held against each other.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::{super::LONG, Tally};

/// Families by name.
pub type Families = BTreeMap<String, Family>;

/// What a server of any kind says at a path; `None` if it doesn't (yet).
pub fn fetch(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LONG)).ok()?;
    // Version 1.0: no answer in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
}

/// What one family says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Family {
    pub help: Option<String>,
    pub kind: Option<String>,
    /// By name and labels as they are written.
    pub samples: BTreeMap<String, f64>,
}

/// Reads an answer: families by name. Samples of a summary or histogram are its family's.
pub fn parse(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            families.entry(name.to_owned()).or_default().help = Some(help.to_owned());
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            families.entry(name.to_owned()).or_default().kind = Some(kind.to_owned());
        } else if !line.starts_with('#')
            && let Some((key, value)) = line.rsplit_once(' ')
            && let Ok(value) = value.parse::<f64>()
        {
            let name = key.split('{').next().unwrap_or(key);
            let parts = ["_sum", "_count", "_bucket"].iter().filter_map(|suffix| name.strip_suffix(suffix));
            let whole = parts.into_iter().find(|whole| families.contains_key(*whole)).unwrap_or(name);
            families.entry(whole.to_owned()).or_default().samples.insert(key.to_owned(), value);
        }
    }
    families
}

/// The samples of all families.
pub fn samples(families: &Families) -> BTreeMap<String, f64> {
    families.values().flat_map(|family| family.samples.clone()).collect()
}

/// What a program has more of while it answers a scrape of its own, at least and at most: what it says is that much above what
/// there is when nobody asks it.
fn while_asked(round: &Round, name: &str) -> (f64, f64) {
    match name {
        // The connection, and the directory of its files that it counts.
        "process_open_fds" => (2.0, 2.0),
        // That of the connection, and that of its reader in the background.
        "go_goroutines" if is_of_victoria(round) => (2.0, 2.0),
        // With `client_golang` also one that collects and one that waits for the end, and often another one or two that collect
        // (`Gather` in its registry.go starts them as long as they have something to do).
        "go_goroutines" => (4.0, 6.0),
        _ => (0.0, 0.0),
    }
}

/// Ours between two of theirs.
#[derive(Clone, Debug)]
pub struct Round {
    pub before: Families,
    pub ours: Families,
    pub behind: Families,
}

/// Whether what both have of Go and of the process is the same: equal, or between theirs before and theirs behind it. A
/// value that goes up and down may leave these two as far as it was seen to move between any two of theirs.
pub fn compare(rounds: &[Round]) -> Tally {
    let mut tally = Tally::default();
    let theirs = |round: &Round| [samples(&round.before), samples(&round.behind)];
    let mut seen: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (key, value) in rounds.iter().flat_map(theirs).flatten() {
        seen.entry(key).or_default().push(value);
    }
    for round in rounds {
        let [before, behind] = theirs(round);
        for (key, ours) in samples(&round.ours) {
            let name = key.split('{').next().unwrap_or_default();
            let (Some(before), Some(behind)) = (before.get(&key), behind.get(&key)) else { continue };
            if !name.starts_with("go_") && !name.starts_with("process_") || counts_what_was_not(round, &key) {
                continue;
            }
            let (low, high) = (before.min(*behind), before.max(*behind));
            if name == "process_start_time_seconds" && before.fract() == 0.0 {
                // Some say whole seconds.
                tally.compare(&key, &((ours - before).abs() < 1.0), &true);
                continue;
            }
            let moves = if is_counter(round, &key) { 0.0 } else { spread(&seen[&key]) };
            // The last digit of a sum of floating point numbers isn't the question.
            let digit = high.abs() * 1e-12;
            let (least, most) = while_asked(round, name);
            tally.of += 1;
            if (low - most - moves - digit..=high - least + moves + digit).contains(&ours) {
                tally.equal += 1;
            } else {
                tally
                    .different
                    .push(format!("{key}: {ours}, and theirs {before} and {behind}, moving by {moves}"));
            }
        }
    }
    tally
}

/// VictoriaMetrics' library takes the quantiles of all 256 pauses that the runtime has room for, also those that have not been
/// yet (`writeGoMetrics` in its go_metrics.go).
fn counts_what_was_not(round: &Round, key: &str) -> bool {
    key.starts_with("go_gc_duration_seconds{") && is_of_victoria(round)
}

/// Whether they are of VictoriaMetrics' library: it tells neither type nor help.
fn is_of_victoria(round: &Round) -> bool {
    round.before.get("go_gc_duration_seconds").is_some_and(|family| family.help.is_none())
}

/// Families that both have: their type, and their help where both have that of the same generation of `client_golang` (from 1.21
/// on it says where a value is from).
pub fn compare_descriptions(round: &Round) -> Tally {
    let mut tally = Tally::default();
    let generation = |families: &Families| families.get("go_memstats_frees_total")?.help.clone();
    let help = generation(&round.before) == generation(&round.ours);
    for (name, ours) in &round.ours {
        let Some(theirs) =
            round.before.get(name).filter(|_| name.starts_with("go_") || name.starts_with("process_"))
        else {
            continue;
        };
        if theirs.kind.is_some() {
            tally.compare(&format!("type of {name}"), &ours.kind, &theirs.kind);
        }
        if help && theirs.help.is_some() {
            tally.compare(&format!("help of {name}"), &ours.help, &theirs.help);
        }
    }
    tally
}

/// What of theirs we don't have.
pub fn missing(round: &Round) -> Vec<String> {
    let ours = samples(&round.ours);
    let wanted = |key: &&String| key.starts_with("go_") || key.starts_with("process_");
    samples(&round.before).keys().filter(wanted).filter(|key| !ours.contains_key(*key)).cloned().collect()
}

fn is_counter(round: &Round, key: &str) -> bool {
    let name = key.split('{').next().unwrap_or_default();
    let kind = |name: &str| round.ours.get(name).and_then(|family| family.kind.as_deref());
    kind(name) == Some("counter")
        || ["_sum", "_count"].iter().any(|end| name.strip_suffix(end).and_then(kind) == Some("summary"))
}

fn spread(values: &[f64]) -> f64 {
    let high = values.iter().copied().fold(f64::MIN, f64::max);
    let low = values.iter().copied().fold(f64::MAX, f64::min);
    high - low
}

#[test]
fn values_outside_of_the_brackets_are_found() {
    let text = |counter: f64, gauge: f64| {
        parse(&format!(
            "# HELP go_a A.\n# TYPE go_a counter\ngo_a {counter}\n# TYPE go_b gauge\ngo_b{{x=\"y z\"}} {gauge}\n\
             # TYPE go_s summary\ngo_s{{quantile=\"0\"}} 1\ngo_s_sum 2\n"
        ))
    };
    let round = |ours| Round { before: text(1.0, 5.0), ours, behind: text(3.0, 7.0) };
    assert!(compare(&[round(text(2.0, 8.5))]).all_equal());
    let off = compare(&[round(text(3.5, 10.0))]);
    assert_eq!((off.equal, off.of), (2, 4), "{off:?}");
    let round = |ours: f64| {
        let text = |count: f64| {
            parse(&format!(
                "# HELP go_gc_duration_seconds P.\n# TYPE go_goroutines gauge\ngo_goroutines {count}\n"
            ))
        };
        Round { before: text(17.0), ours: text(ours), behind: text(17.0) }
    };
    assert!(compare(&[round(11.0)]).all_equal() && compare(&[round(13.0)]).all_equal());
    assert!(!compare(&[round(10.0)]).all_equal() && !compare(&[round(14.0)]).all_equal());
    assert_eq!(parse("# TYPE go_s summary\ngo_s_sum 2\n")["go_s"].samples["go_s_sum"], 2.0);
}
