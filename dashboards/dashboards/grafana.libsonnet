// Makes a Grafana dashboard of what a dashboard asks. `language` is 'prometheus' or 'influxdb'.
local questions = import 'ask.libsonnet';
local palette = import 'palette.libsonnet';

local schemaVersion = 41;

local languages = {
  prometheus: { input: 'DS_PROMETHEUS', name: 'Prometheus', suffix: '', title: '' },
  influxdb: { input: 'DS_INFLUXDB', name: 'InfluxDB', suffix: '-influxql', title: ' (InfluxQL)' },
};

function(config, language) {
  local it = languages[language],
  local prometheus = language == 'prometheus',
  local datasource = { type: language, uid: '${%s}' % config.datasourceVariable },
  local uid(name) = config.dashboardUidPrefix + name + it.suffix,

  // What is written as a token in InfluxQL.
  local influxql(query, targets=true) = std.foldl(
    function(text, pair) std.strReplace(text, pair[0], pair[1]),
    [
      ['%DB%"', '"' + config.influxMeasurementPrefix],
      ['%HOST%', '"host" =~ /^$host$/'],
      ['%TARGET%', '"target" =~ /^$target$/'],
      ['%LATEST%', 'time > ${__to}ms - %s AND time <= ${__to}ms' % config.influxLatest],
      ['%TIME%', '$timeFilter'],
      ['%STEP%', '$__interval'],
    ],
    query
  ),

  local letter(i) = std.char(std.codepoint('A') + i),

  local ask(panel, extra={}) =
    if prometheus then [
      {
        refId: letter(i),
        datasource: datasource,
        expr: panel.prom[i].expr,
        legendFormat: if panel.prom[i].legend == '' then '__auto' else panel.prom[i].legend,
        editorMode: 'code',
        range: true,
      } + extra
      for i in std.range(0, std.length(panel.prom) - 1)
    ]
    else [
      {
        refId: letter(i),
        datasource: datasource,
        rawQuery: true,
        query: influxql(panel.influx[i].query),
        alias: panel.influx[i].alias,
        resultFormat: 'time_series',
      } + extra
      for i in std.range(0, std.length(panel.influx) - 1)
    ],

  local asTables(queries) = [
    { refId: letter(i), datasource: datasource, rawQuery: true, query: influxql(queries[i]), alias: '', resultFormat: 'table' }
    for i in std.range(0, std.length(queries) - 1)
  ],

  // Only rows in which all fields have these values: [[field, value], ...].
  local onlyWhere(fields) = {
    id: 'filterByValue',
    options: {
      type: 'include',
      match: 'all',
      filters: [{ fieldName: field[0], config: { id: 'equal', options: { value: field[1] } } } for field in fields],
    },
  },

  local fixed(color) = { mode: 'fixed', fixedColor: color },
  local override(name, properties) =
    { matcher: { id: 'byName', options: name }, properties: [{ id: id, value: properties[id] } for id in std.objectFields(properties)] },
  local verdictMappings = [{
    type: 'value',
    options: {
      [name]: { text: name, color: palette.verdicts[name], index: 0 }
      for name in std.objectFields(palette.verdicts)
    },
  }],

  local base(panel, type) = {
    type: type,
    title: panel.title,
    description: panel.text,
    datasource: datasource,
    [if panel.long != null then 'timeFrom']: panel.long,
    [if !prometheus then 'interval']: config.influxStep,
  },

  local kinds = {
    lines(panel):: base(panel, 'timeseries') {
      local names = [question.legend for question in panel.prom],
      local several = std.length(names) > 1 || (names[0] != '{{instance}}' && std.length(std.findSubstr('{{', names[0])) > 0),
      targets: ask(panel),
      fieldConfig: {
        defaults: {
          unit: panel.unit,
          color: { mode: 'palette-classic' },
          [if std.objectHas(panel, 'max') then 'max']: panel.max,
          [if panel.unit != 'binBps' && !panel.signed then 'min']: 0,
          custom: {
            drawStyle: 'line',
            lineInterpolation: 'linear',
            lineWidth: if panel.stack == 'none' then 2 else 1,
            // Shades of several lines over each other are mud.
            fillOpacity: if panel.stack != 'none' then 70 else if several then 0 else 10,
            gradientMode: 'none',
            showPoints: 'never',
            spanNulls: true,
            axisSoftMin: 0,
            stacking: { mode: panel.stack, group: 'A' },
            scaleDistribution: if panel.log then { type: 'log', log: 2 } else { type: 'linear' },
          },
        },
        overrides:
          [override(name, { color: fixed(panel.colors[name]) }) for name in std.objectFields(panel.colors)]
          + std.flattenArrays([
            [
              override(band.low, { color: fixed(band.color), 'custom.lineWidth': 0, 'custom.fillOpacity': 0, 'custom.hideFrom': { legend: true, tooltip: false, viz: false } }),
              override(band.high, { color: fixed(band.color), 'custom.lineWidth': 0, 'custom.fillOpacity': 20, 'custom.fillBelowTo': band.low, 'custom.hideFrom': { legend: true, tooltip: false, viz: false } }),
            ]
            for band in panel.bands
          ]),
      },
      options: {
        legend: { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] },
        tooltip: { mode: 'multi', sort: 'desc' },
      },
    },

    stat(panel)::
      local counted = if prometheus || !std.objectHas(panel, 'counted') then null else panel.counted;
      base(panel, 'stat') {
        targets:
          if counted == null then ask(panel)
          else asTables([
            questions.influx.table('profiler_leak', [['verdict', 'verdict'], ['bytes_per_second', 'growth']], ['host', 'target']),
            questions.influx.table('profiler_target', [['up', 'up']], ['host', 'target']),
          ]),
        [if counted != null then 'transformations']: [
          { id: 'filterFieldsByName', options: { exclude: { names: ['Time'] } } },
          { id: 'merge', options: {} },
          onlyWhere([['up', 1]] + (if counted.verdict == null then [] else [['verdict', counted.verdict]])),
        ],
        fieldConfig: {
          defaults: {
            unit: panel.unit,
            [if panel.decimals != null then 'decimals']: panel.decimals,
            color: if panel.thresholds == [] then fixed('blue') else { mode: 'thresholds' },
            [if panel.thresholds != [] then 'thresholds']:
              { mode: 'absolute', steps: [{ color: step[0], value: step[1] } for step in panel.thresholds] },
            noValue: panel.none,
          },
          overrides: [],
        },
        options: {
          colorMode: if panel.thresholds == [] then 'value' else 'background',
          graphMode: if prometheus && panel.thresholds == [] then 'area' else 'none',
          justifyMode: 'auto',
          textMode: 'value',
          wideLayout: true,
          reduceOptions:
            if counted == null then { calcs: ['lastNotNull'], fields: '', values: false }
            else { calcs: ['sum'], fields: '/^%s$/' % counted.field, values: false },
        },
      },

    verdict(panel):: base(panel, 'stat') {
      targets: ask(panel, if prometheus then { range: false, instant: true } else { resultFormat: 'table' }),
      fieldConfig: {
        defaults: { mappings: verdictMappings, color: fixed('text'), noValue: panel.none },
        overrides: [override(name, { color: fixed(palette.verdicts[name]) }) for name in std.objectFields(palette.verdicts)],
      },
      options: {
        colorMode: 'background',
        graphMode: 'none',
        justifyMode: 'center',
        textMode: if prometheus then 'name' else 'value',
        reduceOptions: { calcs: ['lastNotNull'], fields: if prometheus then '' else '/^verdict$/', values: false },
      },
    },

    heatmap(panel):: base(panel, 'heatmap') {
      targets: ask(panel, if prometheus then { format: 'heatmap' } else {}),
      // Fewer and wider boxes read better than a pixel per step.
      maxDataPoints: 60,
      fieldConfig: { defaults: { custom: { scaleDistribution: { type: 'linear' }, hideFrom: { legend: false, tooltip: false, viz: false } } }, overrides: [] },
      options: {
        calculate: false,
        cellGap: 1,
        color: { mode: 'scheme', scheme: 'Inferno', exponent: 0.5, scale: 'exponential', steps: 64, reverse: false },
        filterValues: { le: 1e-9 },
        rowsFrame: { layout: 'le', value: 'stalls per second' },
        cellValues: { unit: 'cps' },
        yAxis: { unit: panel.unit, axisPlacement: 'left', reverse: false },
        legend: { show: true },
        tooltip: { mode: 'single', yHistogram: true, showColorScale: true },
        exemplars: { color: 'rgba(255,0,255,0.7)' },
        showValue: 'never',
      },
    },

    table(panel):: base(panel, 'table') {
      local of_language = [column for column in panel.columns if column.of == null || column.of == language],
      local names = [column.name for column in of_language],
      local known = if prometheus then names else [
        column.name
        for column in of_language
        if std.length([1 for query in panel.influxTables if std.length(std.findSubstr('"%s"' % column.name, query)) > 0]) > 0
      ],
      targets:
        if prometheus then
          local table = panel.promTable;
          [
            { refId: letter(i), datasource: datasource, editorMode: 'code', expr: ([table.of] + [value[1] for value in table.values])[i], format: 'table', instant: true, range: false }
            for i in std.range(0, std.length(table.values))
          ]
        else asTables(panel.influxTables),
      // Which targets run is a column here, which isn't shown. (In PromQL the question says it.)
      local filtered = !prometheus && std.objectHas(panel, 'onlyRunning'),
      transformations: [
        // Each question has times of its own, and what is merged must agree in all columns of the same name.
        { id: 'filterFieldsByName', options: { exclude: { names: ['Time'] } } },
        { id: 'merge', options: {} },
      ] + (if filtered then [onlyWhere([['up', 1]])] else []) + [
        {
          id: 'organize',
          options: {
            local values = if prometheus then panel.promTable.values else [],
            excludeByName: (if prometheus then { 'Value #A': true } else {})
                           + { [name]: true for name in (if prometheus then ['instance'] else ['host', 'up']) + ['target', 'site'] if !std.member(names, name) },
            renameByName: { ['Value #' + letter(i + 1)]: values[i][0] for i in std.range(0, std.length(values) - 1) },
            indexByName: {
              [
              if prometheus && std.length([1 for value in values if value[0] == known[i]]) > 0
              then 'Value #' + letter(1 + std.find(known[i], [value[0] for value in values])[0])
              else known[i]
              ]: i
              for i in std.range(0, std.length(known) - 1)
            },
          },
        },
      ],
      fieldConfig: {
        defaults: { custom: { align: 'auto', cellOptions: { type: 'auto' }, filterable: false }, noValue: '–' },
        overrides: [
          override(column.name, {
            displayName: column.title,
            [if column.unit != null then 'unit']: column.unit,
            [if column.decimals != null then 'decimals']: column.decimals,
            [if column.width != null then 'custom.width']: column.width,
            [if column.verdict then 'mappings']: verdictMappings,
            [if column.verdict then 'custom.cellOptions']: { type: 'color-background', mode: 'basic' },
            [if column.bar then 'custom.cellOptions']: { type: 'gauge', mode: 'basic', valueDisplayMode: 'text' },
            [if column.bar then 'min']: 0,
            [if column.color != null then 'color']: fixed(column.color),
            [if column.link != null then 'links']: [{
              title: 'Look into it',
              // The machine of this row: another one may have a target of that name, too.
              url: '/d/%s?${__url_time_range}&${%s:queryparam}&%s&var-target=${__value.raw}' % [
                uid(column.link),
                config.datasourceVariable,
                if prometheus then '${job:queryparam}&var-instance=${__data.fields.instance}' else 'var-host=${__data.fields.host}',
              ],
            }],
          })
          for column in of_language
          if std.member(known, column.name)
        ],
      },
      options: {
        showHeader: true,
        cellHeight: 'sm',
        footer: { show: false, reducer: ['sum'], countRows: false, fields: '' },
        sortBy: [{ displayName: [column.title for column in panel.columns if column.name == panel.sort][0], desc: true }],
      },
    },
  },

  // Panels from left to right, a line of them at a time; a titled row goes before its panels.
  local placed(rows) =
    local put(state, panel) =
      local breaks = state.x + panel.width > 24;
      local x = if breaks then 0 else state.x, y = if breaks then state.y + state.height else state.y;
      {
        x: x + panel.width,
        y: y,
        height: if breaks then panel.height else std.max(state.height, panel.height),
        panels: state.panels + [
          kinds[panel.kind](panel) { id: std.length(state.panels) + 1, gridPos: { x: x, y: y, w: panel.width, h: panel.height } },
        ],
      };
    local rowed(state, row) =
      local begin = state { x: 0, y: state.y + state.height, height: 0 };
      local headed = if !std.objectHas(row, 'title') then begin else begin {
        y: begin.y + 1,
        panels: begin.panels + [{
          type: 'row',
          title: row.title,
          collapsed: false,
          panels: [],
          id: std.length(begin.panels) + 1,
          gridPos: { x: 0, y: begin.y, w: 24, h: 1 },
        }],
      };
      std.foldl(put, row.panels, headed);
    std.foldl(rowed, rows, { x: 0, y: 0, height: 0, panels: [] }).panels,

  local variable(name, label, query, all) = {
    type: 'query',
    name: name,
    label: label,
    datasource: datasource,
    query: if prometheus then { query: query, refId: 'variable-' + name, qryType: 1 } else query,
    [if prometheus then 'definition']: query,
    refresh: 2,
    sort: 1,
    multi: true,
    includeAll: true,
    [if prometheus then 'allValue']: '.*',
    current: if all then { text: ['All'], value: ['$__all'] } else {},
    options: [],
    regex: '',
    hide: 0,
  },

  local variables(dashboard) =
    if prometheus then
      [
        variable('job', 'Job', 'label_values(profiler_build_info, job)', true),
        variable('instance', 'Profiler', 'label_values(profiler_build_info{job=~"$job"}, instance)', true),
      ]
      + (if dashboard.targets then
           [variable('target', 'Target', 'label_values(profiler_target_up{job=~"$job", instance=~"$instance"}, target)', dashboard.uid == 'overview')]
         else [])
    else
      [variable('host', 'Host', 'SHOW TAG VALUES FROM "%sprofiler_self" WITH KEY = "host"' % config.influxMeasurementPrefix, true)]
      + (if dashboard.targets then
           [variable('target', 'Target', 'SHOW TAG VALUES FROM "%sprofiler_target" WITH KEY = "target" WHERE "host" =~ /^$host$/' % config.influxMeasurementPrefix, dashboard.uid == 'overview')]
         else []),

  local annotations(dashboard) =
    [{
      builtIn: 1,
      datasource: { type: 'grafana', uid: '-- Grafana --' },
      enable: true,
      hide: true,
      iconColor: 'rgba(0, 211, 255, 1)',
      name: 'Annotations & Alerts',
      type: 'dashboard',
    }]
    + (if !std.objectHas(dashboard, 'verdicts') then [] else [
         {
           name: 'Verdict: ' + verdict,
           datasource: datasource,
           enable: true,
           iconColor: palette.verdicts[verdict],
         } + (
           if prometheus then {
             // It is said now, and a minute ago something else was said. Where nothing was known a minute ago (a scrape
             // failed, the profiler was started anew), nothing has changed as far as anybody can tell.
             local said = 'profiler_leak_verdict{%s, verdict="%s"}' % [questions.prom.chosen, verdict],
             expr: 'max by (instance, target) (%s == 1 and %s offset 1m == 0)' % [said, said],
             step: '1m',
             titleFormat: '{{target}}: ' + verdict,
             textFormat: '',
             useValueForTime: false,
           } else {
             query: influxql('SELECT "verdict", "target", "reason" FROM %%DB%%"profiler_verdict" WHERE %%HOST%% AND %%TARGET%% AND %%TIME%% AND "site" = \'\' AND "verdict" = \'%s\'' % verdict),
             titleColumn: 'verdict',
             tagsColumn: 'target',
             textColumn: 'reason',
             fromAnnotations: true,
           }
         )
         for verdict in ['leaking', 'growing', 'steady']
       ]),

  dashboard(dashboard):: {
    __inputs: [{
      name: it.input,
      label: it.name,
      description: 'Where the series of profiler are',
      type: 'datasource',
      pluginId: language,
      pluginName: it.name,
    }],
    __requires: [
      { type: 'grafana', id: 'grafana', name: 'Grafana', version: '10.4.0' },
      { type: 'datasource', id: language, name: it.name, version: '1.0.0' },
    ],
    uid: uid(dashboard.uid),
    title: config.dashboardNamePrefix + dashboard.title + it.title,
    description: dashboard.text,
    tags: config.dashboardTags + (if prometheus then [] else ['influxql']),
    schemaVersion: schemaVersion,
    version: 1,
    editable: true,
    // A pointer over one panel shows the same moment in all others.
    graphTooltip: 1,
    refresh: config.dashboardRefresh,
    time: { from: config.dashboardFrom, to: 'now' },
    timezone: 'browser',
    links: [{
      type: 'dashboards',
      title: 'Profiler',
      tags: config.dashboardTags + (if prometheus then [] else ['influxql']),
      asDropdown: true,
      includeVars: true,
      keepTime: true,
      icon: 'external link',
      targetBlank: false,
    }],
    templating: {
      list: [{
        type: 'datasource',
        name: config.datasourceVariable,
        label: 'Data source',
        query: language,
        current: { text: it.name, value: '${%s}' % it.input },
        options: [],
        refresh: 1,
        regex: '',
        hide: 0,
        multi: false,
        includeAll: false,
      }] + variables(dashboard),
    },
    annotations: { list: annotations(dashboard) },
    panels: placed(dashboard.rows),
  },
  name(dashboard):: 'profiler-%s%s.json' % [dashboard.uid, it.suffix],
}
