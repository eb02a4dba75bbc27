// One target in depth: where its memory goes and why it stands still. Several chosen targets are added up.
local ask = import 'ask.libsonnet';
local p = import 'panels.libsonnet';
local prom = ask.prom, influx = ask.influx;

function(config) {
  uid: 'target',
  title: 'target',
  text: 'One target in depth: where its memory goes, which call site leaks, and why its threads stand still. Several chosen targets are added up.',
  targets: true,
  verdicts: true,
  rows: [
    {
      panels: [
        p.verdict('Verdict', 'What is said of the memory: leaking, growing (may level off), steady or unjudged.', 4)
        + p.prom('max by (verdict) (profiler_leak_verdict{%s} == 1)' % prom.chosen, '{{verdict}}')
        + p.influx('SELECT last("verdict") AS "verdict" FROM %DB%"profiler_leak" WHERE %HOST% AND %TARGET% AND %LATEST%'),
        p.stat('Growth', 'By how much the memory grows, estimated from all sites.', 'binBps', 4)
        + p.prom(prom.sum('profiler_leak_bytes_per_second'))
        + p.influx(influx.now('profiler_leak', 'bytes_per_second', 'growth')),
        p.stat('Live heap', 'Bytes allocated since the profiler came that live, estimated.', 'bytes', 4)
        + p.prom(prom.sum('profiler_heap_live_bytes'))
        + p.influx(influx.now('profiler_leak', 'live_bytes', 'live')),
        p.stat('Resident memory', 'What the kernel has given to it.', 'bytes', 4)
        + p.prom(prom.sum('profiler_process_resident_memory_bytes'))
        + p.influx(influx.now('profiler_process', 'resident_bytes', 'resident')),
        p.stat('Live objects', 'Allocations minus frees since the profiler came: exact.', 'short', 4)
        + p.prom(prom.sum('profiler_live_objects'))
        + p.influx(influx.now('profiler_allocator', 'live_objects', 'objects')),
        p.stat('Threads', 'Threads that live.', 'none', 4)
        + p.prom(prom.sum('profiler_process_threads'))
        + p.influx(influx.now('profiler_process', 'threads', 'threads')),
      ],
    },
    {
      title: 'Where the memory goes',
      panels: [
        p.lines('Resident memory, and how much of it is explained', 'Resident memory as the kernel counts it (RSS; PSS shares out shared pages; USS is what no other process has; anonymous is heap and stacks) beside the live heap that call sites explain, with its 95 % interval.', 'bytes', 12, 9)
        + p.colors({ resident: 'blue', PSS: 'light-blue', USS: 'purple', anonymous: 'yellow', 'live heap': 'green' })
        + p.band('live heap, low', 'live heap, high', 'green')
        + p.prom(prom.sum('profiler_process_resident_memory_bytes'), 'resident')
        + p.prom(prom.sum('profiler_process_proportional_memory_bytes'), 'PSS')
        + p.prom(prom.sum('profiler_process_unique_memory_bytes'), 'USS')
        + p.prom(prom.sum('profiler_process_anonymous_memory_bytes'), 'anonymous')
        + p.prom(prom.sum('profiler_heap_live_bytes'), 'live heap')
        + p.prom(prom.sum('profiler_heap_live_low_bytes'), 'live heap, low')
        + p.prom(prom.sum('profiler_heap_live_high_bytes'), 'live heap, high')
        + p.influx(influx.sums('profiler_process', [['resident_bytes', 'resident'], ['proportional_bytes', 'PSS'], ['unique_bytes', 'USS'], ['anonymous_bytes', 'anonymous']]), '$col')
        + p.influx(influx.sums('profiler_leak', [['live_bytes', 'live heap'], ['live_bytes_low', 'live heap, low'], ['live_bytes_high', 'live heap, high']]), '$col'),
        p.table('Call sites of most concern', 'Where the memory that lives was allocated, what is said of it and how fast it grows.', 12, 9)
        + {
          columns: [
            p.column('verdict', 'Verdict', verdict=true, width=110),
            p.column('function', 'Function'),
            p.column('growth', 'Growth', 'binBps', bar=true, color='orange', width=150),
            p.column('live', 'Live', 'bytes', bar=true, color='blue', width=150),
            p.column('site', 'Site', width=120),
          ],
          sort: 'growth',
          promTable: {
            by: ['instance', 'target', 'site', 'function'],
            label: 'verdict',
            of: 'sum by (instance, target, site, function, verdict) ((profiler_site_leak_verdict{%s} == 1) %s)' % [prom.chosen, function_of],
            values: [
              ['growth', 'sum by (instance, target, site, function) (profiler_site_leak_bytes_per_second{%s} %s)' % [prom.chosen, function_of]],
              ['live', 'sum by (instance, target, site, function) (profiler_site_live_bytes{%s} %s)' % [prom.chosen, function_of]],
            ],
          },
          influxTables: [
            influx.table('profiler_site', [['verdict', 'verdict'], ['bytes_per_second', 'growth'], ['live_bytes', 'live']], ['host', 'target', 'site', 'function'], "\"site\" != 'other'"),
          ],
        },
        p.lines('Live heap by call site', 'The sites of most concern, and the rest as "other". The one that climbs is the leak.', 'bytes', 12)
        + p.stacked
        + p.long('7d')
        + p.prom('sum by (function) (profiler_site_live_bytes{%s} %s)' % [prom.chosen, function_of], '{{function}}')
        + p.prom(prom.sum('profiler_site_live_bytes', where='site="other"'), 'other')
        + p.influx(influx.sum('profiler_site', 'live_bytes', ['function'], 'live', "\"site\" != 'other'"), '$tag_function')
        + p.influx(influx.sum('profiler_site', 'live_bytes', [], 'live', "\"site\" = 'other'"), 'other'),
        p.lines('Growth, with its 95 % interval', 'By how much the whole target grows. The narrower the band, the surer the figure.', 'binBps', 12)
        + p.long('7d')
        + p.colors({ growth: 'orange' })
        + p.band('low', 'high', 'orange')
        + p.prom(prom.sum('profiler_leak_bytes_per_second'), 'growth')
        + p.prom(prom.sum('profiler_leak_low_bytes_per_second'), 'low')
        + p.prom(prom.sum('profiler_leak_high_bytes_per_second'), 'high')
        + p.influx(influx.sums('profiler_leak', [['bytes_per_second', 'growth'], ['bytes_per_second_low', 'low'], ['bytes_per_second_high', 'high']]), '$col'),
      ],
    },
    {
      title: 'Allocator',
      panels: [
        p.lines('Allocations by function', 'Calls per second that ask for a block, by function. Exact.', 'ops', 8)
        + p.prom('%s and %s > 0' % [prom.rate('profiler_allocations_total', 'function'), 'sum by (function) (increase(profiler_allocations_total{%s}[$__range]))' % prom.chosen], '{{function}}')
        + p.influx(influx.rate('profiler_alloc', 'allocations', ['function'], 'allocations', "\"function\" != 'free'"), '$tag_function'),
        p.lines('Allocated bytes', 'Bytes per second asked for, by allocator. Exact as requested.', 'binBps', 8)
        + p.prom(prom.rate('profiler_allocated_bytes_total', 'allocator'), '{{allocator}}')
        + p.influx(influx.rate('profiler_allocator', 'allocated_bytes', ['allocator'], 'allocated'), '$tag_allocator'),
        p.lines('Live objects', 'Allocations minus frees since the profiler came, by allocator. Exact; does not drift. Below zero if more was freed of what was there before.', 'short', 8)
        + p.signed
        + p.prom(prom.sum('profiler_live_objects', 'allocator'), '{{allocator}}')
        + p.influx(influx.sum('profiler_allocator', 'live_objects', ['allocator'], 'objects'), '$tag_allocator'),
      ],
    },
    {
      title: 'Where the time goes',
      panels: [
        p.lines('What the threads do', 'The time of all threads by what they were doing; the states add up to all of it. Runnable is waiting for a CPU, futex for a lock or a condition variable.', 'percentunit', 12, 9)
        + p.percent
        + p.colors(config.states)
        // In this order, so that work is at the bottom and sleep at the top.
        + p.prom(prom.rate('profiler_thread_seconds_total', 'state', 'state="running"'), '{{state}}')
        + p.prom(prom.rate('profiler_thread_seconds_total', 'state', 'state!~"running|sleeping"'), '{{state}}')
        + p.prom(prom.rate('profiler_thread_seconds_total', 'state', 'state="sleeping"'), '{{state}}')
        + p.influx(influx.rate('profiler_thread', 'seconds', ['state'], 'threads', "\"state\" = 'running'"), '$tag_state')
        + p.influx(influx.rate('profiler_thread', 'seconds', ['state'], 'threads', '"state" !~ /^(running|sleeping)$/'), '$tag_state')
        + p.influx(influx.rate('profiler_thread', 'seconds', ['state'], 'threads', "\"state\" = 'sleeping'"), '$tag_state'),
        p.heatmap('How long the stalls are', 'Intervals in which a thread stood still for at least the threshold, by length and time.', 12, 9)
        + p.prom(prom.rate('profiler_stall_seconds_bucket', 'le'), '{{le}}')
        + p.influx(influx.bands([notAbove(bound) for bound in config.stallBounds], config.stallBounds), '$col')
        + { bandsOf: influx.bands([notAbove(bound[1]) for bound in config.stallBands], [bound[0] for bound in config.stallBands]) },
        p.lines('Stalls by cause', 'Intervals per second at least as long as the threshold, by cause. Sleeping is no stall.', 'cps', 12)
        + p.colors(config.causes)
        + p.prom(prom.rate('profiler_stalls_total', 'cause'), '{{cause}}')
        + p.influx(influx.rate('profiler_stall', 'stalls', ['cause'], 'stalls'), '$tag_cause'),
        p.lines('Time lost in stalls', 'Seconds per second that threads stood still, by cause: 1 is one thread all the time.', 's', 12)
        + p.colors(config.causes)
        + p.stacked
        + p.prom(prom.rate('profiler_stall_seconds_sum', 'cause'), '{{cause}}')
        + p.influx(influx.rate('profiler_stall', 'seconds', ['cause'], 'seconds'), '$tag_cause'),
      ],
    },
    {
      title: 'Process',
      panels: [
        p.lines('CPU', 'CPUs used: 100 % is one of them.', 'percentunit', 6, 7)
        + p.prom(prom.rate('profiler_process_cpu_seconds_total'), 'CPU')
        + p.influx(influx.rate('profiler_process', 'cpu_seconds', as='CPU'), '$col'),
        p.lines('Page faults', 'Minor: no I/O. Major: something had to be read.', 'cps', 6, 7)
        + p.colors({ minor: 'blue', major: 'red' })
        + p.prom(prom.rate('profiler_process_page_faults_total', 'kind'), '{{kind}}')
        + p.influx(influx.rates('profiler_process', [['minor_page_faults', 'minor'], ['major_page_faults', 'major']]), '$col'),
        p.lines('Context switches', 'Voluntary: it waited. Involuntary: its CPU was taken away. Read seldom, so it is smoothed.', 'cps', 6, 7)
        + p.colors({ voluntary: 'green', involuntary: 'orange' })
        // Over so long that there is more than one reading in it.
        + p.prom('sum by (kind) (rate(profiler_process_context_switches_total{%s}[5m]))' % prom.chosen, '{{kind}}')
        + p.influx(influx.rates('profiler_process', [['voluntary_context_switches', 'voluntary'], ['involuntary_context_switches', 'involuntary']]), '$col'),
        p.lines('Open files', 'File descriptors that are open.', 'short', 6, 7)
        + p.prom(prom.sum('profiler_process_open_fds'), 'open')
        + p.influx(influx.sum('profiler_process', 'open_fds', as='open'), '$col'),
      ],
    },
  ],
  // The field that counts what is not longer. There is none for what is longer than all bounds; that is in the count of all.
  local notAbove(bound) = if bound == '+Inf' then 'stalls' else 'le_' + bound,
  local function_of = '* on (job, instance, target, site) group_left (function) profiler_site_info{%s}' % prom.chosen,
}
