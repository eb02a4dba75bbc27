// Everything that differs between one installation and the next. Override it like this:
//   (import 'mixin.libsonnet') + { _config+:: { profilerSelector: 'job="my-profiler"' } }
{
  _config+:: {
    // The series of profiler's own scrapes, for a selector's braces: several matchers are parted by commas.
    profilerSelector: 'job="profiler"',

    // Labels that Prometheus puts on every series of one profiler, and those of one target of it.
    instanceLabels: ['job', 'instance'],
    targetLabels: self.instanceLabels + ['target'],

    // Runbook: one section per alert; the alert's name in lower case is its anchor. Set it to an address that those who are
    // told can open: the default is the file's place in the repository.
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
    // More matchers, for targets whose end is no news: 'target!~"backup|cron-.*"'.
    targetGoneSelector: '',
    // States of threads that would go on if they could. Not futex: idle thread pools wait there, too.
    stallStates: 'runnable|disk|uninterruptible',
    // The share of such waiting in the time that threads run or would run.
    stallBudgetRatio: 0.25,
    // Threads that wait at a time, on average; below it the share says nothing, for the target is idle.
    stallMinThreads: 0.2,
    // A target's memory limit is that of its control group. What is said here by a target's name goes before that; what is
    // said for all (in bytes) is for targets without one. Null: those have none, and nobody is told.
    memoryLimitBytesByTarget: {},
    memoryLimitBytes: null,
    // The rate of growth is taken over this time, and the alert looks so many hours ahead.
    memoryRateWindow: '1h',
    memoryHours: 6,
    // Goroutines that come in each of two hours, at least, and stay, before anybody is told.
    goroutinesPerHour: 100,
    scrapeSlowSeconds: 1,
    // Profiler serves nobody but those who look at it, and with --pid it ends with its target: no reason to wake anybody.
    downSeverity: 'warning',
    // How long a profiler is told of that isn't scraped any more: behind an agent, `up` vanishes together with the machine.
    vanishedWindow: '1h',
    // More than so many of one reason in 15 minutes.
    eventsLostIn15m: 10,
    // Reasons that say next to nothing: nanoseconds, and what some virtual machines do all the time.
    eventsHarmlessReasons: 'clock_backwards|switch_not_seen',
    // Events that are samples are only too many if they are more than samplesLostRatio of those drawn.
    eventsOfSamples: 'samples_full|live_samples_full',
    // Lost samples in the share of those drawn.
    samplesLostRatio: 0.01,
    // Reasons that are no loss by accident: targets of two kinds, functions that aren't sampled on purpose. And one that is
    // 0 or 1, not a count: ProfilerEventsLost counts it.
    samplesNotLostReasons: 'other_source|not_sampled_functions|live_samples_full',
    workerDeathsPerHour: 3,
    pushFailingWindow: '10m',
    spoolNearFullRatio: 0.8,
    backlogOldSeconds: 3600,
  },
}
