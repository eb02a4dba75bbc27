// What Go's runtimes say of themselves: goroutines, heap, collections. Several chosen targets are added up; of pauses the
// longest of them are shown.
local ask = import 'ask.libsonnet';
local p = import 'panels.libsonnet';
local prom = ask.prom, influx = ask.influx;

function(config) {
  uid: 'go',
  title: 'Go',
  text: 'What Go programs say of themselves, read from outside: goroutines, heap, garbage collection. Several chosen targets are added up.',
  targets: true,
  rows: [
    {
      panels: [
        p.stat('Goroutines', 'Goroutines that exist.', 'short', 4)
        + p.prom(prom.sum('profiler_go_goroutines'))
        + p.influx(influx.now('profiler_go', 'goroutines', 'goroutines')),
        p.stat('Threads', 'Threads that the runtime has created.', 'none', 4)
        + p.prom(prom.sum('profiler_go_threads'))
        + p.influx(influx.now('profiler_go', 'threads', 'threads')),
        p.stat('Heap in use', 'Heap that has at least one object in it.', 'bytes', 4)
        + p.prom(prom.sum('profiler_go_memstats_heap_inuse_bytes'))
        + p.influx(influx.now('profiler_go_memstats', 'heap_in_use', 'in use')),
        p.stat('Next collection at', 'The size of the heap at which the next garbage collection begins.', 'bytes', 4)
        + p.prom(prom.sum('profiler_go_memstats_next_gc_bytes'))
        + p.influx(influx.now('profiler_go_memstats', 'next_gc', 'next')),
        p.stat('From the system', 'All memory that the runtime has from the system: address space, not all of it is resident.', 'bytes', 4)
        + p.prom(prom.sum('profiler_go_memstats_sys_bytes'))
        + p.influx(influx.now('profiler_go_memstats', 'sys', 'sys')),
        p.stat('Longest pause', 'The longest of the pauses that the runtimes remember: the last 256 of each process.', 's', 4)
        + p.prom('max (profiler_go_gc_duration_seconds{%s})' % prom.chosen)
        + p.influx('SELECT max("v") AS "longest" FROM (SELECT last("gc_pause_1") AS "v" FROM %DB%"profiler_go_memstats" WHERE %HOST% AND %TARGET% AND %LATEST% GROUP BY *)'),
      ],
    },
    {
      title: 'Goroutines and heap',
      panels: [
        p.lines('Goroutines', 'Goroutines that exist. A number that climbs for hours under the same load is a leak: somebody waits for what never comes.', 'short', 12)
        + p.prom(prom.sum('profiler_go_goroutines', 'target'), '{{target}}')
        + p.influx(influx.sum('profiler_go', 'goroutines', ['target'], 'goroutines'), '$tag_target'),
        p.lines('Heap', 'Objects (with the dead ones that are not swept yet), pages in use, and where the next collection begins. The lower edge of the objects is what lives.', 'bytes', 12)
        + p.colors({ objects: 'green', 'in use': 'blue', 'next collection': 'orange' })
        + p.prom(prom.sum('profiler_go_memstats_heap_alloc_bytes'), 'objects')
        + p.prom(prom.sum('profiler_go_memstats_heap_inuse_bytes'), 'in use')
        + p.prom(prom.sum('profiler_go_memstats_next_gc_bytes'), 'next collection')
        + p.influx(influx.sums('profiler_go_memstats', [['heap_alloc', 'objects'], ['heap_in_use', 'in use'], ['next_gc', 'next collection']]), '$col'),
        p.lines('Memory by purpose', 'What the runtime has from the system, by what it is for. Idle heap is in it, given back or not.', 'bytes', 12)
        + p.stacked
        + p.prom(prom.sum('profiler_go_memstats_heap_sys_bytes'), 'heap')
        + p.prom(prom.sum('profiler_go_memstats_stack_sys_bytes'), 'stacks')
        + p.prom(prom.sum('profiler_go_memstats_mspan_sys_bytes'), 'spans')
        + p.prom(prom.sum('profiler_go_memstats_mcache_sys_bytes'), 'caches')
        + p.prom(prom.sum('profiler_go_memstats_buck_hash_sys_bytes'), 'profiling')
        + p.prom(prom.sum('profiler_go_memstats_gc_sys_bytes'), 'collector')
        + p.prom(prom.sum('profiler_go_memstats_other_sys_bytes'), 'other')
        + p.influx(influx.sums('profiler_go_memstats', [['heap_sys', 'heap'], ['stack_sys', 'stacks'], ['mspan_sys', 'spans'], ['mcache_sys', 'caches'], ['buck_hash_sys', 'profiling'], ['gc_sys', 'collector'], ['other_sys', 'other']]), '$col'),
        p.lines('Allocated bytes', 'Bytes of heap objects allocated per second, by target.', 'binBps', 12)
        + p.prom(prom.rate('profiler_go_memstats_alloc_bytes_total', 'target'), '{{target}}')
        + p.influx(influx.rate('profiler_go_memstats', 'total_alloc', ['target'], 'allocated'), '$tag_target'),
      ],
    },
    {
      title: 'Garbage collection',
      panels: [
        p.lines('Collections', 'Cycles of garbage collection per second. Forced ones were asked for by the program.', 'cps', 8)
        + p.colors({ all: 'blue', forced: 'orange' })
        + p.prom(prom.rate('profiler_go_gc_cycles_total'), 'all')
        + p.prom(prom.rate('profiler_go_gc_forced_cycles_total'), 'forced')
        + p.influx(influx.rates('profiler_go_memstats', [['num_gc', 'all'], ['num_forced_gc', 'forced']]), '$col'),
        p.lines('World stopped', 'The share of time in which a collection had stopped all goroutines.', 'percentunit', 8)
        + p.prom(prom.rate('profiler_go_gc_duration_seconds_sum', 'target'), '{{target}}')
        + p.influx(influx.rate('profiler_go_memstats', 'gc_pause_total', ['target'], 'stopped'), '$tag_target'),
        p.lines('Length of pauses', 'Least, quarters and most of the pauses that the runtimes remember (the last 256 of each process), of the target that has the longest.', 's', 8)
        + p.prom('max by (quantile) (profiler_go_gc_duration_seconds{%s})' % prom.chosen, '{{quantile}}')
        + p.influx(
          'SELECT %s FROM %%DB%%"profiler_go_memstats" WHERE %%HOST%% AND %%TARGET%% AND %%TIME%% GROUP BY time(%%STEP%%) fill(none)'
          % std.join(', ', ['max("gc_pause_%s") AS "%s"' % [share, share] for share in config.quantiles]),
          '$col'
        ),
      ],
    },
  ],
}
