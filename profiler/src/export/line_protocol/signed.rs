//! Unsigned fields as integers.

/// Where in a line we are.
#[derive(Clone, Copy)]
enum Place {
    /// In the measurement and the tags.
    Series,
    /// In a field's key.
    Key,
    /// At the beginning of a field's value.
    Value,
    /// In a text.
    Text,
    /// After the fields, in the time.
    Time,
}

/// The same lines with every unsigned field as an integer, at most `i64::MAX`: for a server that turns out not to know
/// unsigned ones. Only values of fields are changed; a text or a tag which looks like one isn't. Text that isn't made of
/// lines comes back as it is, or with such values changed, but never fails.
pub fn signed(lines: &str) -> String {
    let bytes = lines.as_bytes();
    let mut out = String::with_capacity(lines.len());
    let (mut copied, mut at, mut place) = (0, 0, Place::Series);
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1);
        at += 1;
        place = match (place, byte) {
            // In a text every pair is one; in a name the backslash stands for itself unless one of these follows.
            (Place::Text, b'\\') => {
                at += usize::from(next.is_some());
                Place::Text
            }
            (Place::Series | Place::Key, b'\\') => {
                at += usize::from(matches!(next, Some(b',' | b'=' | b' ')));
                place
            }
            (Place::Text, b'"') => Place::Time,
            (Place::Text, _) => Place::Text,
            (_, b'\n') => Place::Series,
            (Place::Series, b' ') => Place::Key,
            (Place::Key, b'=') => Place::Value,
            (Place::Value, b'"') => Place::Text,
            (Place::Value, _) => {
                let start = at - 1;
                while !matches!(bytes.get(at), None | Some(b',' | b' ' | b'\n')) {
                    at += 1;
                }
                if let Some(number) = unsigned(&lines[start..at]) {
                    out.push_str(&lines[copied..start]);
                    out.push_str(&format!("{}i", i64::try_from(number).unwrap_or(i64::MAX)));
                    copied = at;
                }
                Place::Time
            }
            // A value is at its end here: either another field follows or the time.
            (Place::Time, b',') => Place::Key,
            (place, _) => place,
        };
    }
    out.push_str(&lines[copied..]);
    out
}

fn unsigned(value: &str) -> Option<u64> {
    let digits = value.strip_suffix('u')?;
    // A number that is too large isn't ours; the server is to say so.
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}
