//! Which boxes a flame graph has, and where: pure numbers.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap, HashSet},
};

use crate::{
    export::weigh::{self, Weight},
    leaks::{TargetReport, Verdict},
};

/// Stacks with their weights, sorted, names as numbers.
pub struct Stacks {
    /// Every name once, sorted.
    pub names: Vec<String>,
    stacks: Vec<Weighed>,
    /// Sums of the weights before each stack and after the last: leaking, growing, the rest.
    sums: Vec<[f64; 3]>,
}

struct Weighed {
    /// From the root to the leaf.
    names: Vec<u32>,
    value: f64,
    verdict: Verdict,
}

/// A box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// The function, as number of its name; `None` for what was too small to be shown, together.
    pub name: Option<u32>,
    /// How deep; the whole is 0.
    pub depth: usize,
    /// What lies left of it.
    pub before: f64,
    /// Its weight: leaking, growing, the rest.
    pub parts: [f64; 3],
    begin: usize,
    end: usize,
}

impl Node {
    /// Its weight.
    pub fn value(&self) -> f64 {
        self.parts.iter().sum()
    }
}

impl Stacks {
    /// The stacks of a target's sites that have any weight.
    pub fn new(target: &TargetReport, weight: Weight) -> Self {
        let named: Vec<_> = target
            .sites
            .iter()
            .map(|site| (weigh::names(&site.stack), weight.of(site), site.judgement.verdict))
            .filter(|(_, value, _)| *value > 0.0)
            .collect();
        let distinct: HashSet<&str> = named.iter().flat_map(|(names, ..)| names).map(AsRef::as_ref).collect();
        let mut names: Vec<&str> = distinct.into_iter().collect();
        names.sort_unstable();
        let numbers: HashMap<&str, u32> = names.iter().copied().zip(0..).collect();
        let weighed = named.iter().map(|(names, value, verdict)| Weighed {
            names: names.iter().filter_map(|name| numbers.get(name.as_ref()).copied()).collect(),
            value: *value,
            verdict: *verdict,
        });
        let mut stacks: Vec<_> = weighed.collect();
        stacks.sort_by(|one, other| one.names.cmp(&other.names));
        let mut sums = vec![[0.0; 3]];
        let mut sum = [0.0; 3];
        for stack in &stacks {
            let part = match stack.verdict {
                Verdict::Leaking => 0,
                Verdict::Growing => 1,
                Verdict::Steady | Verdict::Unjudged => 2,
            };
            sum[part] += stack.value;
            sums.push(sum);
        }
        let names = names.into_iter().map(str::to_owned).collect();
        Self { names, stacks, sums }
    }

    /// Everything together.
    pub fn whole(&self) -> Node {
        self.node(None, 0, 0, self.stacks.len())
    }

    fn node(&self, name: Option<u32>, depth: usize, begin: usize, end: usize) -> Node {
        let (from, to) = (self.sums[begin], self.sums[end]);
        let parts = [to[0] - from[0], to[1] - from[1], to[2] - from[2]];
        Node { name, depth, before: from.iter().sum(), parts, begin, end }
    }

    /// What the stacks of a box go on to.
    fn children(&self, node: &Node) -> Vec<Node> {
        let next = |stack: usize| self.stacks[stack].names.get(node.depth).copied();
        let mut children = Vec::new();
        let mut begin = node.begin;
        while begin < node.end {
            let name = next(begin);
            let length = (begin..node.end).take_while(|stack| next(*stack) == name).count();
            if name.is_some() {
                children.push(self.node(name, node.depth + 1, begin, begin + length));
            }
            begin += length;
        }
        children
    }

    /// The largest boxes, at most `most`, each with at least `least` of the weight; the whole comes first. What is left out is
    /// under its box as one box without a name, where it is large enough.
    pub fn boxes(&self, least: f64, most: usize) -> Vec<Node> {
        let mut shown = Vec::new();
        let mut candidates = BinaryHeap::from([BySize(self.whole())]);
        // A box is never larger than the one that it stands on, so the largest come first and none hangs in the air.
        while shown.len() < most
            && let Some(BySize(node)) = candidates.pop()
        {
            candidates
                .extend(self.children(&node).into_iter().filter(|child| child.value() >= least).map(BySize));
            shown.push(node);
        }
        let drawn: HashSet<_> = shown.iter().map(|node| (node.depth, node.begin)).collect();
        let mut rests = Vec::new();
        for node in &shown {
            let missing = |child: &Node| !drawn.contains(&(child.depth, child.begin));
            let mut run: Option<Node> = None;
            for child in self.children(node) {
                match (&mut run, missing(&child)) {
                    (Some(run), true) if run.end == child.begin => {
                        run.end = child.end;
                        run.parts.iter_mut().zip(child.parts).for_each(|(sum, part)| *sum += part);
                    }
                    (run, true) => rests.extend(run.replace(Node { name: None, ..child })),
                    (run, false) => rests.extend(run.take()),
                }
            }
            rests.extend(run);
        }
        rests.retain(|rest| rest.value() >= least);
        rests.sort_by(|one, other| other.value().total_cmp(&one.value()));
        rests.truncate(most);
        shown.extend(rests);
        shown
    }
}

/// Largest first; of equals the one nearer to the root.
struct BySize(Node);

impl Ord for BySize {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_size = self.0.value().total_cmp(&other.0.value());
        by_size.then(other.0.depth.cmp(&self.0.depth)).then(other.0.begin.cmp(&self.0.begin))
    }
}

impl PartialOrd for BySize {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for BySize {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for BySize {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::picture;

    #[test]
    fn boxes_stand_on_the_box_that_calls_them() {
        let target = &picture::realistic().targets[0];
        let stacks = Stacks::new(target, Weight::Live);
        let boxes = stacks.boxes(0.0, 1000);
        assert_eq!(boxes[0].value(), target.sites.iter().map(|site| site.live_bytes.value).sum::<f64>());
        for node in &boxes[1..] {
            let below = boxes.iter().find(|below| {
                below.depth + 1 == node.depth
                    && below.before <= node.before + 0.5
                    && below.before + below.value() >= node.before + node.value() - 0.5
            });
            assert!(below.is_some(), "{node:?}");
        }
        let main =
            boxes.iter().find(|node| node.name.is_some_and(|name| stacks.names[name as usize] == "main"));
        assert_eq!(main.unwrap().parts, [3_686_400.0, 1_843_200.0, 8_388_608.0 + 65_536.0]);
    }

    #[test]
    fn what_is_too_small_is_shown_together() {
        let target = picture::huge(200, 4);
        let stacks = Stacks::new(&target, Weight::Live);
        let whole = stacks.whole().value();
        let boxes = stacks.boxes(whole / 10.0, 1000);
        let rest: f64 =
            boxes.iter().filter(|node| node.name.is_none() && node.depth == 1).map(Node::value).sum();
        assert_eq!(rest, whole, "no child has a tenth");
    }

    #[test]
    fn the_number_of_boxes_is_bounded_and_the_largest_remain() {
        let target = picture::huge(500, 16);
        let boxes = Stacks::new(&target, Weight::Live).boxes(0.0, 100);
        assert!(boxes.len() <= 200);
        assert!(boxes[..100].is_sorted_by(|one, other| one.value() >= other.value()));
    }
}
