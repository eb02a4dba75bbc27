//! Functions of InfluxQL, by what they take.

/// Functions that take any type of field.
pub const OF_ANYTHING: [&str; 7] = ["count", "distinct", "elapsed", "first", "last", "mode", "sample"];
/// Functions that take numbers only.
pub const OF_NUMBERS: [&str; 32] = [
    "abs",
    "bottom",
    "ceil",
    "cumulative_sum",
    "derivative",
    "difference",
    "exp",
    "floor",
    "holt_winters",
    "holt_winters_with_fit",
    "integral",
    "ln",
    "log",
    "log10",
    "log2",
    "max",
    "mean",
    "median",
    "min",
    "moving_average",
    "non_negative_derivative",
    "non_negative_difference",
    "percentile",
    "pow",
    "round",
    "spread",
    "sqrt",
    "stddev",
    "sum",
    "top",
    "sin",
    "cos",
];

/// Functions that give one of the values they are given.
pub const OF_SOME: [&str; 6] = ["distinct", "first", "last", "max", "min", "mode"];
