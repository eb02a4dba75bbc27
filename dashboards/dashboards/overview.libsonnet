// All targets at a glance: which of them leaks, grows or stands still, and where to look next.
local ask = import 'ask.libsonnet';
local p = import 'panels.libsonnet';
local prom = ask.prom, influx = ask.influx;

function(config) {
  uid: 'overview',
  title: 'overview',
  text: 'Every observed target: what is said of its memory, how fast it grows, and whether it gets to run.',
  targets: true,
  rows: [
    {
      panels: [
        p.stat('Targets running', 'Targets of which a process runs.', 'none', 4)
        + p.prom(prom.sum('profiler_target_up'))
        + p.influx(influx.now('profiler_target', 'up', 'running')),
        p.stat('Leaking', 'Targets whose memory is lost: nothing points to it any more, or it has grown for longer than the patience.', 'none', 4)
        + p.none('0')
        + p.thresholds([['green', null], ['red', 1]])
        + p.prom(prom.runningSum('profiler_leak_verdict', where='verdict="leaking"'))
        + p.counted('up', 'leaking')
        + p.influx("SELECT sum(\"v\") AS \"leaking\" FROM (SELECT count(\"last\") AS \"v\" FROM (SELECT last(\"verdict\") FROM %DB%\"profiler_leak\" WHERE %HOST% AND %TARGET% AND %LATEST% GROUP BY *) WHERE \"last\" = 'leaking' GROUP BY \"target\")"),
        p.stat('Growing', 'Targets whose memory grows, but may level off yet.', 'none', 4)
        + p.none('0')
        + p.thresholds([['green', null], ['orange', 1]])
        + p.prom(prom.runningSum('profiler_leak_verdict', where='verdict="growing"'))
        + p.counted('up', 'growing')
        + p.influx("SELECT sum(\"v\") AS \"growing\" FROM (SELECT count(\"last\") AS \"v\" FROM (SELECT last(\"verdict\") FROM %DB%\"profiler_leak\" WHERE %HOST% AND %TARGET% AND %LATEST% GROUP BY *) WHERE \"last\" = 'growing' GROUP BY \"target\")"),
        p.stat('Growth, all together', 'Estimated bytes per second by which the judged targets grow.', 'binBps', 4)
        + p.prom(prom.runningSum('profiler_leak_bytes_per_second'))
        + p.counted('growth')
        + p.influx(influx.now('profiler_leak', 'bytes_per_second', 'growth')),
        p.stat('Resident memory', 'Resident memory of all targets.', 'bytes', 4)
        + p.prom(prom.sum('profiler_process_resident_memory_bytes'))
        + p.influx(influx.now('profiler_process', 'resident_bytes', 'resident')),
        p.stat('CPU', 'CPUs that the targets use: 100 % is one of them.', 'percentunit', 4, decimals=0)
        + p.prom(prom.rate('profiler_process_cpu_seconds_total'))
        + p.influx(influx.rate('profiler_process', 'cpu_seconds', as='cpu')),
      ],
    },
    {
      panels: [
        p.table('Targets', 'What is said of each target now. Click a name to look into it.', 24, 8)
        + {
          columns: [
            p.column('target', 'Target', link='target', width=170),
            p.column('instance', 'Profiler', width=150, of='prometheus'),
            p.column('host', 'Host', width=150, of='influxdb'),
            p.column('verdict', 'Verdict', verdict=true, width=130),
            p.column('growth', 'Growth', 'binBps', bar=true, color='orange'),
            p.column('live', 'Live heap', 'bytes', bar=true, color='blue'),
            p.column('resident', 'Resident', 'bytes', bar=true, color='semi-dark-blue'),
            p.column('objects', 'Live objects', 'short'),
            p.column('cpu', 'CPU', 'percentunit', decimals=1),
            p.column('stalled', 'Stalled', 'percentunit', decimals=1),
          ],
          sort: 'growth',
          promTable: {
            // The same name on two machines is two targets.
            by: ['instance', 'target'],
            label: 'verdict',
            of: 'sum by (instance, target, verdict) (profiler_leak_verdict{%s} == 1 %s)' % [prom.chosen, prom.running],
            values: [
              ['growth', prom.runningSum('profiler_leak_bytes_per_second', 'instance, target')],
              ['live', prom.runningSum('profiler_heap_live_bytes', 'instance, target')],
              ['resident', prom.runningSum('profiler_process_resident_memory_bytes', 'instance, target')],
              ['objects', prom.runningSum('profiler_live_objects', 'instance, target')],
              ['cpu', prom.runningRate('profiler_process_cpu_seconds_total', 'instance, target')],
              ['stalled', stalled(prom.runningRate)],
            ],
          },
          onlyRunning: true,
          influxTables: [
            influx.table('profiler_leak', [['verdict', 'verdict'], ['bytes_per_second', 'growth'], ['live_bytes', 'live']], ['host', 'target']),
            influx.table('profiler_process', [['resident_bytes', 'resident']], ['host', 'target']),
            influx.now('profiler_allocator', 'live_objects', 'objects', by=['host', 'target']),
            influx.table('profiler_target', [['up', 'up']], ['host', 'target']),
          ],
        },
      ],
    },
    {
      title: 'Memory',
      panels: [
        p.lines('Growth', 'By how much the memory of each target grows, estimated. A target that is not judged yet has no line.', 'binBps', 12)
        + p.long('7d')
        + p.prom(prom.sum('profiler_leak_bytes_per_second', 'instance, target'), '{{target}} ({{instance}})')
        + p.influx(influx.sum('profiler_leak', 'bytes_per_second', ['host', 'target'], 'growth'), '$tag_target ($tag_host)'),
        p.lines('Live heap', 'Bytes allocated since the profiler came that live, estimated from samples. A staircase without an end is a leak.', 'bytes', 12)
        + p.long('7d')
        + p.prom(prom.sum('profiler_heap_live_bytes', 'instance, target'), '{{target}} ({{instance}})')
        + p.influx(influx.sum('profiler_leak', 'live_bytes', ['host', 'target'], 'live'), '$tag_target ($tag_host)'),
        p.lines('Resident memory', 'What the kernel has given to each target.', 'bytes', 12)
        + p.prom(prom.sum('profiler_process_resident_memory_bytes', 'instance, target'), '{{target}} ({{instance}})')
        + p.influx(influx.sum('profiler_process', 'resident_bytes', ['host', 'target'], 'resident'), '$tag_target ($tag_host)'),
        p.lines('Live objects', 'Allocations minus frees since the profiler came: exact, counted at every call. Below zero if more was freed of what was there before.', 'short', 12)
        + p.signed
        + p.prom(prom.sum('profiler_live_objects', 'instance, target'), '{{target}} ({{instance}})')
        + p.influx(influx.sum('profiler_allocator', 'live_objects', ['host', 'target'], 'objects'), '$tag_target ($tag_host)'),
      ],
    },
    {
      title: 'Work',
      panels: [
        p.lines('CPU', 'CPUs that each target uses: 100 % is one of them.', 'percentunit', 12)
        + p.prom(prom.rate('profiler_process_cpu_seconds_total', 'instance, target'), '{{target}} ({{instance}})')
        + p.influx(influx.rate('profiler_process', 'cpu_seconds', ['host', 'target'], 'cpu'), '$tag_target ($tag_host)'),
        p.lines('Stalled share', 'Of the time in which the threads of a target had something to do: how much of it they waited for a CPU, a disk or the kernel. Locks are not in it, for idle workers wait at one, too.', 'percentunit', 12)
        + { max: 1 }
        + p.prom(stalled(prom.rate), '{{target}} ({{instance}})')
        + p.influx(influx.share('profiler_thread', 'seconds', '"state" =~ /^(%s)$/' % config.stallStates, '"state" =~ /^(running|%s)$/' % config.stallStates, ['host', 'target'], 'stalled'), '$tag_target ($tag_host)'),
      ],
    },
  ],
  local stalled(rate) =
    '%s / %s' % [
      rate('profiler_thread_seconds_total', 'instance, target', 'state=~"%s"' % config.stallStates),
      rate('profiler_thread_seconds_total', 'instance, target', 'state=~"running|%s"' % config.stallStates),
    ],
}
