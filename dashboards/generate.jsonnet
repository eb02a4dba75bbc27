// What `cargo xtask dashboards` asks for: the files to write, and the same as data, for the check.
local mixin = import 'mixin.libsonnet';

local header = '# Made by `cargo xtask dashboards` from the jsonnet files beside it. Change those.\n';
local yaml(value) = header + std.manifestYamlDoc(value, indent_array_in_object=true, quote_keys=false) + '\n';
local json(value) = std.manifestJsonEx(value, '  ') + '\n';

{
  files:
    {
      'alerts.yaml': yaml(mixin.prometheusAlerts),
      'rules.yaml': yaml(mixin.prometheusRules),
    }
    + { ['grafana/' + name]: json(mixin.grafanaDashboards[name]) for name in std.objectFields(mixin.grafanaDashboards) }
    + { ['chronograf/' + name]: json(mixin.chronografDashboards[name]) for name in std.objectFields(mixin.chronografDashboards) },
  alerts: mixin.prometheusAlerts,
  rules: mixin.prometheusRules,
  grafana: mixin.grafanaDashboards,
  chronograf: mixin.chronografDashboards,
}
