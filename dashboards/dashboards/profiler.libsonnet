// The profiler itself: what it costs, what it lost, and whether its points arrive.
local ask = import 'ask.libsonnet';
local p = import 'panels.libsonnet';
local prom = ask.prom, influx = ask.influx;

function(config) {
  uid: 'self',
  title: 'the profiler itself',
  text: 'What the profiler costs, what it has lost, and whether its points arrive.',
  targets: false,
  rows: [
    {
      panels: [
        p.stat('Its CPU', 'CPU that the profiler uses: 100 % is one of them.', 'percentunit', 4, decimals=1)
        + p.prom(prom.ownRate('process_cpu_seconds_total'))
        + p.influx(influx.ownRate('profiler_self', 'cpu_seconds', as='cpu')),
        p.stat('Its memory', 'Resident memory of the profiler.', 'bytes', 4)
        + p.prom(prom.ownSum('process_resident_memory_bytes'))
        + p.influx(influx.now('profiler_self', 'resident_bytes', 'resident', chosen=influx.own)),
        p.stat('Targets', 'Targets of which a process runs.', 'none', 4)
        + p.prom(prom.ownSum('profiler_target_up'))
        + p.influx(influx.now('profiler_target', 'up', 'targets', chosen=influx.own)),
        p.stat('Events lost', 'What was lost or went wrong while observing, in this range. Anything above zero says which figures to doubt.', 'short', 4, decimals=0)
        + p.thresholds([['green', null], ['orange', 1]])
        + p.prom('sum (increase(profiler_events_lost_total{%s}[$__range]))' % prom.own)
        + p.influx(influx.grown('profiler_loss', ['events'], 'lost', influx.own)),
        p.stat('Points that wait', 'Points that are not acknowledged by InfluxDB yet.', 'short', 4)
        + p.prom(prom.ownSum('profiler_influx_backlog_points'))
        + p.influx(influx.now('profiler_push', 'backlog_points', 'waiting', chosen=influx.own)),
        p.stat('Points given up', 'Points that were dropped or are in quarantine, in this range: the push promises that there are none.', 'short', 4, decimals=0)
        + p.thresholds([['green', null], ['red', 1]])
        + p.prom('sum (increase(profiler_influx_dropped_points_total{%s}[$__range])) + sum (increase(profiler_influx_quarantined_points_total{%s}[$__range]))' % [prom.own, prom.own])
        + p.influx(influx.grown('profiler_push', ['quarantined_points'] + ['dropped_points_' + reason for reason in config.dropReasons], 'given up', influx.own)),
      ],
    },
    {
      title: 'What it costs',
      panels: [
        p.lines('CPU of the profiler', 'CPUs that it uses itself: 100 % is one of them.', 'percentunit', 8)
        + p.prom(prom.ownRate('process_cpu_seconds_total', 'instance'), '{{instance}}')
        + p.influx(influx.ownRate('profiler_self', 'cpu_seconds', ['host'], 'cpu'), '$tag_host'),
        p.lines('Memory of the profiler', 'Its resident memory.', 'bytes', 8)
        + p.prom(prom.ownSum('process_resident_memory_bytes', 'instance'), '{{instance}}')
        + p.influx(influx.ownSum('profiler_self', 'resident_bytes', ['host'], 'resident'), '$tag_host'),
        p.lines('Probe hits', 'How often probes fire in each target. Each hit costs the target time.', 'cps', 8)
        + p.prom(prom.ownRate('profiler_probe_hits_total', 'instance, target'), '{{target}} ({{instance}})')
        + p.influx(influx.ownRate('profiler_alloc', 'probe_hits', ['host', 'target'], 'hits'), '$tag_target ($tag_host)'),
      ],
    },
    {
      title: 'What it lost',
      panels: [
        p.lines('Events lost', 'What was lost or went wrong while observing, per second and by reason.', 'cps', 8)
        + p.prom(prom.ownRate('profiler_events_lost_total', 'reason'), '{{reason}}')
        + p.influx(influx.ownRate('profiler_loss', 'events', ['reason'], 'lost'), '$tag_reason'),
        p.lines('Samples lost', 'Samples, and what belongs to them, that were lost, per second and by reason: they make estimates doubtful.', 'cps', 8)
        + p.prom(prom.ownRate('profiler_samples_lost_total', 'reason'), '{{reason}}')
        + p.influx(influx.ownRate('profiler_leak_loss', 'samples', ['reason'], 'lost'), '$tag_reason'),
        p.lines('Not observed', 'Processes that were chosen and are not observed, per second and by reason, and targets left out of the series.', 'cps', 8)
        + p.prom(prom.ownRate('profiler_processes_not_observed_total', 'reason'), '{{reason}}')
        + p.prom(prom.ownSum('profiler_targets_left_out'), 'targets left out')
        + p.influx(influx.ownRate('profiler_not_observed', 'processes', ['reason'], 'processes'), '$tag_reason')
        + p.influx(influx.ownSum('profiler_self', 'targets_left_out', as='targets left out'), '$col'),
      ],
    },
    {
      title: 'Samples, worker and history',
      panels: [
        p.lines('Samples drawn', 'Allocations per second that were drawn as samples: what all estimates rest on.', 'cps', 6, 7)
        + p.prom(prom.ownRate('profiler_samples_total', 'instance, target'), '{{target}} ({{instance}})')
        + p.influx(influx.ownRate('profiler_leak', 'samples', ['host', 'target'], 'samples'), '$tag_target ($tag_host)'),
        p.lines('Worker', 'The process without rights that reads what targets have made: how often it was started, ended before its time, or had no answer, in each step.', 'none', 6, 7)
        + p.prom(prom.ownGrowth('profiler_worker_starts_total'), 'starts')
        + p.prom(prom.ownGrowth('profiler_worker_deaths_total', 'cause'), 'deaths: {{cause}}')
        + p.prom(prom.ownGrowth('profiler_worker_failed_requests_total'), 'no answer')
        + p.prom(prom.ownGrowth('profiler_worker_quarantined_total'), 'quarantined')
        + p.influx(influx.growths('profiler_self', [['worker_starts', 'starts'], ['worker_deaths_time', 'deaths: time'], ['worker_deaths_crash', 'deaths: crash'], ['worker_deaths_refused', 'deaths: refused'], ['worker_deaths_unstartable', 'deaths: unstartable'], ['worker_failed_requests', 'no answer'], ['worker_quarantined', 'quarantined']], influx.own), '$col'),
        p.lines('History on disk', 'Pictures of leaks that are kept for looking back. They are thinned out as they age.', 'none', 6, 7)
        + p.prom(prom.ownSum('profiler_history_pictures', 'instance'), '{{instance}}')
        + p.influx(influx.ownSum('profiler_self', 'history_pictures', ['host'], 'kept'), '$tag_host'),
        p.lines('History that failed', 'Pictures that could not be written, and small sites that were left out of them to keep the history small, in each step.', 'none', 6, 7)
        + p.colors({ 'not written': 'red', 'sites left out': 'orange' })
        + p.prom(prom.ownGrowth('profiler_history_failed_total'), 'not written')
        + p.prom(prom.ownGrowth('profiler_history_dropped_sites_total'), 'sites left out')
        + p.influx(influx.growths('profiler_self', [['history_failed', 'not written'], ['history_dropped_sites', 'sites left out']], influx.own), '$col'),
      ],
    },
    {
      title: 'Push to InfluxDB',
      panels: [
        p.lines('Points acknowledged', 'Points per second that InfluxDB has acknowledged.', 'cps', 8)
        + p.prom(prom.ownRate('profiler_influx_points_total', 'instance'), '{{instance}}')
        + p.influx(influx.ownRate('profiler_push', 'points', ['host'], 'points'), '$tag_host'),
        p.lines('Requests by outcome', 'Requests per second to InfluxDB, by what became of them.', 'cps', 8)
        + p.stacked
        + p.colors(config.outcomes)
        + p.prom(prom.ownRate('profiler_influx_requests_total', 'outcome'), '{{outcome}}')
        + p.influx(influx.rates('profiler_push', [['requests_' + outcome, outcome] for outcome in std.objectFields(config.outcomes)], influx.own), '$col'),
        p.lines('Points that wait', 'Points that are not acknowledged yet. A hill is an outage that was survived.', 'short', 8)
        + p.prom(prom.ownSum('profiler_influx_backlog_points', 'instance'), '{{instance}}')
        + p.influx(influx.ownSum('profiler_push', 'backlog_points', ['host'], 'points'), '$tag_host'),
        p.lines('Age of the oldest point', 'How long the oldest point has waited; 0 if none does.', 's', 6)
        + p.prom('max by (instance) (profiler_influx_backlog_age_seconds{%s})' % prom.own, '{{instance}}')
        + p.influx(influx.ownSum('profiler_push', 'backlog_age_seconds', ['host'], 'age'), '$tag_host'),
        p.lines('Spool', 'Size of what waits, in all and of it in memory alone (a kill loses that), beside the limit of the spool.', 'bytes', 6)
        + p.colors({ waiting: 'orange', 'in memory': 'purple', limit: 'red' })
        + p.prom(prom.ownSum('profiler_influx_backlog_bytes'), 'waiting')
        + p.prom(prom.ownSum('profiler_influx_memory_bytes'), 'in memory')
        + p.prom(prom.ownSum('profiler_influx_spool_limit_bytes'), 'limit')
        + p.influx(influx.sums('profiler_push', [['backlog_bytes', 'waiting'], ['memory_bytes', 'in memory'], ['spool_limit_bytes', 'limit']], influx.own), '$col')
        + { log: true },
        p.lines('Given up', 'Points per second that were dropped, by reason, are in quarantine, or could not be expressed.', 'cps', 6)
        + p.prom(prom.ownRate('profiler_influx_dropped_points_total', 'reason'), 'dropped: {{reason}}')
        + p.prom(prom.ownRate('profiler_influx_quarantined_points_total'), 'quarantined')
        + p.prom(prom.ownRate('profiler_influx_left_out_total'), 'left out')
        + p.influx(influx.rates('profiler_push', [['quarantined_points', 'quarantined']] + [['dropped_points_' + reason, 'dropped: ' + reason] for reason in config.dropReasons], influx.own), '$col'),
        p.lines('Windows missed', 'Windows that were not closed in time or had no new figures (the machine slept, or had no time), and batches that the disk of the spool refused at first, in each step.', 'none', 6)
        + p.colors({ 'windows missed': 'orange', 'disk refused': 'purple' })
        + p.prom(prom.ownGrowth('profiler_influx_windows_missed_total'), 'windows missed')
        + p.prom(prom.ownGrowth('profiler_influx_spool_failures_total'), 'disk refused')
        + p.influx(influx.growths('profiler_push', [['missed_windows', 'windows missed'], ['spool_failures', 'disk refused']], influx.own), '$col'),
      ],
    },
  ],
}
