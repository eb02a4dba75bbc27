//! Colours: Grafana's dark theme, its names for colours and its palette.

pub const BACKGROUND: &str = "#111217";
pub const PANEL: &str = "#181b1f";
pub const BORDER: &str = "#26292e";
pub const GRID: &str = "#26292f";
pub const TEXT: &str = "#d0d1dd";
pub const DIM: &str = "#8d8f9b";
pub const LINK: &str = "#6e9fff";

/// Colours of series that have none of their own, in order.
const PALETTE: [&str; 12] = [
    "#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#37872D", "#FADE2A",
    "#3274D9", "#FF9830", "#C4162A",
];

/// The colour of the series with this number.
pub fn palette(index: usize) -> &'static str {
    PALETTE[index % PALETTE.len()]
}

/// A colour by Grafana's name for it.
pub fn color(name: &str) -> &str {
    match name {
        "red" => "#F2495C",
        "dark-red" => "#C4162A",
        "orange" => "#FF9830",
        "dark-orange" => "#FA6400",
        "yellow" => "#FADE2A",
        "green" => "#73BF69",
        "blue" => "#5794F2",
        "light-blue" => "#8AB8FF",
        "semi-dark-blue" => "#3274D9",
        "purple" => "#B877D9",
        "text" => TEXT,
        other => other,
    }
}

/// From dark to bright, for a share between 0 and 1.
pub fn heat(share: f64) -> String {
    // Inferno, at five places.
    const STOPS: [(f64, f64, f64); 6] = [
        (30.0, 18.0, 60.0),
        (87.0, 16.0, 110.0),
        (158.0, 42.0, 99.0),
        (221.0, 81.0, 58.0),
        (249.0, 149.0, 9.0),
        (252.0, 240.0, 150.0),
    ];
    let place = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let index = (place as usize).min(STOPS.len() - 2);
    let (part, from, to) = (place - index as f64, STOPS[index], STOPS[index + 1]);
    let mix = |a: f64, b: f64| (a + (b - a) * part).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}
