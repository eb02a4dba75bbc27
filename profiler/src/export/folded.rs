//! Folded stacks: one line per site, `root;...;leaf value`, as flame graph programs read them.

use std::{collections::BTreeMap, fmt::Write as _};

use super::weigh::{self, Weight};
use crate::leaks::TargetReport;

/// Renders a target's sites. Equal stacks come once, sites without weight don't come; sorted by stack. Bytes are whole,
/// bytes per second have three decimals.
pub fn render(target: &TargetReport, weight: Weight) -> String {
    let mut lines: BTreeMap<String, f64> = BTreeMap::new();
    for site in &target.sites {
        let names: Vec<_> = weigh::names(&site.stack).iter().map(|name| cleaned(name)).collect();
        let stack = if names.is_empty() { "[no stack]".to_owned() } else { names.join(";") };
        *lines.entry(stack).or_default() += weight.of(site);
    }
    if weight == Weight::Live && target.other.1.value.is_finite() {
        *lines.entry("[other sites]".to_owned()).or_default() += target.other.1.value.max(0.0);
    }
    let mut text = String::new();
    for (stack, value) in lines {
        // Writing to a string can't fail.
        let _infallible = match weight {
            Weight::Lost if value >= 0.0005 => writeln!(text, "{stack} {value:.3}"),
            Weight::Live | Weight::Allocated if value >= 0.5 => writeln!(text, "{stack} {value:.0}"),
            _ => Ok(()),
        };
    }
    text
}

/// A name that can't be taken for a separator: no `;`, no line ends or other control characters, no empty one.
fn cleaned(name: &str) -> String {
    if name.is_empty() {
        return "[nameless]".to_owned();
    }
    let safe = |c: char| match c {
        ';' => ':',
        c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => ' ',
        c => c,
    };
    name.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::picture;

    #[test]
    fn every_line_is_a_stack_and_a_number_whatever_the_names_hold() {
        let picture = picture::realistic();
        let text = render(&picture.targets[0], Weight::Live);
        for line in text.lines() {
            let (stack, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<u64>().is_ok(), "{line}");
            assert!(stack.split(';').all(|name| !name.is_empty()), "{line}");
        }
        let leaking = "_start;main;server::run;cache::Store::remember;std::map<std::string: int>::insert;operator new(unsigned long) 3686400";
        assert!(text.lines().any(|line| line == leaking), "{text}");
        let sum: u64 =
            text.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
        let whole = &picture.targets[0];
        let expected =
            whole.sites.iter().map(|site| site.live_bytes.value).sum::<f64>() + whole.other.1.value;
        assert!((sum as f64 - expected).abs() < 10.0, "{sum} {expected}");
    }

    #[test]
    fn by_loss_only_what_grows_is_there() {
        let text = render(&picture::realistic().targets[0], Weight::Lost);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().any(|line| line.ends_with(" 10240.000")), "{text}");
    }
}
