use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::push::policy::Failure;

/// How a line fares with the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    /// Refused. How much is told depends on the generation.
    Bad,
    /// The server fails on whatever this is part of.
    Poison,
}

/// What happens to a request, whatever is in it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Refused,
    Reset,
    /// Stored, and nobody hears of it.
    LostAnswer,
    Busy,
    Unauthorized,
    Fails,
}

/// How v1 and v3 tell which lines they refuse, and what nobody says.
#[derive(Clone, Copy, Debug)]
enum Tells {
    Quotes,
    Count,
    Numbers,
    /// Numbers that are wrong by one.
    Lies,
    Nothing,
}

#[derive(Debug)]
struct Model {
    kinds: BTreeMap<String, Kind>,
    tells: Tells,
    /// v2: nothing is stored if one line is refused.
    all_or_nothing: bool,
    most_bytes: usize,
    faults: Vec<Fault>,
    stored: BTreeSet<String>,
    requests: u64,
}

impl Wire for Model {
    fn write(&mut self, lines: &str) -> Answer {
        assert!(!lines.is_empty());
        self.requests += 1;
        let says =
            |status, body: String| Answer { result: Ok(status), retry_after: None, location: None, body };
        let fault = if self.faults.is_empty() { Fault::None } else { self.faults.remove(0) };
        match fault {
            Fault::None | Fault::LostAnswer => {}
            Fault::Refused => return Answer::failed(Failure::Unreachable(String::new())),
            Fault::Reset => return Answer::failed(Failure::Reset(String::new())),
            Fault::Busy => return says(503, String::new()),
            Fault::Unauthorized => return says(401, String::new()),
            Fault::Fails => return says(500, String::new()),
        }
        if lines.len() > self.most_bytes {
            return says(413, String::new());
        }
        let lines: Vec<&str> = lines.split('\n').collect();
        assert!(lines.len() <= MOST_LINES);
        let kind = |line: &&str| self.kinds[*line];
        if lines.iter().any(|line| kind(line) == Kind::Poison) {
            return says(500, String::new());
        }
        let bad: Vec<usize> = (0..lines.len()).filter(|&at| kind(&lines[at]) == Kind::Bad).collect();
        if bad.is_empty() || !self.all_or_nothing {
            let good = lines.iter().filter(|line| kind(line) == Kind::Good);
            let good: Vec<String> = good.map(|line| (*line).to_owned()).collect();
            self.stored.extend(good);
        }
        if matches!(fault, Fault::LostAnswer) {
            return Answer::failed(Failure::Timeout(String::new()));
        }
        if bad.is_empty() {
            return says(204, String::new());
        }
        let numbers = |shift: usize| {
            let lines = bad.iter().map(|at| format!(r#"{{"line_number":{}}}"#, at + shift));
            format!(r#"{{"error":"x","data":[{}]}}"#, lines.collect::<Vec<_>>().join(","))
        };
        let quotes = || {
            let quotes = bad.iter().map(|&at| format!("unable to parse '{}': x", lines[at]));
            format!(r#"{{"error":"{}"}}"#, quotes.collect::<Vec<_>>().join("\\n"))
        };
        says(
            400,
            match self.tells {
                Tells::Quotes => quotes(),
                Tells::Count => format!(r#"{{"error":"partial write: x dropped={}"}}"#, bad.len()),
                Tells::Numbers => numbers(1),
                Tells::Lies => numbers(2),
                Tells::Nothing => r#"{"error":"line protocol"}"#.to_owned(),
            },
        )
    }

    fn api(&self) -> Option<Api> {
        Some(if matches!(self.tells, Tells::Numbers | Tells::Lies) { Api::V3 } else { Api::V1 })
    }
}

/// What the deliveries of one batch came to, with another batch in between as in earnest.
#[derive(Debug, Default)]
struct Course {
    aside: Vec<String>,
    stored: u64,
    requests: u64,
    most_requests: u64,
    done: bool,
}

fn run(model: &mut Model, text: &str, rounds: usize) -> Course {
    let mut delivery = Delivery::default();
    let (mut course, mut rest) = (Course::default(), text.to_owned());
    for round in 0..rounds {
        let mut aside = Vec::new();
        let before = model.requests;
        let delivered = delivery.deliver(model, &rest, &mut |line, _| aside.push(line.to_owned()), &|| true);
        assert_eq!(delivered.requests, model.requests - before);
        assert_eq!(delivered.quarantined, aside.len() as u64);
        course.most_requests = course.most_requests.max(delivered.requests);
        course.requests += delivered.requests;
        course.stored += delivered.stored;
        let left = match delivered.outcome {
            Outcome::Done => String::new(),
            Outcome::Later { rest, .. }
            | Outcome::Doubtful { rest, .. }
            | Outcome::Misconfigured { rest, .. } => rest,
        };
        // Each line went one way, and what went is true.
        let lines: Vec<&str> = rest.split('\n').collect();
        let remain: BTreeSet<&str> = left.split('\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(delivered.stored + delivered.quarantined + remain.len() as u64, lines.len() as u64);
        for line in lines.iter().filter(|line| !remain.contains(*line)) {
            assert!(model.stored.contains(*line) != aside.iter().any(|aside| aside == line), "{line}");
        }
        course.aside.extend(aside);
        rest = left;
        if rest.is_empty() {
            course.done = true;
            break;
        }
        let other = format!("other v={round}");
        model.kinds.insert(other.clone(), Kind::Good);
        delivery.deliver(model, &other, &mut |_, _| panic!("a good line"), &|| true);
    }
    course
}

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let kind = prop_oneof![30 => Just(Kind::Good), 2 => Just(Kind::Bad), 1 => Just(Kind::Poison)];
    prop_oneof![
        vec(kind, 1..200),
        vec(prop_oneof![Just(Kind::Good), Just(Kind::Bad)], 1..200),
        vec(Just(Kind::Bad), 1..200),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Refused),
        1 => Just(Fault::Reset),
        1 => Just(Fault::LostAnswer),
        1 => Just(Fault::Busy),
        1 => Just(Fault::Unauthorized),
    ]
}

fn tells() -> impl Strategy<Value = Tells> {
    use Tells::{Count, Lies, Nothing, Numbers, Quotes};
    prop_oneof![Just(Quotes), Just(Count), Just(Numbers), Just(Lies), Just(Nothing)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_stored_or_set_aside_good_ones_never_aside_and_bad_ones_block_nobody(
        kinds in kinds(),
        faults in vec(fault(), 0..60),
        // Fewer than it takes to suspect a line: nobody can tell more of them from a poisoned line.
        failures in vec(any::<Index>(), 0..4),
        tells in tells(),
        all_or_nothing in any::<bool>(),
        most_bytes in prop_oneof![Just(MOST_BYTES), 20_usize..400],
    ) {
        let line = |at: usize| format!("m{},t={} v=1 {at}", at % 3, at % 5);
        let lines: Vec<String> = (0..kinds.len()).map(line).collect();
        let mut faults = faults;
        for failure in failures {
            let at = failure.index(faults.len() + 1);
            faults.insert(at, Fault::Fails);
        }
        let mut model = Model {
            kinds: lines.iter().cloned().zip(kinds.iter().copied()).collect(),
            tells, all_or_nothing, most_bytes, faults,
            stored: BTreeSet::new(),
            requests: 0,
        };
        let course = run(&mut model, &lines.join("\n"), 400);
        prop_assert!(course.done, "{course:?}");
        prop_assert!(course.most_requests <= MOST_REQUESTS);
        let count = |wanted| kinds.iter().filter(|&&kind| kind == wanted).count() as u64;
        let (bad, poison) = (count(Kind::Bad), count(Kind::Poison));
        // Finding a line costs two requests for each halving, being sure of a poisoned one five more, a fault three, small pieces their number.
        let pieces = 3 * (lines.join("\n").len() / most_bytes.min(MOST_BYTES) + 1) as u64;
        let most = 400 + 20 * (bad + poison) + 12 * poison * 5 + pieces * 4;
        prop_assert!(course.requests <= most, "{} > {most}", course.requests);
        for (line, kind) in lines.iter().zip(&kinds) {
            let aside = course.aside.iter().filter(|aside| *aside == line).count();
            let lies = matches!(tells, Tells::Lies);
            match kind {
                Kind::Good => prop_assert!(aside == 0 && model.stored.contains(line), "{line} {lies}"),
                Kind::Bad | Kind::Poison => prop_assert_eq!(aside, 1, "{}", line),
            }
        }
        prop_assert_eq!(course.stored, count(Kind::Good));
    }
}

fn model(lines: &[String], kind: impl Fn(usize) -> Kind, tells: Tells) -> Model {
    Model {
        kinds: lines.iter().cloned().enumerate().map(|(at, line)| (line, kind(at))).collect(),
        tells,
        all_or_nothing: true,
        most_bytes: MOST_BYTES,
        faults: Vec::new(),
        stored: BTreeSet::new(),
        requests: 0,
    }
}

#[test]
fn five_thousand_bad_lines_that_nobody_names_are_paced() {
    let lines: Vec<String> = (0..5_000).map(|at| format!("m{} v=1 {at}", at % 40)).collect();
    for (tells, most) in
        [(Tells::Nothing, 10_000), (Tells::Count, 1), (Tells::Numbers, 1), (Tells::Quotes, 1)]
    {
        let mut model = model(&lines, |_| Kind::Bad, tells);
        let course = run(&mut model, &lines.join("\n"), 100);
        assert!(course.done && course.aside.len() == 5_000);
        assert!(
            course.most_requests <= MOST_REQUESTS && course.requests <= most,
            "{tells:?} {}",
            course.requests
        );
    }
}

#[test]
fn every_second_line_bad_costs_little_if_the_server_tells_anything() {
    let lines: Vec<String> = (0..5_000).map(|at| format!("m{} v=1 {at}", at % 2)).collect();
    for (tells, most) in [(Tells::Count, 3), (Tells::Numbers, 3), (Tells::Quotes, 3)] {
        let mut model = model(&lines, |at| if at % 2 == 0 { Kind::Bad } else { Kind::Good }, tells);
        let course = run(&mut model, &lines.join("\n"), 100);
        assert!(course.done && course.requests <= most, "{tells:?} {}", course.requests);
    }
}

#[test]
fn lines_of_one_shape_stay_together_whatever_is_escaped_or_quoted() {
    let lines = [
        r#"a\,b\ c,t=1 v=1 2"#,
        r#"a\,b v=1 1"#,
        r#"a\,b\ c v=2i 1"#,
        r#"a\,b,x=1 v=12 1"#,
        r#"a\,b v="x, y=1 \" z" 1"#,
        r#"a\,b v="other" 9"#,
        "odd",
        "odd,",
        "",
        "a b=1,",
        "a b",
    ];
    let mut pieces = vec![Piece::all(lines.len())];
    let mut groups = Vec::new();
    while let Some(piece) = pieces.pop() {
        let halves = piece.without(None, &lines);
        let together = |wanted: [usize; 2]| {
            halves.iter().any(|half| wanted.iter().all(|it| half.indexes().any(|at| at == *it)))
        };
        if halves.iter().any(|half| half.indexes().any(|at| at == 1)) {
            groups.push((together([1, 3]), together([4, 5]), together([1, 4])));
        }
        pieces.extend(halves.into_iter().filter(|half| half.len() > 2));
    }
    // The two that are one shape are parted last.
    assert!(groups.iter().all(|(same, ..)| *same), "{groups:?}");
    assert!(groups.iter().any(|(_, _, differ)| !differ), "{groups:?}");
}
