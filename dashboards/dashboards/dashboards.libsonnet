// All dashboards, by the names of their files: three, for Grafana with Prometheus, Grafana with InfluxQL, and Chronograf.
{
  _config+:: {
    // Where --influx-db puts the points; only Chronograf's queries name it.
    influxDatabase: 'profiler',
  },

  local config = $._config,
  local palette = import 'palette.libsonnet',
  local told = config + palette,
  local all = [
    (import 'overview.libsonnet')(told),
    (import 'target.libsonnet')(told),
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
