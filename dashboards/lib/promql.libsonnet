// Pieces of PromQL that rules, alerts and dashboards share. Give it the mixin's _config.
function(config) {
  local promql = self,

  // by (...) of a target, or of a profiler, with more labels where wanted.
  byTarget(more=[]):: 'by (%s)' % std.join(', ', config.targetLabels + more),
  byInstance(more=[]):: 'by (%s)' % std.join(', ', config.instanceLabels + more),
  onTarget(more=[]):: 'on (%s)' % std.join(', ', config.targetLabels + more),

  // metric{selector, more}
  select(metric, more='')::
    '%s{%s}' % [metric, std.join(', ', [part for part in [config.profilerSelector, more] if part != ''])],

  // Threads of a target that wait and could go on, on average, and those that run or could.
  waiting(window)::
    'sum %s (rate(%s[%s]))' % [
      promql.byTarget(),
      promql.select('profiler_thread_seconds_total', 'state=~"%s"' % config.stallStates),
      window,
    ],
  wantingToRun(window)::
    'sum %s (rate(%s[%s]))' % [
      promql.byTarget(),
      promql.select('profiler_thread_seconds_total', 'state=~"running|%s"' % config.stallStates),
      window,
    ],

  // The memory limit of each target, as said in the configuration.
  memoryLimit::
    local limits = config.memoryLimitBytesByTarget;
    local names = std.objectFields(limits);
    local escaped(name) = std.foldl(
      function(text, c) std.strReplace(text, c, '\\' + c),
      ['\\', '.', '+', '*', '?', '(', ')', '[', ']', '{', '}', '|', '^', '$'],
      name
    );
    local text(value) = std.escapeStringJson(value);
    local of(matcher, bytes) =
      '0 * %s + %d' % [promql.select('profiler_target_up', matcher), bytes];
    std.join(
      ' or ',
      [of(if names == [] then '' else 'target!~' + text(std.join('|', std.map(escaped, names))), config.memoryLimitBytes)]
      + [of('target=' + text(name), limits[name]) for name in names]
    ),

  // Sites that are judged to leak, with their rate, innermost function and file.
  leakingSites::
    '(%s and on (%s) %s == 1) * on (%s) group_left (function, object) %s' % [
      promql.select('profiler_site_leak_bytes_per_second'),
      std.join(', ', config.targetLabels + ['site']),
      promql.select('profiler_site_leak_verdict', 'verdict="leaking"'),
      std.join(', ', config.targetLabels + ['site']),
      promql.select('profiler_site_info'),
    ],
}
