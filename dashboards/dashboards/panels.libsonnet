// The parts of a dashboard, before anybody knows who shows them: what a panel asks, of what unit the answer is, how it looks.
{
  local panel = {
    prom: [],
    influx: [],
    unit: 'short',
    height: 8,
    stack: 'none',
    colors: {},
    bands: [],
    thresholds: [],
    long: null,
    log: false,
    none: '–',
    signed: false,
    decimals: null,
  },

  // Lines over time.
  lines(title, text, unit, width, height=8):: panel { kind: 'lines', title: title, text: text, unit: unit, width: width, height: height },
  // One figure.
  stat(title, text, unit, width, decimals=null):: panel { kind: 'stat', title: title, text: text, unit: unit, width: width, height: 4, decimals: decimals },
  // What is said of the memory, in its colour.
  verdict(title, text, width):: panel { kind: 'verdict', title: title, text: text, width: width, height: 4 },
  // Lengths over time; series are the upper bounds.
  heatmap(title, text, width, height=8):: panel { kind: 'heatmap', title: title, text: text, unit: 's', width: width, height: height },
  // In InfluxQL nothing can be counted by what another measurement says. So Grafana counts: of targets that run (and of which
  // `verdict` is said, if one is given) the sum of `field`.
  counted(field, verdict=null):: { counted: { field: field, verdict: verdict } },
  // Rows; `columns`, and `promTable` or `influxTables` say what is in them.
  table(title, text, width, height):: panel { kind: 'table', title: title, text: text, width: width, height: height },
  // `of` is the language that has the column; null: both.
  column(name, title, unit=null, verdict=false, bar=false, color=null, link=null, width=null, decimals=null, of=null)::
    { of: of, name: name, title: title, unit: unit, verdict: verdict, bar: bar, color: color, link: link, width: width, decimals: decimals },

  // A question in PromQL, and how its series are named.
  prom(expr, legend=''):: { prom+: [{ expr: expr, legend: legend }] },
  // The same in InfluxQL.
  influx(query, alias=''):: { influx+: [{ query: query, alias: alias }] },

  stacked:: { stack: 'normal' },
  percent:: { stack: 'percent' },
  // It may be below zero.
  signed:: { signed: true },
  // Growth shows over days, whatever range is chosen.
  long(range):: { long: range },
  colors(colors):: { colors+: colors },
  // Two series are the edges of an interval.
  band(low, high, color):: { bands+: [{ low: low, high: high, color: color }] },
  // What stands there if nothing is found.
  none(text):: { none: text },
  thresholds(steps):: { thresholds: steps },
}
