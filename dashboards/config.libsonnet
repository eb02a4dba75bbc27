// Everything that differs between one installation and the next. Override it like this:
//   (import 'mixin.libsonnet') + { _config+:: { profilerSelector: 'job="my-profiler"' } }
{
  _config+:: {
    // The series of profiler's own scrapes, for a selector's braces: several matchers are parted by commas.
    profilerSelector: 'job="profiler"',

    // Labels that Prometheus puts on every series of one profiler, and those of one target of it.
    instanceLabels: ['job', 'instance'],
    targetLabels: self.instanceLabels + ['target'],

    // Runbook: one section per alert; the alert's name in lower case is its anchor.
    runbookURLPattern: 'docs/runbook.md#%s',

    // What Grafana shows, and the prefix of the fixed uids, which links and provisioning rest on.
    dashboardNamePrefix: 'Profiler / ',
    dashboardTags: ['profiler'],
    dashboardUidPrefix: 'profiler-',
    dashboardRefresh: '30s',
    dashboardFrom: 'now-3h',
    // The name of the variable that chooses the data source.
    datasourceVariable: 'datasource',
    // InfluxDB: what --influx-measurement-prefix was set to.
    influxMeasurementPrefix: '',

    // How long something has to last before anybody is told, and from where on it is too much.
    leakingFor: '10m',
    // A target that was observed for less is no loss: a job that has ended.
    targetGoneMinSeconds: 600,
    // How long a target that ended is told of.
    targetGoneWindow: '1h',
    // States of threads that would go on if they could. Not futex: idle thread pools wait there, too.
    stallStates: 'runnable|disk|uninterruptible',
    // The share of such waiting in the time that threads run or would run.
    stallBudgetRatio: 0.25,
    // Threads that wait at a time, on average; below it the share says nothing, for the target is idle.
    stallMinThreads: 0.2,
    // No metric knows a cgroup's limit, so it is said here: for all targets, and for single ones by name.
    memoryLimitBytes: 8 * 1024 * 1024 * 1024,
    memoryLimitBytesByTarget: {},
    // The rate of growth is taken over this time, and the alert looks so many hours ahead.
    memoryRateWindow: '1h',
    memoryHours: 6,
    scrapeSlowSeconds: 1,
    // More than so many of one reason in 15 minutes.
    eventsLostIn15m: 10,
    // Lost samples in the share of those drawn.
    samplesLostRatio: 0.01,
    // Reasons that are no loss by accident: targets of two kinds, functions that aren't sampled on purpose.
    samplesNotLostReasons: 'other_source|not_sampled_functions',
    workerDeathsPerHour: 3,
    pushFailingWindow: '10m',
    spoolNearFullRatio: 0.8,
    backlogOldSeconds: 3600,
  },
}
