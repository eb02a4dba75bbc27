// What has a meaning has the same colour everywhere, and what the histogram's buckets are.
{
  verdicts: { leaking: 'red', growing: 'orange', steady: 'green', unjudged: '#7b8087' },
  // In the order in which they are stacked, from below.
  states: {
    running: 'green',
    runnable: 'yellow',
    disk: 'purple',
    uninterruptible: 'dark-red',
    futex: 'orange',
    stopped: 'blue',
    sleeping: '#454b54',
  },
  causes: { runqueue: 'yellow', disk: 'purple', uninterruptible: 'dark-red', futex: 'orange', stopped: 'blue', gc: 'green' },
  outcomes: {
    stored: 'green',
    rejected: 'red',
    too_large: 'purple',
    busy: 'yellow',
    misconfigured: 'dark-red',
    broken: 'dark-orange',
    unreachable: 'orange',
  },
  dropReasons: ['spool_full', 'memory_full', 'expired', 'corrupt', 'unfit', 'quarantine_full'],
  // The upper bounds of profiler_stall_seconds, as they are written.
  stallBounds: [
    '0.001', '0.002', '0.004', '0.008', '0.016', '0.032', '0.064', '0.128', '0.256', '0.512', '1.024', '2.048', '4.096',
    '8.192', '16.384', '+Inf',
  ],
  // The shares of profiler_go_gc_duration_seconds.
  quantiles: ['0', '0.25', '0.5', '0.75', '1'],
  // Fewer of them, with names, for who has no heat map.
  stallBands: [
    ['up to 4 ms', '0.004'], ['up to 16 ms', '0.016'], ['up to 64 ms', '0.064'], ['up to 256 ms', '0.256'],
    ['up to 1 s', '1.024'], ['longer', '+Inf'],
  ],
}
