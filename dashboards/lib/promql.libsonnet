// Pieces of PromQL that rules, alerts and dashboards share. Give it the mixin's _config.
function(config) {
  local promql = self,

  // by (...) of a target, or of a profiler, with more labels where wanted.
  byTarget(more=[]):: 'by (%s)' % std.join(', ', config.targetLabels + more),
  byInstance(more=[]):: 'by (%s)' % std.join(', ', config.instanceLabels + more),
  onTarget(more=[]):: 'on (%s)' % std.join(', ', config.targetLabels + more),
  onInstance(more=[]):: 'on (%s)' % std.join(', ', config.instanceLabels + more),

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

  // The memory limit of each target that has one: by the configuration for its name, of its control group, by the
  // configuration for all.
  memoryLimit::
    local limits = config.memoryLimitBytesByTarget;
    local said(matcher, bytes) = '0 * %s + %d' % [promql.select('profiler_target_up', matcher), bytes];
    std.join(
      ' or ',
      [said('target=' + std.escapeStringJson(name), limits[name]) for name in std.objectFields(limits)]
      + [promql.select('profiler_target_memory_limit_bytes')]
      + (if config.memoryLimitBytes == null then [] else [said('', config.memoryLimitBytes)])
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
