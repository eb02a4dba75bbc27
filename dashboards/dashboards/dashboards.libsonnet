// All dashboards, by the names of their files, each three times: for Grafana with Prometheus, Grafana with InfluxQL, and Chronograf.
{
  _config+:: {
    // Where --influx-db puts the points; only Chronograf's queries name it.
    influxDatabase: 'profiler',
    // The shortest step of lines: three times --influx-interval. Points of several machines are not written at the same
    // moment; over a step as short as their interval, one machine has two points in it and another none, and sums zigzag.
    influxStep: '30s',
    // What has written nothing for so long is over, and isn't counted in figures of now.
    influxLatest: '2m',
  },

  local config = $._config,
  local palette = import 'palette.libsonnet',
  local told = config + palette,
  local all = [
    (import 'overview.libsonnet')(told),
    (import 'target.libsonnet')(told),
    (import 'go.libsonnet')(told),
    (import 'profiler.libsonnet')(told),
  ],
  local grafana = import 'grafana.libsonnet',
  local prometheus = grafana(config, 'prometheus'),
  local influxql = grafana(config, 'influxdb'),
  local chronograf = (import 'chronograf.libsonnet')(config),

  grafanaDashboards+::
    { [prometheus.name(it)]: prometheus.dashboard(it) for it in all }
    + { [influxql.name(it)]: influxql.dashboard(it) for it in all },
  chronografDashboards+:: { [chronograf.name(it)]: chronograf.dashboard(it) for it in all },
}
