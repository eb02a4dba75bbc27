//! Figures in sentences for people.

use std::time::Duration;

/// A number of bytes: "12 KiB".
pub fn bytes(value: f64) -> String {
    let mut value = value.max(0.0);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            let digits = usize::from(value < 9.95 && unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Bytes per second: "12 KiB/s".
pub fn rate(value: f64) -> String {
    bytes(value) + "/s"
}

/// A time, to about two digits: "350 ms", "12 s", "4 min", "5 h 40 min", "3 days".
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 if seconds % 3600 < 60 => format!("{} h", seconds / 3600),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_say_them() {
        assert_eq!([0.0, 999.0, 1536.0, 12_345_678.0].map(bytes), ["0 B", "999 B", "1.5 KiB", "12 MiB"]);
        assert_eq!(rate(f64::NAN), "0 B/s");
        let times = [0.25, 90.0, 300.0, 20_400.0, 21_600.0, 1e6].map(Duration::from_secs_f64).map(duration);
        assert_eq!(times, ["250 ms", "90 s", "5 min", "5 h 40 min", "6 h", "11 days"]);
    }
}
