//! Numbers as Grafana writes them, and where an axis has its ticks.

/// A value with its unit.
pub fn shown(value: f64, unit: &str, decimals: Option<usize>) -> String {
    match unit {
        "bytes" => scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"], decimals),
        "binBps" => scaled(value, 1024.0, &["B/s", "KiB/s", "MiB/s", "GiB/s"], decimals),
        "percentunit" => format!("{} %", rounded(value * 100.0, decimals)),
        "percent" => format!("{} %", rounded(value, decimals)),
        "s" => seconds(value, decimals),
        "cps" | "ops" => format!("{}/s", short(value, decimals)),
        "none" => rounded(value, decimals),
        _ => short(value, decimals),
    }
}

fn short(value: f64, decimals: Option<usize>) -> String {
    if value.abs() < 1000.0 {
        return rounded(value, decimals);
    }
    scaled(value, 1000.0, &["", "K", "M", "G", "T"], decimals)
}

fn seconds(value: f64, decimals: Option<usize>) -> String {
    match value.abs() {
        0.0 => "0 s".to_owned(),
        v if v < 1e-3 => format!("{} µs", rounded(value * 1e6, decimals)),
        v if v < 1.0 => format!("{} ms", rounded(value * 1e3, decimals)),
        v if v < 90.0 => format!("{} s", rounded(value, decimals)),
        _ => format!("{} min", rounded(value / 60.0, decimals)),
    }
}

fn scaled(value: f64, base: f64, names: &[&str], decimals: Option<usize>) -> String {
    let mut value = value;
    let mut index = 0;
    while value.abs() >= base && index + 1 < names.len() {
        value /= base;
        index += 1;
    }
    let gap = if names[index].len() > 1 { " " } else { "" };
    let name = if value == 0.0 && names[index].is_empty() { "" } else { names[index] };
    let gap = if name == "B" { " " } else { gap };
    format!("{}{gap}{name}", rounded(value, decimals))
}

/// Three digits that mean something, without zeros at the end.
fn rounded(value: f64, decimals: Option<usize>) -> String {
    let digits = decimals.unwrap_or(match value.abs() {
        v if v == 0.0 || v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    });
    let text = format!("{value:.digits$}");
    if decimals.is_some() || !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Round values from `low` to at least `high`, about so many of them.
pub fn ticks(low: f64, high: f64, unit: &str, wanted: f64) -> Vec<f64> {
    let span = if high > low { high - low } else { 1.0 };
    // Steps of bytes are round in bytes: 512 KiB, 1 MiB, 2 MiB.
    let base: f64 = if matches!(unit, "bytes" | "binBps") { 1024.0 } else { 1000.0 };
    let rough = span / wanted;
    let scale = base.powf(rough.log(base).floor());
    let steps: &[f64] = if base == 1024.0 {
        &[1.0, 2.0, 4.0, 8.0, 10.0, 20.0, 32.0, 50.0, 64.0, 128.0, 256.0, 512.0, 1024.0]
    } else {
        &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
    };
    let step = scale * steps.iter().copied().find(|step| step * scale >= rough).unwrap_or(base);
    let first = (low / step).floor();
    let last = (high / step - 1e-9).ceil();
    (0..=((last - first).max(1.0) as usize)).map(|index| (first + index as f64) * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(shown(10_683_719.0, "bytes", None), "10.2 MiB");
        assert_eq!(shown(0.0, "bytes", None), "0 B");
        assert_eq!(shown(1536.0, "binBps", None), "1.5 KiB/s");
        assert_eq!(shown(0.0853, "percentunit", Some(1)), "8.5 %");
        assert_eq!(shown(9765.0, "short", None), "9.77K");
        assert_eq!(shown(0.016, "s", None), "16 ms");
        assert_eq!(shown(3.0, "none", None), "3");
        assert_eq!(shown(60.25, "cps", None), "60.2/s");
    }

    #[test]
    fn ticks_are_round_and_cover_all() {
        assert_eq!(ticks(0.0, 9.3, "short", 4.0), [0.0, 5.0, 10.0]);
        assert_eq!(ticks(0.0, 1.0, "percentunit", 4.0), [0.0, 0.5, 1.0]);
        let bytes = ticks(0.0, 11e6, "bytes", 4.0);
        assert_eq!(bytes[1], 4.0 * 1024.0 * 1024.0);
        assert!(*bytes.last().unwrap() >= 11e6);
    }
}
