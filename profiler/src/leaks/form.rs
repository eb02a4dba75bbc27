//! How the reports look as JSON: times as seconds since the epoch, lengths of time as seconds, pairs with names. The same
//! forms are read back, also from formats that don't describe themselves.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::{Estimate, Source};

/// A moment as seconds since the epoch.
pub mod moment {
    use super::*;

    /// A moment before the epoch becomes the epoch.
    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().serialize(serializer)
    }

    /// What no clock can show is refused.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let since_epoch = length(f64::deserialize(deserializer)?).map_err(D::Error::custom)?;
        UNIX_EPOCH.checked_add(since_epoch).ok_or_else(|| D::Error::custom("a time beyond all clocks"))
    }
}

/// A length of time as seconds.
pub mod seconds {
    use super::*;

    /// With fractions.
    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_secs_f64().serialize(serializer)
    }

    /// What is negative, infinite or too long is refused.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        length(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn length(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{seconds} seconds: {error}"))
}

/// A number that may be infinite or none at all, which JSON can't say: `null` there.
pub mod number {
    use super::*;

    /// `null` only where people read it.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() && !value.is_finite() {
            serializer.serialize_none()
        } else {
            serializer.serialize_f64(*value)
        }
    }

    /// `null` is read as "not a number".
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        if deserializer.is_human_readable() {
            Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
        } else {
            f64::deserialize(deserializer)
        }
    }
}

/// A value that is written as another one, its form.
macro_rules! written_as {
    ($(#[$doc:meta])* $module:ident, $value:ty, $form:ty) => {
        $(#[$doc])*
        pub mod $module {
            use super::*;

            /// Writes the form.
            pub fn serialize<S: Serializer>(value: &$value, serializer: S) -> Result<S::Ok, S::Error> {
                <$form>::from(value).serialize(serializer)
            }

            /// Reads the form.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$value, D::Error> {
                <$form>::deserialize(deserializer).map(Into::into)
            }
        }
    };
}

written_as!(
    /// A moment that may be missing.
    optional_moment, Option<SystemTime>, Optional<Moment>
);
written_as!(
    /// How much of what has reached an age is alive.
    survival, Vec<(Duration, f64)>, Many<Alive>
);
written_as!(
    /// Samples drawn and alive.
    samples, (u64, u64), Samples
);
written_as!(
    /// What was looked for, and what nothing points to.
    unreferenced, Option<(u32, u32)>, Optional<Unreferenced>
);
written_as!(
    /// Where samples come from, or why there are none.
    source, Result<Source, String>, Origin
);
written_as!(
    /// Sites that had no place.
    other, (u64, Estimate), Other
);
/// Reasons and counts as one object, in their order.
pub mod counts {
    use super::*;

    /// Writes an object.
    pub fn serialize<S: Serializer>(counts: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(counts.iter().map(|(reason, count)| (reason, count)))
    }

    /// Reads an object.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, u64)>, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Vec<(String, u64)>;

    fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str("reasons and counts")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut counts = Vec::new();
        while let Some(entry) = map.next_entry()? {
            counts.push(entry);
        }
        Ok(counts)
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Moment(#[serde(with = "moment")] SystemTime);

#[derive(Serialize, Deserialize)]
struct Alive {
    #[serde(with = "seconds")]
    age_seconds: Duration,
    #[serde(with = "number")]
    alive: f64,
}

#[derive(Serialize, Deserialize)]
struct Samples {
    drawn: u64,
    alive: u64,
}

#[derive(Serialize, Deserialize)]
struct Unreferenced {
    looked_for: u32,
    unreferenced: u32,
}

/// One of both is there.
#[derive(Serialize, Deserialize)]
struct Origin {
    kind: Option<Source>,
    missing_because: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Other {
    samples: u64,
    live_bytes: Estimate,
}

#[derive(Serialize, Deserialize)]
struct Optional<T>(Option<T>);

#[derive(Serialize, Deserialize)]
struct Many<T>(Vec<T>);

impl From<&Option<SystemTime>> for Optional<Moment> {
    fn from(value: &Option<SystemTime>) -> Self {
        Self(value.map(Moment))
    }
}

impl From<Optional<Moment>> for Option<SystemTime> {
    fn from(form: Optional<Moment>) -> Self {
        form.0.map(|moment| moment.0)
    }
}

impl From<&Vec<(Duration, f64)>> for Many<Alive> {
    fn from(value: &Vec<(Duration, f64)>) -> Self {
        Self(value.iter().map(|(age, alive)| Alive { age_seconds: *age, alive: *alive }).collect())
    }
}

impl From<Many<Alive>> for Vec<(Duration, f64)> {
    fn from(form: Many<Alive>) -> Self {
        form.0.into_iter().map(|one| (one.age_seconds, one.alive)).collect()
    }
}

impl From<&(u64, u64)> for Samples {
    fn from((drawn, alive): &(u64, u64)) -> Self {
        Self { drawn: *drawn, alive: *alive }
    }
}

impl From<Samples> for (u64, u64) {
    fn from(form: Samples) -> Self {
        (form.drawn, form.alive)
    }
}

impl From<&Option<(u32, u32)>> for Optional<Unreferenced> {
    fn from(value: &Option<(u32, u32)>) -> Self {
        Self(value.map(|(looked_for, unreferenced)| Unreferenced { looked_for, unreferenced }))
    }
}

impl From<Optional<Unreferenced>> for Option<(u32, u32)> {
    fn from(form: Optional<Unreferenced>) -> Self {
        form.0.map(|one| (one.looked_for, one.unreferenced))
    }
}

impl From<&Result<Source, String>> for Origin {
    fn from(value: &Result<Source, String>) -> Self {
        Self { kind: value.as_ref().ok().copied(), missing_because: value.as_ref().err().cloned() }
    }
}

impl From<Origin> for Result<Source, String> {
    fn from(form: Origin) -> Self {
        form.kind.ok_or_else(|| form.missing_because.unwrap_or_default())
    }
}

impl From<&(u64, Estimate)> for Other {
    fn from((samples, live_bytes): &(u64, Estimate)) -> Self {
        Self { samples: *samples, live_bytes: *live_bytes }
    }
}

impl From<Other> for (u64, Estimate) {
    fn from(form: Other) -> Self {
        (form.samples, form.live_bytes)
    }
}
