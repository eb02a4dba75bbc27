//! Points of all kinds: encoded, spooled, delivered, and read back as they were.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use profiler::{
    export::line_protocol::{Encoder, Options, Point, Value as Written},
    push::{
        client::{Client, Credentials, Server, Timeouts},
        delivery::{Delivery, Outcome},
        spool::{Limits, Spool},
    },
};

use crate::{
    DATABASE,
    common::{
        Scratch,
        influxd::Influxd,
        lines::{Book, Fields, Series, Value},
    },
    long,
};

/// Texts that programs out there may have, and worse.
const TEXTS: [&str; 20] = [
    "plain",
    "two words",
    "a,b=c d",
    "quo\"ted",
    "new\nline x=1 1",
    "tab\tbed\r\n",
    "back\\slash",
    "ends in \\",
    "\\\\\\",
    "ünïcödé 🦀 漢字",
    "#comment",
    "\u{202e}from right to left",
    "'single' `back`",
    "{json: [1, 2]}",
    "\u{7f}\u{85}controls\u{0}",
    " blank before",
    "blank behind ",
    "time",
    "",
    "= , =",
];
/// Names of measurements, and what they become.
const MEASUREMENTS: [(&str, &str); 10] = [
    ("plain", "plain"),
    ("two words", "two words"),
    ("comma,here", "comma,here"),
    ("equal=sign", "equal=sign"),
    ("quo\"te", "quo\"te"),
    ("back\\slash", "back\u{ff3c}slash"),
    ("##comment", "comment"),
    ("ünï 漢", "ünï 漢"),
    ("new\nline", "newline"),
    ("select from where", "select from where"),
];
/// What a batch has.
const BATCH: usize = 5_000;

/// Numbers that look random and are the same each time (splitmix64, Steele and others 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is small")
    }
}

/// The `number`th point of a measurement, and what it has to be when it is read.
fn point(measurement: usize, number: usize) -> (Point<'static>, (Series, i64, Fields)) {
    let mut numbers = Numbers((measurement * 1_000_000 + number) as u64);
    let (name, read_name) = MEASUREMENTS[measurement];
    let host = format!("host {}", numbers.below(7));
    let site = TEXTS[numbers.below(TEXTS.len())];
    let words = TEXTS[numbers.below(TEXTS.len())];
    let float = match numbers.below(4) {
        0 => numbers.below(1_000) as f64,
        1 => numbers.below(1_000_000) as f64 / 1e3,
        _ => Some(f64::from_bits(numbers.next())).filter(|float| float.is_finite()).unwrap_or(0.1),
    };
    let (integer, unsigned) = (numbers.next().cast_signed(), numbers.next() >> numbers.below(64));
    let boolean = numbers.below(2) == 0;
    // Whole nanoseconds, none of them round.
    let time = 1_700_000_000_123_456_789 + (number * 1_000_003 + numbers.below(1_000_000)) as i64;
    let point = Point {
        measurement: Cow::from(name),
        tags: vec![
            ("site".into(), site.into()),
            ("host".into(), host.clone().into()),
            ("key, of=all".into(), "v".into()),
        ],
        fields: vec![
            ("float".into(), Written::Float(float)),
            ("integer".into(), Written::Integer(integer)),
            ("un signed".into(), Written::Unsigned(unsigned)),
            ("wörds=".into(), Written::Text(words.into())),
            ("boolean".into(), Written::Boolean(boolean)),
        ],
        time_ns: time,
    };
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let mut tags = BTreeMap::from([("host".to_owned(), host), ("key, of=all".to_owned(), "v".to_owned())]);
    if !site.is_empty() {
        tags.insert("site".to_owned(), clean(site).replace('\\', "\u{ff3c}"));
    }
    let fields = Fields::from([
        ("float".to_owned(), Value::Float(float.to_bits())),
        ("integer".to_owned(), Value::Integer(integer)),
        ("un signed".to_owned(), Value::Integer(i64::try_from(unsigned).unwrap_or(i64::MAX))),
        ("wörds=".to_owned(), Value::Text(clean(words))),
        ("boolean".to_owned(), Value::Boolean(boolean)),
    ]);
    (point, ((read_name.to_owned(), tags), time, fields))
}

fn client(server: &Influxd) -> Client {
    let credentials = Credentials { user: None, password: None, token: None };
    let server =
        Server { url: server.url(), api: None, database: DATABASE.to_owned(), org: None, credentials };
    Client::new(server, Timeouts::default()).expect("the address is one")
}

#[test]
fn points_of_all_kinds_are_read_back_as_they_were() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let of_each = if long() { 100_000 } else { 10_000 };
    let directory = Scratch::directory("spool");
    let limits = Limits { bytes: 4 << 30, age: Duration::from_secs(1 << 30) };
    let spool = Spool::open(directory.path(), limits).expect("a spool");
    let began = Instant::now();
    let mut encoder = Encoder::new(Options::default());
    let all = (0..of_each).flat_map(|number| (0..MEASUREMENTS.len()).map(move |of| point(of, number).0));
    let (mut text, mut count) = (String::new(), 0);
    for point in all {
        assert!(encoder.encode(point, &mut text), "every point has a field and a time");
        count += 1;
        if count % BATCH == 0 {
            spool.append(SystemTime::now(), BATCH as u32, &text).expect("the disk has room");
            text.clear();
        }
    }
    assert_eq!(count, of_each * MEASUREMENTS.len());
    let spooled = began.elapsed();
    let (mut client, mut delivery, mut stored) = (client(&server), Delivery::default(), 0);
    while let Some(id) = spool.oldest() {
        let lines = spool.read(id).expect("it can be read").expect("nobody has taken it");
        let refused = &mut |line: &str, reason: &str| panic!("refused: {reason}: {line}");
        let delivered = delivery.deliver(&mut client, &lines, refused, &|| true);
        assert_eq!(delivered.outcome, Outcome::Done);
        stored += delivered.stored;
        spool.remove(id).expect("it can be removed");
    }
    let sent = began.elapsed();
    assert_eq!(stored, count as u64);
    let expected_types = [
        ("boolean", "boolean"),
        ("float", "float"),
        ("integer", "integer"),
        ("un signed", "integer"),
        ("wörds=", "string"),
    ];
    let expected_types = expected_types.map(|(field, kind)| (field.to_owned(), kind.to_owned()));
    for (of, (_, name)) in MEASUREMENTS.into_iter().enumerate() {
        assert_eq!(server.types(DATABASE, name), BTreeMap::from(expected_types.clone()), "{name}");
        let mut expected = Book::default();
        for (series, time, fields) in (0..of_each).map(|number| point(of, number).1) {
            expected.insert(series, time, fields);
        }
        assert_eq!(expected.points.len(), of_each);
        let read = server.points(DATABASE, name);
        read.has_all_of(&expected);
        assert_eq!(read.points.len(), of_each, "{name}: there are others, too");
    }
    let names: Vec<_> = server.measurements(DATABASE);
    assert_eq!(names.len(), MEASUREMENTS.len(), "{names:?}");
    println!(
        "{count} points: encoded and spooled after {spooled:?}, delivered after {sent:?}, compared after {:?}",
        began.elapsed()
    );
}
