// Recording rules: what dashboards ask for often, named level:metric:operation. No alert needs them.
{
  local config = $._config,
  local promql = (import '../lib/promql.libsonnet')(config),
  // The names of the rules say so.
  local window = '5m',
  local perSecond(metric, by) = 'sum %s (rate(%s[%s]))' % [by, promql.select(metric), window],
  local rule(record, expr) = { record: record, expr: expr },

  prometheusRules+:: {
    groups+: [
      {
        name: 'profiler.targets',
        rules: [
          rule('target:profiler_allocations:rate5m', perSecond('profiler_allocations_total', promql.byTarget())),
          rule('target_function:profiler_allocations:rate5m', perSecond('profiler_allocations_total', promql.byTarget(['allocator', 'function']))),
          rule('target:profiler_frees:rate5m', perSecond('profiler_frees_total', promql.byTarget())),
          rule('target:profiler_allocated_bytes:rate5m', perSecond('profiler_allocated_bytes_total', promql.byTarget())),
          rule('target:profiler_live_objects:sum', 'sum %s (%s)' % [promql.byTarget(), promql.select('profiler_live_objects')]),
          rule('target_kind:profiler_process_page_faults:rate5m', perSecond('profiler_process_page_faults_total', promql.byTarget(['kind']))),
          // Seconds of threads in each state per second of all threads: the states sum to 1.
          rule(
            'target_state:profiler_thread_seconds:ratio_rate5m',
            '%s / on (%s) group_left %s' % [
              perSecond('profiler_thread_seconds_total', promql.byTarget(['state'])),
              std.join(', ', config.targetLabels),
              perSecond('profiler_thread_seconds_total', promql.byTarget()),
            ]
          ),
          // Of the time in which threads run or could run, the part in which they wait.
          rule('target:profiler_waiting:ratio_rate5m', '%s / %s' % [promql.waiting(window), promql.wantingToRun(window)]),
          rule('target_cause_le:profiler_stall_seconds_bucket:rate5m', perSecond('profiler_stall_seconds_bucket', promql.byTarget(['cause', 'le']))),
          rule('target_cause:profiler_stall_seconds:rate5m', perSecond('profiler_stall_seconds_sum', promql.byTarget(['cause']))),
        ],
      },
      {
        name: 'profiler.memory',
        rules: [
          rule('target:profiler_process_anonymous_memory_bytes:deriv1h', 'deriv(%s[%s])' % [promql.select('profiler_process_anonymous_memory_bytes'), config.memoryRateWindow]),
          // What ProfilerMemoryLimitSoon compares with: what the mixin was told, or the control group's.
          rule('target:profiler_memory_limit_bytes:configured', promql.memoryLimit),
          rule('target_site:profiler_site_leak_bytes_per_second:leaking', promql.leakingSites),
        ],
      },
      {
        name: 'profiler.self',
        rules: [
          rule('instance:profiler_cpu_seconds:rate5m', perSecond('process_cpu_seconds_total', promql.byInstance())),
          rule('instance_reason:profiler_events_lost:rate5m', perSecond('profiler_events_lost_total', promql.byInstance(['reason']))),
          rule('instance:profiler_probe_hits:rate5m', perSecond('profiler_probe_hits_total', promql.byInstance())),
          rule('instance:profiler_influx_points:rate5m', perSecond('profiler_influx_points_total', promql.byInstance())),
        ],
      },
    ],
  },
}
