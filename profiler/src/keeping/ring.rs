//! Pictures in memory: many of late, few of long ago.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::leaks::{Picture, SiteReport, TargetReport};

/// Pictures, at most.
const PICTURES: usize = 32;
/// Sites of all of them together, at most, each about 1 KB; one picture is kept whatever it has.
const SITES: usize = 40_000;

/// The pictures, oldest first. They are kept without graphs.
#[derive(Debug, Default)]
pub(super) struct Ring(Vec<Arc<Picture>>);

impl Ring {
    /// Adds a picture, and leaves out what there is no room for.
    pub fn push(&mut self, picture: &Picture) {
        // A clock that was set back begins anew.
        self.0.retain(|kept| kept.taken_at < picture.taken_at);
        self.0.push(Arc::new(slim(picture)));
        while self.0.len() > PICTURES || (self.0.len() > 1 && self.sites() > SITES) {
            self.0.remove(self.least_missed());
        }
    }

    /// The one that was taken nearest to a moment.
    pub fn nearest(&self, at: SystemTime) -> Option<Arc<Picture>> {
        self.0.iter().min_by_key(|picture| distance(picture.taken_at, at)).map(Arc::clone)
    }

    fn sites(&self) -> usize {
        self.0.iter().flat_map(|picture| &picture.targets).map(|target| target.sites.len()).sum()
    }

    /// The one whose neighbours are nearest to each other, by their age; of two, the older one. The distances grow with age
    /// that way. The first and the last stay, as long as there are others.
    fn least_missed(&self) -> usize {
        let Some(now) = self.0.last().map(|picture| picture.taken_at) else { return 0 };
        let gap = |three: &[Arc<Picture>]| {
            let ago = |picture: &Arc<Picture>| {
                now.duration_since(picture.taken_at).unwrap_or_default().as_secs_f64()
            };
            (ago(&three[0]) - ago(&three[2])) / ago(&three[1]).max(f64::MIN_POSITIVE)
        };
        let gaps = self.0.windows(3).map(gap).enumerate();
        gaps.min_by(|one, other| one.1.total_cmp(&other.1)).map_or(0, |(before, _)| before + 1)
    }
}

/// How far two moments are apart.
pub(super) fn distance(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

/// Without graphs: nobody draws them of what was.
fn slim(picture: &Picture) -> Picture {
    let site = |site: &SiteReport| SiteReport {
        history: Vec::new(),
        stack: Arc::clone(&site.stack),
        judgement: site.judgement.clone(),
        survival: site.survival.clone(),
        id: Arc::clone(&site.id),
        ..*site
    };
    let target = |target: &TargetReport| TargetReport {
        sites: target.sites.iter().map(site).collect(),
        history: Vec::new(),
        anon_history: Vec::new(),
        target: Arc::clone(&target.target),
        pids: target.pids.clone(),
        source: target.source.clone(),
        judgement: target.judgement.clone(),
        losses: target.losses.clone(),
        ended: target.ended.clone(),
        ..*target
    };
    Picture { taken_at: picture.taken_at, targets: picture.targets.iter().map(target).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::picture::{at, huge, realistic};

    #[test]
    fn of_a_week_there_is_always_a_picture_from_about_then() {
        let mut ring = Ring::default();
        let week = 7 * 24 * 3600;
        for seconds in (0..=week).step_by(10) {
            ring.push(&Picture { taken_at: at(seconds), targets: Vec::new() });
        }
        assert_eq!(ring.0.len(), PICTURES);
        for ago in [0, 10, 60, 600, 3600, 24 * 3600, week] {
            let wanted = at(week - ago);
            let found = ring.nearest(wanted).unwrap().taken_at;
            let off = distance(found, wanted).as_secs_f64();
            assert!(off <= ago as f64 * 0.5, "{ago} s ago: {off} s off");
        }
        assert_eq!(ring.0[0].taken_at, at(0));
    }

    #[test]
    fn pictures_of_many_sites_are_few_and_have_no_graphs() {
        let mut ring = Ring::default();
        let mut one = realistic();
        one.targets.push(huge(9_000, 1));
        for seconds in 0..20 {
            one.taken_at = at(1_000_000 + seconds);
            ring.push(&one);
        }
        assert_eq!(ring.0.len(), 4);
        assert!(ring.0.iter().flat_map(|kept| &kept.targets).all(
            |target| target.history.is_empty() && target.sites.iter().all(|site| site.history.is_empty())
        ));
        one.targets.push(huge(50_000, 1));
        one.taken_at = at(1_000_020);
        ring.push(&one);
        assert_eq!(ring.0.len(), 1, "the newest is always there");
        assert_eq!(ring.nearest(at(0)).unwrap().taken_at, at(1_000_020));
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let mut ring = Ring::default();
        for seconds in [100, 200, 150] {
            ring.push(&Picture { taken_at: at(seconds), targets: Vec::new() });
        }
        let kept: Vec<_> = ring.0.iter().map(|picture| picture.taken_at).collect();
        assert_eq!(kept, [at(100), at(150)]);
    }
}
