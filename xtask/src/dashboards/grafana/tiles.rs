//! Where panels lie on a dashboard's grid.

use serde_json::Value;

/// A rectangle with a name, in columns and rows of the grid.
#[derive(Clone, Debug)]
pub struct Tile {
    name: String,
    x: u64,
    y: u64,
    width: u64,
    height: u64,
}

impl Tile {
    /// Reads `{x, y, w, h}`.
    pub fn read(place: &Value, name: &str) -> Option<Self> {
        let side = |key: &str| place[key].as_u64();
        Some(Self {
            name: name.to_owned(),
            x: side("x")?,
            y: side("y")?,
            width: side("w")?,
            height: side("h")?,
        })
    }

    /// Whether it has a size and lies within so many columns.
    pub fn fits(&self, columns: u64) -> bool {
        self.width > 0 && self.height > 0 && self.x.saturating_add(self.width) <= columns
    }

    fn touches(&self, other: &Self) -> bool {
        let apart = |a: u64, length: u64, b: u64| a.saturating_add(length) <= b;
        !(apart(self.x, self.width, other.x)
            || apart(other.x, other.width, self.x)
            || apart(self.y, self.height, other.y)
            || apart(other.y, other.height, self.y))
    }
}

/// Says which tiles lie on others.
pub fn overlaps(tiles: &[Tile]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, one) in tiles.iter().enumerate() {
        for other in &tiles[index + 1..] {
            if one.touches(other) {
                found.push(format!("panels {:?} and {:?} overlap", one.name, other.name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(x: u64, y: u64, width: u64, height: u64) -> Tile {
        Tile { name: format!("{x},{y}"), x, y, width, height }
    }

    #[test]
    fn tiles_may_touch_and_not_overlap() {
        assert!(overlaps(&[tile(0, 0, 12, 8), tile(12, 0, 12, 8), tile(0, 8, 24, 1)]).is_empty());
        assert_eq!(overlaps(&[tile(0, 0, 13, 8), tile(12, 0, 12, 8), tile(0, 7, 24, 1)]).len(), 3);
    }

    #[test]
    fn a_tile_lies_within_the_grid() {
        assert!(tile(12, 0, 12, 8).fits(24));
        assert!(
            !tile(13, 0, 12, 8).fits(24) && !tile(0, 0, 0, 8).fits(24) && !tile(u64::MAX, 0, 2, 2).fits(24)
        );
    }
}
