//! Whether a PromQL query asks for what exists: names of series, labels in matchers, in `by` and in `on`, and counters
//! only by their rate.
//!
//! What labels an expression's result has follows from the catalogue. So it is also found when two sides of an operator
//! can never match, or when a label is asked for that an inner `by` has dropped.

mod values;
mod variables;

use std::collections::BTreeSet;

use promql_parser::label::METRIC_NAME;
use promql_parser::parser::{
    self, AggregateExpr, BinaryExpr, Call, Expr, LabelModifier, VectorMatchCardinality, VectorSelector,
};

use super::catalogue::{Catalogue, Kind, Names, names};

pub use variables::{replaced, used};

/// What is made of a query's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A line over time, an alert, a rule: a counter's plain value is of no use.
    OverTime,
    /// One figure, where the total of a counter may be what is wanted.
    AtOnce,
}

/// What was found out about a query.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong with it.
    pub problems: Vec<String>,
    /// The labels that its result can have; none if that can't be told, empty for a scalar.
    pub labels: Option<Names>,
}

/// Functions over a range that know about counters.
const OF_COUNTERS: [&str; 3] = ["rate", "irate", "increase"];
/// Functions over a range that make no sense of what only grows and starts anew at zero.
const OF_GAUGES: [&str; 6] = ["delta", "idelta", "deriv", "predict_linear", "avg_over_time", "sum_over_time"];
/// What may be done with a counter's plain value: it isn't looked at, or it is looked at over time.
const WITHOUT_VALUE: [&str; 4] = ["absent", "timestamp", "count", "group"];

/// Checks one query. Grafana's variables are replaced before.
pub fn check(query: &str, catalogue: &Catalogue, shown: Shown) -> Checked {
    let plain = replaced(query);
    let expr = match parser::parse(&plain) {
        Ok(expr) => expr,
        Err(error) => return Checked { problems: vec![format!("doesn't parse: {error}")], labels: None },
    };
    let mut walk = Walk { catalogue, shown, problems: BTreeSet::new() };
    let labels = walk.expr(&expr, "").labels;
    Checked { problems: walk.problems.into_iter().collect(), labels }
}

/// What an expression gives: a scalar, or a vector with these labels.
struct Given {
    scalar: bool,
    labels: Option<Names>,
}

impl Given {
    fn scalar() -> Self {
        Self { scalar: true, labels: Some(Names::new()) }
    }

    fn vector(labels: Option<Names>) -> Self {
        Self { scalar: false, labels }
    }
}

struct Walk<'a> {
    catalogue: &'a Catalogue,
    shown: Shown,
    problems: BTreeSet<String>,
}

impl Walk<'_> {
    fn say(&mut self, problem: String) {
        self.problems.insert(problem);
    }

    /// `within` is the function or aggregation that takes the expression.
    fn expr(&mut self, expr: &Expr, within: &str) -> Given {
        match expr {
            Expr::Aggregate(one) => self.aggregate(one),
            Expr::Unary(one) => self.expr(&one.expr, within),
            Expr::Binary(one) => self.binary(one, within),
            Expr::Paren(one) => self.expr(&one.expr, within),
            Expr::Subquery(one) => self.expr(&one.expr, within),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Given::scalar(),
            Expr::VectorSelector(one) => self.selector(one, within, false),
            Expr::MatrixSelector(one) => self.selector(&one.vs, within, true),
            Expr::Call(one) => self.call(one),
            Expr::Extension(_) => Given::vector(None),
        }
    }

    fn selector(&mut self, selector: &VectorSelector, within: &str, range: bool) -> Given {
        let named = || {
            let matchers = selector.matchers.find_matchers(METRIC_NAME);
            matchers.first().map(|matcher| matcher.value.clone())
        };
        let Some(name) = selector.name.clone().or_else(named) else {
            self.say("a selector without the name of a series".to_owned());
            return Given::vector(None);
        };
        let Some(metric) = self.catalogue.metric(&name).cloned() else {
            self.say(format!("there is no series `{name}`{}", self.meant(&name)));
            return Given::vector(None);
        };
        let all = selector.matchers.matchers.iter().chain(selector.matchers.or_matchers.iter().flatten());
        for matcher in all.filter(|matcher| matcher.name != METRIC_NAME) {
            if metric.labels.as_ref().is_some_and(|labels| !labels.contains(&matcher.name)) {
                self.say(format!("`{name}` has no label `{}`", matcher.name));
            }
            if let Some(known) = metric.values.get(&matcher.name) {
                for value in values::unknown(matcher, known) {
                    self.say(format!("`{}` of `{name}` is never {value:?}", matcher.name));
                }
            }
        }
        let over_range = range || within.ends_with("_over_time") || OF_COUNTERS.contains(&within);
        match metric.kind {
            Kind::Counter if OF_GAUGES.contains(&within) => {
                self.say(format!("`{within}` of the counter `{name}`: its restarts count as falls"));
            }
            Kind::Counter
                if !over_range && self.shown == Shown::OverTime && !WITHOUT_VALUE.contains(&within) =>
            {
                self.say(format!("the counter `{name}` without rate or increase"));
            }
            Kind::Gauge if OF_COUNTERS.contains(&within) => {
                self.say(format!("`{within}` of `{name}`, which is no counter"));
            }
            _ => {}
        }
        Given::vector(metric.labels)
    }

    /// A name that differs only in its end, as a hint.
    fn meant(&self, name: &str) -> String {
        let stem = name.trim_end_matches("_total").trim_end_matches("_bucket");
        let near = self.catalogue.metrics().find(|known| known.starts_with(stem) || stem.starts_with(known));
        near.map(|near| format!(" (`{near}`?)")).unwrap_or_default()
    }

    fn aggregate(&mut self, one: &AggregateExpr) -> Given {
        let op = one.op.to_string();
        if let Some(param) = &one.param {
            self.expr(param, &op);
        }
        let inner = self.expr(&one.expr, &op);
        if let (Some(modifier), Some(labels)) = (&one.modifier, &inner.labels) {
            for label in &modifier.labels().labels {
                if !labels.contains(label) {
                    self.say(format!("{op} by or without `{label}`, which its series don't have"));
                }
            }
        }
        if matches!(op.as_str(), "topk" | "bottomk" | "limitk" | "limit_ratio") {
            return inner;
        }
        let mut labels = match &one.modifier {
            None => Some(Names::new()),
            Some(LabelModifier::Include(by)) => Some(by.labels.iter().cloned().collect()),
            Some(LabelModifier::Exclude(without)) => inner
                .labels
                .map(|labels| labels.into_iter().filter(|label| !without.labels.contains(label)).collect()),
        };
        if op == "count_values"
            && let (Some(labels), Some(Expr::StringLiteral(name))) = (&mut labels, one.param.as_deref())
        {
            labels.insert(name.val.clone());
        }
        Given::vector(labels)
    }

    fn binary(&mut self, one: &BinaryExpr, within: &str) -> Given {
        let op = one.op.to_string();
        let left = self.expr(&one.lhs, within);
        let shown = self.shown;
        if matches!(op.as_str(), "and" | "unless") {
            // Its values go nowhere.
            self.shown = Shown::AtOnce;
        }
        let right = self.expr(&one.rhs, within);
        self.shown = shown;
        if left.scalar || right.scalar {
            return if left.scalar { right } else { left };
        }
        let modifier = one.modifier.as_ref();
        let matching = modifier.and_then(|modifier| modifier.matching.as_ref());
        match matching {
            Some(LabelModifier::Include(on)) => {
                for label in &on.labels {
                    for (side, given) in [("left", &left), ("right", &right)] {
                        if given.labels.as_ref().is_some_and(|labels| !labels.contains(label)) {
                            self.say(format!("`{op}` on `{label}`, which its {side} side doesn't have"));
                        }
                    }
                }
            }
            ignoring => {
                let ignored = |label: &&String| {
                    !ignoring.is_some_and(|ignoring| ignoring.labels().labels.contains(label))
                };
                if op != "or"
                    && let (Some(left), Some(right)) = (&left.labels, &right.labels)
                    && !left.iter().filter(ignored).eq(right.iter().filter(ignored))
                {
                    self.say(format!(
                        "the sides of `{op}` never match: {{{}}} and {{{}}}",
                        listed(left),
                        listed(right)
                    ));
                }
            }
        }
        let labels = match modifier.map(|modifier| &modifier.card) {
            Some(VectorMatchCardinality::ManyToOne(extra)) => {
                self.grouped(left.labels, right.labels, &extra.labels)
            }
            Some(VectorMatchCardinality::OneToMany(extra)) => {
                self.grouped(right.labels, left.labels, &extra.labels)
            }
            _ if op == "or" => {
                left.labels.zip(right.labels).map(|(left, right)| left.union(&right).cloned().collect())
            }
            _ if matches!(op.as_str(), "and" | "unless") => left.labels,
            _ => match matching {
                Some(LabelModifier::Include(on)) => Some(on.labels.iter().cloned().collect()),
                Some(LabelModifier::Exclude(without)) => left.labels.map(|labels| {
                    labels.into_iter().filter(|label| !without.labels.contains(label)).collect()
                }),
                None => left.labels,
            },
        };
        Given::vector(labels)
    }

    /// The labels of the side with many series, and those that it takes from the other side.
    fn grouped(&mut self, many: Option<Names>, one: Option<Names>, extra: &[String]) -> Option<Names> {
        for label in extra {
            if one.as_ref().is_some_and(|one| !one.contains(label)) {
                self.say(format!(
                    "group_left or group_right takes `{label}`, which the other side doesn't have"
                ));
            }
        }
        many.map(|many| many.into_iter().chain(extra.iter().cloned()).collect())
    }

    fn call(&mut self, call: &Call) -> Given {
        let name = call.func.name;
        let given: Vec<Given> = call.args.args.iter().map(|arg| self.expr(arg, name)).collect();
        let text = |index: usize| match call.args.args.get(index).map(|arg| &**arg) {
            Some(Expr::StringLiteral(text)) => Some(text.val.clone()),
            _ => None,
        };
        match name {
            "scalar" | "time" | "pi" => return Given::scalar(),
            "vector" => return Given::vector(Some(Names::new())),
            "absent" | "absent_over_time" => {
                let labels = call.args.args.first().and_then(|arg| equalled(arg));
                return Given::vector(labels);
            }
            _ => {}
        }
        let mut labels = given.into_iter().find(|given| !given.scalar).and_then(|given| given.labels);
        match (name, &mut labels) {
            ("histogram_quantile", Some(labels)) => {
                let had = labels.remove("le");
                self.problems.extend((!had).then(|| "histogram_quantile without `le`".to_owned()));
            }
            ("label_replace", Some(all)) => {
                if let Some(source) = text(3).filter(|source| !source.is_empty() && !all.contains(source)) {
                    self.say(format!("label_replace reads `{source}`, which its series don't have"));
                }
                all.extend(text(1));
            }
            ("label_join", Some(labels)) => labels.extend(text(1)),
            _ => {}
        }
        Given::vector(labels)
    }
}

/// The labels that `absent` gives: those whose value the selector fixes.
fn equalled(arg: &Expr) -> Option<Names> {
    let selector = match arg {
        Expr::VectorSelector(selector) => selector,
        Expr::MatrixSelector(matrix) => &matrix.vs,
        Expr::Paren(paren) => return equalled(&paren.expr),
        _ => return Some(Names::new()),
    };
    let fixed = selector.matchers.matchers.iter().filter(|matcher| {
        matches!(matcher.op, promql_parser::label::MatchOp::Equal) && matcher.name != METRIC_NAME
    });
    Some(names(fixed.map(|matcher| matcher.name.as_str())))
}

fn listed(labels: &Names) -> String {
    labels.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
