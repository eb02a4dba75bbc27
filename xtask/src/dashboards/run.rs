//! `cargo xtask dashboards --run`: every query of every dashboard, asked of real servers that a real run has filled; and
//! pictures of what they answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::answers::{Series, Servers};
use super::draw::{self, Annotation, Panel, Span};
use super::generated;
use super::questions::{self, Language, Question, Shape, Variables, items, text};
use super::stage::{Databases, Workload, free_port};
use crate::{build, command, debian, style, workspace};

/// Which questions may have no answer on a healthy run, and why: by language and the beginning of their place.
const MAY_BE_EMPTY: [(Language, &str, &str); 4] = [
    (Language::PromQl, "annotation ", "no verdict has to change to each of them during a run"),
    (Language::InfluxQl, "annotation ", "the same"),
    (Language::InfluxQl, "Leaking", "InfluxQL has no zero for what it doesn't find; the panel shows one"),
    (Language::InfluxQl, "Growing", "the same"),
];

/// Programs and the Debian packages that have them.
const NEEDS: [(&str, &str); 6] = [
    ("prometheus", "prometheus"),
    ("influxd", "influxdb"),
    ("redis-server", "redis-server"),
    ("cc", "gcc"),
    ("c++", "g++"),
    ("python3", "python3"),
];

/// The same for drawing.
const DRAWING: [(&str, &str); 2] = [("rsvg-convert", "librsvg2-bin"), ("pngquant", "pngquant")];
/// The letters of pictures. With others, texts are wider than the room that was made for them.
const FONTS: &str = "fonts-dejavu-core";

/// Which dashboards are drawn, of which target, and to which file.
const PICTURES: [(&str, &str, &str); 4] = [
    ("profiler-overview", ".*", "dashboard-overview"),
    ("profiler-target", "shop", "dashboard-target"),
    ("profiler-self", ".*", "dashboard-profiler"),
    ("profiler-target-influxql", "shop", "dashboard-target-influxql"),
];

/// Where pictures go, seen from the repository's root.
const IMAGES: &str = "docs/images";

/// Seconds between two values: servers get one a second.
const STEP: u32 = 2;

/// The beginning, in which everything grows, is left out of the pictures.
const WARM_UP: f64 = 20.0;

/// What `--run` does.
pub struct Run {
    pub length: Duration,
    /// Ask the data of the last run again, instead of making new ones.
    pub again: bool,
    /// Draw the pictures, too, with an outage of InfluxDB in them.
    pub pictures: bool,
}

/// Runs all of it; fails if a query fails or has no answer.
pub fn run(run: &Run) -> Result<()> {
    for (program, package) in NEEDS {
        generated::need(program, package)?;
    }
    // The test leaves alone what the pictures were made of.
    let dir = workspace::target_dir().join(if run.pictures { "dashboards" } else { "dashboards-test" });
    let (databases, span) = if run.again { last(&dir)? } else { filled(&dir, run)? };
    let variables = |target: &str| Variables {
        target: target.to_owned(),
        host: "shop-1".to_owned(),
        from: span.from,
        to: span.to,
        step: STEP,
    };
    let asked = ask_all(databases.servers, &variables);
    if run.pictures {
        for (program, package) in DRAWING {
            generated::need(program, package)?;
        }
        if debian::is_here() && !debian::missing(&[FONTS]).is_empty() {
            debian::install(&[FONTS])?;
        }
        for (dashboard, target, file) in PICTURES {
            picture(databases.servers, dashboard, &variables(target), file)?;
        }
    }
    // The pictures show what is missing.
    asked
}

/// Lets everything run side by side, and returns the databases with what they have got.
fn filled(dir: &Path, run: &Run) -> Result<(Databases, Span)> {
    let mut cargo = workspace::cargo();
    command::run(cargo.args(["build", "-q", "-p", "profiler"]), build::WAY_OUT)?;
    command::unlock_sudo()?;
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("can't remove {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
    let port = free_port()?;
    let mut databases = Databases::start(dir, port)?;
    let mut workload =
        Workload::start(dir, port, databases.servers.influx, databases.prometheus(), run.length)?;
    let from = now();
    let begin = Instant::now();
    let at = |share: f64| run.length.mul_f64(share);
    let mut outages = run.pictures.then_some([(at(0.45), false), (at(0.6), true)]).into_iter().flatten();
    let mut outage = outages.next();
    while begin.elapsed() < run.length {
        workload.must_run()?;
        if let Some((_, back)) = outage.filter(|(when, _)| begin.elapsed() >= *when) {
            if back {
                databases.resume_influx()?;
            } else {
                databases.interrupt_influx();
            }
            outage = outages.next();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // Whole steps, for half a step has half the rate.
    let from = if run.pictures { from + WARM_UP } else { from };
    let span = Span { from: (from / 10.0).ceil() * 10.0, to: (now() / 10.0).floor() * 10.0 };
    std::fs::write(dir.join("span"), format!("{} {}", span.from, span.to)).context("can't keep the span")?;
    // What was written last has to arrive before it is asked for.
    std::thread::sleep(Duration::from_secs(3));
    Ok((databases, span))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The databases of the last run, without anything that fills them.
fn last(dir: &Path) -> Result<(Databases, Span)> {
    let kept =
        std::fs::read_to_string(dir.join("span")).context("there was no run yet: leave out --again")?;
    let (from, to) = kept.split_once(' ').context("the last run's span can't be read")?;
    let span = Span { from: from.parse()?, to: to.parse()? };
    Ok((Databases::start(dir, free_port()?)?, span))
}

/// Asks every question of every dashboard.
fn ask_all(servers: Servers, variables: &impl Fn(&str) -> Variables) -> Result<()> {
    let (mut asked, mut wrong) = (0, Vec::new());
    for kind in ["grafana", "chronograf"] {
        for (name, dashboard) in dashboards(kind)? {
            let all = if kind == "grafana" { grafana(&dashboard) } else { chronograf(&dashboard) };
            let target = if name.contains("target") { "shop" } else { ".*" };
            for question in all {
                asked += 1;
                match servers.ask(&question, &variables(target)) {
                    Ok(_) if may_be_empty(&question) => {}
                    Ok(answer) => wrong.extend(without_data(&question, &answer).map(|what| {
                        let query = question.filled(&variables(target));
                        format!("{kind}/{name}: {}: {what}: {query}", question.place)
                    })),
                    Err(error) => wrong.push(format!("{kind}/{name}: {error:#}")),
                }
            }
        }
    }
    for one in &wrong {
        println!("{one}");
    }
    if !wrong.is_empty() {
        bail!("{} of {asked} queries failed or returned nothing, listed above", wrong.len());
    }
    style::say(&format!("{} all {asked} queries of the dashboards return data", style::mark(true)));
    Ok(())
}

fn grafana(dashboard: &Value) -> Vec<Question> {
    let mut all = questions::variables(dashboard);
    all.extend(items(dashboard, "panels").iter().flat_map(questions::of_panel));
    all.extend(questions::annotations(dashboard).into_iter().map(|(question, _)| question));
    all
}

fn chronograf(dashboard: &Value) -> Vec<Question> {
    let mut all = questions::variables(dashboard);
    all.extend(questions::of_chronograf(dashboard));
    all
}

/// What an answer lacks. A variable has values that are names; everything else has figures or words, in each of its columns:
/// of a field that doesn't exist, InfluxDB gives a column without values.
fn without_data(question: &Question, answer: &[Series]) -> Option<String> {
    if question.shape == Shape::Variable && answer.iter().any(|one| !one.name.is_empty()) {
        return None;
    }
    let mut columns: BTreeMap<&str, bool> = BTreeMap::new();
    for one in answer {
        *columns.entry(&one.column).or_default() |= one.points.iter().any(|point| point.1.is_finite());
    }
    let empty: Vec<&str> = columns.iter().filter(|(_, has)| !**has).map(|(column, _)| *column).collect();
    match (columns.len(), empty.len()) {
        (_, 0) if !columns.is_empty() => None,
        (all, without) if all == without => Some("no data".to_owned()),
        _ => Some(format!("no data in the columns {}", empty.join(", "))),
    }
}

fn may_be_empty(question: &Question) -> bool {
    let is = |(language, place, _): &(Language, &str, &str)| {
        question.language == *language && question.place.starts_with(place)
    };
    MAY_BE_EMPTY.iter().any(is)
}

/// The generated dashboards of one kind, by name.
fn dashboards(kind: &str) -> Result<BTreeMap<String, Value>> {
    let dir = workspace::root().join("dashboards/generated").join(kind);
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir(&dir).with_context(|| format!("can't read {}", dir.display()))?;
    for entry in entries {
        let file = entry?.path();
        let Some(name) = file.file_stem().filter(|_| file.extension().is_some_and(|kind| kind == "json"))
        else {
            continue;
        };
        let json =
            std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
        let json = serde_json::from_str(&json).with_context(|| format!("{} isn't JSON", file.display()))?;
        found.insert(name.to_string_lossy().into_owned(), json);
    }
    Ok(found)
}

/// Draws a dashboard of Grafana.
fn picture(servers: Servers, name: &str, variables: &Variables, file: &str) -> Result<()> {
    let all = dashboards("grafana")?;
    let dashboard = all.get(name).with_context(|| format!("there is no dashboard {name}"))?;
    let mut panels = Vec::new();
    for options in items(dashboard, "panels") {
        let questions = questions::of_panel(options);
        let answers: Result<Vec<_>> =
            questions.iter().map(|question| servers.ask(question, variables)).collect();
        panels.push(Panel { options, answers: answers? });
    }
    let mut marks = Vec::new();
    for (question, color) in questions::annotations(dashboard) {
        let answer = servers.ask(&question, variables)?;
        // One mark where it begins, however long it is said.
        let begin = answer.iter().filter_map(|one| one.points.first().map(|point| point.0));
        marks.extend(begin.map(|at| Annotation { at, color: color.clone() }));
    }
    let listed = items(&dashboard["templating"], "list").iter().skip(1);
    let chosen = listed.map(|one| {
        let value =
            if text(one, "name") == "target" && variables.target != ".*" { &variables.target } else { "All" };
        (text(one, "label"), value.to_owned())
    });
    let chosen: Vec<_> = chosen.collect();
    let span = Span { from: variables.from, to: variables.to };
    let svg = draw::dashboard(dashboard, &panels, &chosen, span, &marks);
    let dir = workspace::root().join(IMAGES);
    std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    rasterised(&svg, file, &dir.join(format!("{file}.png")))
}

fn rasterised(svg: &str, name: &str, to: &Path) -> Result<()> {
    let from: PathBuf = workspace::target_dir().join("dashboards").join(format!("{name}.svg"));
    std::fs::write(&from, svg).with_context(|| format!("can't write {}", from.display()))?;
    let mut convert = Command::new("rsvg-convert");
    convert.arg("-o").arg(to).arg(&from);
    command::run(&mut convert, "install the Debian package `librsvg2-bin`")?;
    // Few colours are enough, and a quarter of the size.
    let mut fewer = Command::new("pngquant");
    fewer.args(["--force", "--skip-if-larger", "--speed", "1", "--output"]).arg(to).arg(to);
    command::run(&mut fewer, "install the Debian package `pngquant`")?;
    let size = std::fs::metadata(to).map_or(0, |file| file.len() / 1024);
    style::say(&format!("{} wrote {} ({size} KB)", style::mark(true), to.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says why it is left out; where no test may be (the CI), it fails.
    fn skip(reason: &str) {
        assert!(std::env::var_os("PROFILER_TESTS_MUST_RUN").is_none(), "{reason}");
        eprintln!("skipped: {reason}");
    }

    #[test]
    fn every_query_of_every_dashboard_returns_data_from_real_servers() {
        if !command::is_root() {
            return skip("only root may attach to a process");
        }
        if let Some((program, _)) = NEEDS.iter().find(|(program, _)| command::find(program).is_none()) {
            return skip(&format!("there is no {program}"));
        }
        if !workspace::profiler_binary("debug").exists() {
            return skip("the profiler is not built");
        }
        run(&Run { length: Duration::from_secs(40), again: false, pictures: false }).unwrap();
    }

    #[test]
    fn names_alone_are_data_of_a_variable_only() {
        let question = |shape| {
            let mut question = questions::of_panel(&panel())[0].clone();
            question.shape = shape;
            question
        };
        let named = [Series { name: "shop".to_owned(), ..Series::default() }];
        let lacks = |shape, answer: &[Series]| without_data(&question(shape), answer);
        assert_eq!(lacks(Shape::Variable, &named), None);
        assert!(lacks(Shape::Range, &named).is_some(), "a series without a value is none");
        assert!(lacks(Shape::Variable, &[]).is_some());
    }

    #[test]
    fn every_column_must_have_a_value_in_some_series() {
        let question = questions::of_panel(&panel())[0].clone();
        let series = |column: &str, value: Option<f64>| Series {
            column: column.to_owned(),
            points: value.into_iter().map(|value| (1.0, value)).collect(),
            ..Series::default()
        };
        let full = [series("a", Some(0.0)), series("b", None), series("a", None), series("b", Some(1.0))];
        assert_eq!(without_data(&question, &full), None);
        let lacks = |answer: &[Series]| without_data(&question, answer).unwrap_or_default();
        assert_eq!(lacks(&full[..3]), "no data in the columns b");
        assert_eq!(lacks(&[series("", Some(f64::NAN))]), "no data", "0 / 0 is none");
    }

    fn panel() -> Value {
        serde_json::json!({"title": "P", "targets": [{"expr": "up"}]})
    }

    #[test]
    fn only_what_is_listed_may_be_empty() {
        let mut question = questions::of_panel(&panel())[0].clone();
        assert!(!may_be_empty(&question));
        question.place = "annotation Verdict: steady".to_owned();
        assert!(may_be_empty(&question));
        question.place = "Leaking".to_owned();
        assert!(!may_be_empty(&question), "PromQL has zeros");
        question.language = Language::InfluxQl;
        assert!(may_be_empty(&question));
    }
}
