// Alerts. None needs a recording rule to fire, so that this file may be loaded alone; only ProfilerLeakSuspected uses
// one, to name the site in its description.
{
  local config = $._config,
  local promql = (import '../lib/promql.libsonnet')(config),
  local select = promql.select,
  local alert(name, severity, duration, expr, summary, description) = {
    alert: name,
    expr: expr,
    [if duration != null then 'for']: duration,
    labels: { severity: severity },
    annotations: {
      summary: summary,
      description: description,
      runbook_url: config.runbookURLPattern % std.asciiLower(name),
    },
  },
  // Asked when the alert is written out, so that a site which takes the lead doesn't make a new alert of it.
  local topSite =
    '{{ with printf "topk(1, target_site:profiler_site_leak_bytes_per_second:leaking{instance=%q, target=%q})" $labels.instance $labels.target | query }}'
    + '{{ with first . }} Most of it: {{ .Value | humanize1024 }}B/s in {{ .Labels.function }} ({{ .Labels.object }}), site {{ .Labels.site }}.{{ end }}{{ end }}',

  // A young process fills its caches, and one that was started within the window has made a step in the line.
  local steady = '%s > 3600 unless changes(%s[%s]) > 0' % [
    select('profiler_target_observed_seconds'),
    select('profiler_process_start_time_seconds'),
    config.memoryRateWindow,
  ],
  // What a profiler that is gone observed last: with --pid it ends with its last target.
  local lastTargets =
    '{{ with printf "topk(5, last_over_time(profiler_target_up{job=%%q, instance=%%q}[%s]) == 1)" $labels.job $labels.instance | query }}' % config.vanishedWindow
    + ' Observed last (five at most):{{ range sortByLabel "target" . }} {{ .Labels.target }}{{ end }}.{{ end }}',

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'profiler-targets',
        rules: [
          alert(
            'ProfilerLeakSuspected',
            'warning',
            config.leakingFor,
            // The last verdict stays after a target's end, until it is forgotten.
            '%s == 1 and %s %s == 1' % [
              select('profiler_leak_verdict', 'verdict="leaking"'),
              promql.onTarget(),
              select('profiler_target_up'),
            ],
            '{{ $labels.target }} leaks memory.',
            '{{ $labels.target }} on {{ $labels.instance }} has been judged to leak for %s.' % config.leakingFor + topSite
          ),
          alert(
            'ProfilerTargetGone',
            'warning',
            '1m',
            '%s == 0 and max_over_time(%s[%s]) == 1 and %s > %d' % [
              select('profiler_target_up', config.targetGoneSelector),
              select('profiler_target_up'),
              config.targetGoneWindow,
              select('profiler_target_observed_seconds'),
              config.targetGoneMinSeconds,
            ],
            '{{ $labels.target }} has ended.',
            'No process of {{ $labels.target }} on {{ $labels.instance }} runs any more; one did in the last %s.' % config.targetGoneWindow
          ),
          alert(
            'ProfilerStallsAboveBudget',
            'warning',
            '15m',
            '%s / %s > %g and %s > %g' % [
              promql.waiting('5m'),
              promql.wantingToRun('5m'),
              config.stallBudgetRatio,
              promql.waiting('5m'),
              config.stallMinThreads,
            ],
            'Threads of {{ $labels.target }} wait too much.',
            'Threads of {{ $labels.target }} on {{ $labels.instance }} wait (%s) for {{ $value | humanizePercentage }} of the time that they run or could run; the budget is %d %%.'
            % [std.strReplace(config.stallStates, '|', ', '), 100 * config.stallBudgetRatio]
          ),
          alert(
            'ProfilerMemoryLimitSoon',
            'warning',
            '15m',
            // What a process can't give back. Files' pages are the kernel's to drop; what is swapped out has got away from
            // the limit, but whoever passes it there is about to be killed or to crawl.
            local parts = [select('profiler_process_anonymous_memory_bytes'), select('profiler_process_swap_bytes')];
            local sum(form) = std.join(' + ', [form % part for part in parts]);
            // A line through a sum is the sum of the lines.
            local soon = sum('predict_linear(%%s[%s], %d * 3600)' % [config.memoryRateWindow, config.memoryHours]);
            // Above the limit it isn't "soon" any more: it has begun to swap, or the limit is another's.
            '(%s) > (%s) and %s < (%s) and %s > 0 and (%s)' % [
              soon,
              promql.memoryLimit,
              sum('%s'),
              promql.memoryLimit,
              sum('deriv(%s[15m])'),
              steady,
            ],
            '{{ $labels.target }} reaches its memory limit within %d hours.' % config.memoryHours,
            'If {{ $labels.target }} on {{ $labels.instance }} goes on growing as it did for %s, it has {{ $value | humanize1024 }}B of anonymous memory in %d hours, which is more than its limit.'
            % [config.memoryRateWindow, config.memoryHours]
          ),
          alert(
            'ProfilerAddressSpaceLimitSoon',
            'warning',
            '15m',
            local memory = select('profiler_process_virtual_memory_bytes');
            // Each process has the limit for itself, and the figures of a target are those of all its processes together:
            // they can only be compared where there is one. 2^64 stands for no limit; nothing has as much as 2^60.
            'predict_linear(%s[%s], %d * 3600) > (%s < 2^60) and deriv(%s[15m]) > 0 and max_over_time(%s[%s]) == 1 and (%s)' % [
              memory,
              config.memoryRateWindow,
              config.memoryHours,
              select('profiler_process_virtual_memory_max_bytes'),
              memory,
              select('profiler_target_processes'),
              config.memoryRateWindow,
              steady,
            ],
            '{{ $labels.target }} reaches its limit of address space within %d hours.' % config.memoryHours,
            'If {{ $labels.target }} on {{ $labels.instance }} goes on growing as it did for %s, it has {{ $value | humanize1024 }}B of virtual memory in %d hours, which is more than `ulimit -v` allows it.'
            % [config.memoryRateWindow, config.memoryHours]
          ),
          alert(
            'ProfilerGoroutineLeak',
            'warning',
            '30m',
            local goroutines = select('profiler_go_goroutines');
            // Requests come and go; what is there even at the quietest moment of half an hour stays.
            local kept(ago) = 'min_over_time(%s[30m]%s)' % [goroutines, ago];
            '%s - %s > %d and %s - %s > %d unless changes(%s[3h]) > 0' % [
              kept(''),
              kept(' offset 1h'),
              config.goroutinesPerHour,
              kept(' offset 1h'),
              kept(' offset 2h'),
              config.goroutinesPerHour,
              // A program that was started within that time fills up.
              select('profiler_process_start_time_seconds'),
            ],
            'Goroutines of {{ $labels.target }} become more and more.',
            'At the quietest moment of half an hour, {{ $labels.target }} on {{ $labels.instance }} had {{ $value | humanize }} goroutines more than an hour before, and the hour before was like that, too.'
          ),
          alert(
            'ProfilerSamplesLost',
            'warning',
            '10m',
            'sum %s (rate(%s[15m])) / sum %s (rate(%s[15m])) > %g' % [
              promql.byTarget(),
              select('profiler_samples_lost_total', 'reason!~"%s"' % config.samplesNotLostReasons),
              promql.byTarget(),
              select('profiler_samples_total'),
              config.samplesLostRatio,
            ],
            'Samples of {{ $labels.target }} are lost.',
            'Of the samples of {{ $labels.target }} on {{ $labels.instance }}, {{ $value | humanizePercentage }} are lost in part or as a whole: estimates and verdicts are less sure than they say.'
          ),
        ],
      },
      {
        name: 'profiler-self',
        rules: [
          alert(
            'ProfilerDown',
            config.downSeverity,
            '5m',
            '%s == 0 or (count_over_time(%s[%s]) unless %s)' % [select('up'), select('up'), config.vanishedWindow, select('up')],
            'Profiler on {{ $labels.instance }} has ended or can not be reached.',
            '{{ if eq $value 0.0 }}Scrapes of {{ $labels.instance }} have failed{{ else }}Nothing was heard of {{ $labels.instance }}, not even that scrapes fail,{{ end }} for 5 minutes. With --pid, profiler ends with its last target.'
            + lastTargets
          ),
          alert(
            'ProfilerAbsent',
            config.downSeverity,
            '5m',
            // ProfilerDown tells of it until then.
            'absent_over_time(%s[%s])' % [select('up'), config.vanishedWindow],
            'There is no profiler.',
            'Prometheus has scraped nothing that matches {%s} for %s.' % [config.profilerSelector, config.vanishedWindow]
          ),
          alert(
            'ProfilerScrapeSlow',
            'warning',
            '10m',
            'avg_over_time(%s[10m]) > %g' % [select('scrape_duration_seconds'), config.scrapeSlowSeconds],
            'Scrapes of {{ $labels.instance }} are slow.',
            'A scrape of {{ $labels.instance }} takes {{ $value | humanizeDuration }}.'
          ),
          alert(
            'ProfilerEventsLost',
            'warning',
            '5m',
            local lost(more) = 'sum %s (increase(%s[15m]))' % [promql.byInstance(['reason']), select('profiler_events_lost_total', more)];
            '%s > %d unless (%s / %s group_left sum %s (increase(%s[15m])) <= %g)' % [
              lost('reason!~"%s"' % config.eventsHarmlessReasons),
              config.eventsLostIn15m,
              lost('reason=~"%s"' % config.eventsOfSamples),
              promql.onInstance(),
              promql.byInstance(),
              select('profiler_samples_total'),
              config.samplesLostRatio,
            ],
            'Profiler on {{ $labels.instance }} loses events.',
            '{{ $value | humanize }} events were lost on {{ $labels.instance }} in 15 minutes: {{ $labels.reason }}. Its counts are not exact.'
          ),
          alert(
            'ProfilerWorkerDying',
            'warning',
            null,
            'sum %s (increase(%s[1h])) >= %d' % [promql.byInstance(), select('profiler_worker_deaths_total'), config.workerDeathsPerHour],
            'The worker of profiler on {{ $labels.instance }} dies again and again.',
            'The process that reads what targets have made ended {{ $value | humanize }} times in an hour on {{ $labels.instance }}: stacks and names are missing.'
          ),
        ],
      },
      {
        name: 'profiler-push',
        rules: [
          alert(
            'ProfilerPushFailing',
            'critical',
            '5m',
            // Before the first request, which may take an --influx-interval, nothing has failed.
            'max_over_time(%s[%s]) == 0 and %s sum %s (%s) > 0' % [
              select('profiler_influx_up'),
              config.pushFailingWindow,
              promql.onInstance(),
              promql.byInstance(),
              select('profiler_influx_requests_total'),
            ],
            'InfluxDB takes nothing from {{ $labels.instance }}.',
            'No write from {{ $labels.instance }} to InfluxDB was acknowledged for %s. The points wait in the spool.' % config.pushFailingWindow
          ),
          alert(
            'ProfilerPointsDropped',
            'critical',
            null,
            // What a profiler counted before its first scrape (a spool that is too large or too old at the start) is no increase.
            local young = '%s time() - %s < 3600' % [promql.onInstance(), select('process_start_time_seconds')];
            local lost(metric, by) = 'sum %s (increase(%s[1h])) > 0 or (sum %s (last_over_time(%s[5m])) > 0 and %s)' % [by, select(metric), by, select(metric), young];
            '%s or %s' % [
              lost('profiler_influx_dropped_points_total', promql.byInstance(['reason'])),
              lost('profiler_influx_quarantined_points_total', promql.byInstance()),
            ],
            'Points of {{ $labels.instance }} do not get to InfluxDB.',
            'In an hour, {{ $value | humanize }} points of {{ $labels.instance }} were {{ if $labels.reason }}given up: {{ $labels.reason }}{{ else }}refused by InfluxDB for good and are in quarantine{{ end }}.'
          ),
          alert(
            'ProfilerSpoolNearFull',
            'warning',
            '5m',
            '(%s - %s) / %s > %g' % [
              select('profiler_influx_backlog_bytes'),
              select('profiler_influx_memory_bytes'),
              select('profiler_influx_spool_limit_bytes'),
              config.spoolNearFullRatio,
            ],
            'The spool on {{ $labels.instance }} is nearly full.',
            'The spool on {{ $labels.instance }} is full to {{ $value | humanizePercentage }}. When it is full, the oldest points go.'
          ),
          alert(
            'ProfilerSpoolFailing',
            'warning',
            null,
            'increase(%s[15m]) > 0' % select('profiler_influx_spool_failures_total'),
            'The spool on {{ $labels.instance }} can not be written.',
            'The disk of the spool on {{ $labels.instance }} has refused {{ $value | humanize }} batches in 15 minutes. They wait in memory, where a kill loses them.'
          ),
          alert(
            'ProfilerBacklogOld',
            'warning',
            '5m',
            '%s > %d' % [select('profiler_influx_backlog_age_seconds'), config.backlogOldSeconds],
            'Points on {{ $labels.instance }} wait for long.',
            'The oldest point on {{ $labels.instance }} that InfluxDB has not acknowledged is {{ $value | humanizeDuration }} old.'
          ),
        ],
      },
    ],
  },
}
