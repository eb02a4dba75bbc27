// Questions in two languages. A selector chooses what the variables of the dashboard say; what differs between Grafana and
// Chronograf is written as a token (%TIME% and so on) and replaced by their builders.
{
  // PromQL.
  prom: {
    // All series of this profiler, and those of the chosen targets.
    own: 'job=~"$job", instance=~"$instance"',
    chosen: self.own + ', target=~"$target"',
    // Only of targets of which a process runs: of one that has ended, everything stays as it was last.
    running: 'and on (job, instance, target) profiler_target_up{%s} == 1' % self.chosen,

    // One series (by nothing), or one per value of the labels.
    sum(name, by='', where=''):: 'sum%s (%s{%s%s})' % [grouped(by), name, $.prom.chosen, more(where)],
    rate(name, by='', where='')::
      'sum%s (rate(%s{%s%s}[$__rate_interval]))' % [grouped(by), name, $.prom.chosen, more(where)],
    runningSum(name, by='', where='')::
      'sum%s (%s{%s%s} %s)' % [grouped(by), name, $.prom.chosen, more(where), $.prom.running],
    runningRate(name, by='', where='')::
      'sum%s (rate(%s{%s%s}[$__rate_interval]) %s)' % [grouped(by), name, $.prom.chosen, more(where), $.prom.running],
    ownSum(name, by='', where=''):: 'sum%s (%s{%s%s})' % [grouped(by), name, $.prom.own, more(where)],
    ownRate(name, by='', where='')::
      'sum%s (rate(%s{%s%s}[$__rate_interval]))' % [grouped(by), name, $.prom.own, more(where)],

    // By how much a counter has grown in each step: for what happens seldom.
    ownGrowth(name, by='')::
      'sum%s (increase(%s{%s}[$__rate_interval]))' % [grouped(by), name, $.prom.own],

    local grouped(by) = if by == '' then '' else ' by (%s)' % by,
    local more(where) = if where == '' then '' else ', ' + where,
  },

  // InfluxQL. Each series is read on its own (a rate across two of them would be nonsense), then they are added up.
  influx: {
    own: '%HOST%',
    chosen: '%HOST% AND %TARGET%',

    // A gauge: the last value of each step.
    sum(measurement, field, by=[], as='', where='', chosen=$.influx.chosen)::
      outer('sum("v")', as, inner('last("%s") AS "v"' % field, measurement, chosen, where), by),
    // A counter: by how much it grows per second.
    rate(measurement, field, by=[], as='', where='', chosen=$.influx.chosen)::
      outer('sum("v")', as, inner('non_negative_derivative(last("%s"), 1s) AS "v"' % field, measurement, chosen, where), by),
    ownSum(measurement, field, by=[], as=''):: $.influx.sum(measurement, field, by, as, chosen=$.influx.own),
    ownRate(measurement, field, by=[], as=''):: $.influx.rate(measurement, field, by, as, chosen=$.influx.own),
    // Several counters of a measurement: [[field, name], ...], each a column of its own.
    rates(measurement, fields, chosen=$.influx.chosen)::
      many(measurement, fields, chosen, function(field) 'non_negative_derivative(last("%s"), 1s)' % field),
    // The same, but by how much they have grown in each step.
    growths(measurement, fields, chosen=$.influx.chosen)::
      many(measurement, fields, chosen, function(field) 'non_negative_difference(last("%s"))' % field),
    // Several gauges.
    sums(measurement, fields, chosen=$.influx.chosen)::
      many(measurement, fields, chosen, function(field) 'last("%s")' % field),
    // The last value, added up over all series. Those that had none in the last minutes are over.
    now(measurement, field, as='', where='', by=[], chosen=$.influx.chosen)::
      'SELECT sum("v")%s FROM (SELECT last("%s") AS "v" FROM %%DB%%"%s" WHERE %s AND %%LATEST%%%s GROUP BY *)%s'
      % [named(as), field, measurement, chosen, also(where), if by == [] then '' else ' GROUP BY ' + tags(by)],
    // By how much counters have grown in the whole range, together. What a counter had before a restart is not lost again:
    // it falls then, and a fall is left out.
    grown(measurement, fields, as, chosen=$.influx.chosen)::
      local numbers = std.range(0, std.length(fields) - 1);
      'SELECT %s AS "%s" FROM (SELECT %s FROM %%DB%%"%s" WHERE %s AND %%TIME%% GROUP BY *)' % [
        std.join(' + ', ['sum("v%d")' % i for i in numbers]),
        as,
        std.join(', ', ['non_negative_difference("%s") AS "v%d"' % [fields[i], i] for i in numbers]),
        measurement,
        chosen,
      ],
    // The last value of several fields, a row for each value of the tags. For tables.
    table(measurement, fields, by, where='')::
      'SELECT %s FROM %%DB%%"%s" WHERE %s AND %%LATEST%%%s GROUP BY %s' % [
        std.join(', ', ['last("%s") AS "%s"' % field for field in fields]),
        measurement,
        $.influx.chosen,
        also(where),
        tags(by),
      ],
    // How many intervals per second ended between two bounds of the stall histogram. `bounds` are names of fields.
    bands(bounds, names)::
      local lower(i) = if i == 0 then '' else ' - sum("b%d")' % (i - 1);
      local columns = ['sum("b%d")%s AS "%s"' % [i, lower(i), names[i]] for i in std.range(0, std.length(bounds) - 1)];
      local each =
        ['non_negative_derivative(last("%s"), 1s) AS "b%d"' % [bounds[i], i] for i in std.range(0, std.length(bounds) - 1)];
      'SELECT %s FROM (%s) WHERE %%TIME%% GROUP BY time(%%STEP%%) fill(none)'
      % [std.join(', ', columns), inner(std.join(', ', each), 'profiler_stall', $.influx.chosen, '')],
    // Which share of a counter's growth is that of some of its series: `part` and `all` choose them.
    share(measurement, field, part, all, by, as, chosen=$.influx.chosen)::
      'SELECT sum("part") / sum("all") AS "%s" FROM (SELECT non_negative_derivative(last("%s"), 1s) AS "part" FROM %%DB%%"%s" WHERE %s AND %%TIME%% AND %s GROUP BY time(%%STEP%%), *), (SELECT non_negative_derivative(last("%s"), 1s) AS "all" FROM %%DB%%"%s" WHERE %s AND %%TIME%% AND %s GROUP BY time(%%STEP%%), *) WHERE %%TIME%% GROUP BY time(%%STEP%%), %s fill(none)'
      % [as, field, measurement, chosen, part, field, measurement, chosen, all, tags(by)],

    local also(where) = if where == '' then '' else ' AND ' + where,
    local named(as) = if as == '' then '' else ' AS "%s"' % as,
    local tags(by) = std.join(', ', ['"%s"' % tag for tag in by]),
    local inner(what, measurement, chosen, where) =
      'SELECT %s FROM %%DB%%"%s" WHERE %s AND %%TIME%%%s GROUP BY time(%%STEP%%), *' % [what, measurement, chosen, also(where)],
    local outer(what, as, from, by) =
      'SELECT %s%s FROM (%s) WHERE %%TIME%% GROUP BY time(%%STEP%%)%s fill(none)'
      % [what, named(as), from, if by == [] then '' else ', ' + tags(by)],
    local many(measurement, fields, chosen, what) =
      local columns = ['sum("%s") AS "%s"' % ['v%d' % i, fields[i][1]] for i in std.range(0, std.length(fields) - 1)];
      local each = ['%s AS "v%d"' % [what(fields[i][0]), i] for i in std.range(0, std.length(fields) - 1)];
      outer(std.join(', ', columns), '', inner(std.join(', ', each), measurement, chosen, ''), []),
  },
}
