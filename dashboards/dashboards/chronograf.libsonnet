// Makes a Chronograf dashboard (InfluxDB 1.x) of what a dashboard asks. Chronograf has no heat map, no stack of 100 % and no
// variable with several values: lengths of stalls are stacked bands, states are threads, and one target is shown at a time.
// A line of Grafana is 24 wide, one of Chronograf 12, and its rows are higher.
local columns(width) = std.floor(width / 2);
local heights = { lines: 4, stat: 2, verdict: 2, heatmap: 4, table: 4 };
local hex = {
  red: '#F2495C', orange: '#FF9830', green: '#73BF69', yellow: '#FADE2A', blue: '#5794F2', purple: '#B877D9',
};
// Units that Chronograf can't name are said in the axis' suffix.
local suffixes = { bytes: ' B', binBps: ' B/s', cps: '/s', ops: '/s', s: ' s', percentunit: '', short: '', none: '' };

function(config) {
  local influxql(query, single) = std.foldl(
    function(text, pair) std.strReplace(text, pair[0], pair[1]),
    [
      ['%DB%"', '"%s".."%s' % [config.influxDatabase, config.influxMeasurementPrefix]],
      ['%HOST% AND %TARGET%', if single then '"host" = :host: AND "target" = :target:' else '"host" = :host:'],
      ['%HOST%', '"host" = :host:'],
      ['%LATEST%', 'time > :upperDashboardTime: - ' + config.influxLatest + ' AND time < :upperDashboardTime:'],
      ['%TIME%', 'time > :dashboardTime: AND time < :upperDashboardTime:'],
      ['%STEP%', ':interval:'],
    ],
    query
  ),
  local queries(panel) =
    if panel.kind == 'table' then panel.influxTables[0:1]
    else if panel.kind == 'heatmap' then [panel.bandsOf]
    else [question.query for question in panel.influx],
  local types = { stat: 'single-stat', verdict: 'single-stat', table: 'table', heatmap: 'line-stacked' },
  local type(panel) =
    if panel.kind == 'lines' then (if panel.stack == 'none' then 'line' else 'line-stacked') else types[panel.kind],

  local axis(base, label='', suffix='') = { bounds: ['', ''], label: label, prefix: '', suffix: suffix, base: base, scale: 'linear' },

  local cell(panel, dashboard, i) = {
    i: 'profiler-%s-%d' % [dashboard.uid, i],
    name: panel.title,
    type: type(panel),
    queries: [
      { query: influxql(query, dashboard.uid == 'target'), queryConfig: null, source: '', type: 'influxql' }
      for query in queries(panel)
    ],
    axes: {
      x: axis('10'),
      // Base 2 writes bytes as K, M and G of 1024.
      y: axis(if std.member(['bytes', 'binBps'], panel.unit) then '2' else '10', suffix=if panel.kind == 'heatmap' then '/s' else suffixes[panel.unit]),
      y2: axis('10'),
    },
    colors:
      if std.member(['stat', 'verdict'], panel.kind) then [
        { id: 'base', type: 'text', hex: hex.blue, name: 'base', value: '-1000' },
      ] + [
        { id: 'step-%d' % at, type: 'text', hex: hex[panel.thresholds[at][0]], name: panel.thresholds[at][0], value: std.toString(panel.thresholds[at][1]) }
        for at in std.range(0, std.length(panel.thresholds) - 1)
        if panel.thresholds[at][1] != null
      ]
      else [],
    legend: {},
    tableOptions: { verticalTimeAxis: true, sortBy: { internalName: 'time', displayName: '', visible: true }, wrapping: 'truncate', fixFirstColumn: true },
    fieldOptions: [{ internalName: 'time', displayName: '', visible: false }],
    timeFormat: 'MM/DD/YYYY HH:mm:ss',
    decimalPlaces: { isEnforced: true, digits: if panel.kind == 'stat' && panel.unit == 'none' then 0 else 2 },
    note: panel.text,
    noteVisibility: 'default',
    inView: true,
    links: {},
  },

  local placed(dashboard) =
    local put(state, panel) =
      local width = columns(panel.width), height = heights[panel.kind];
      local breaks = state.x + width > 12;
      local x = if breaks then 0 else state.x, y = if breaks then state.y + state.height else state.y;
      {
        x: x + width,
        y: y,
        height: if breaks then height else std.max(state.height, height),
        cells: state.cells + [cell(panel, dashboard, std.length(state.cells)) { x: x, y: y, w: width, h: height }],
      };
    local rowed(state, row) = std.foldl(put, row.panels, state { x: 0, y: state.y + state.height, height: 0 });
    std.foldl(rowed, dashboard.rows, { x: 0, y: 0, height: 0, cells: [] }).cells,

  local template(name, measurement) = {
    id: 'profiler-' + name,
    tempVar: ':%s:' % name,
    label: name,
    type: 'tagValues',
    values: [],
    query: {
      influxql: 'SHOW TAG VALUES ON :database: FROM :measurement: WITH KEY=:tagKey:',
      db: config.influxDatabase,
      rp: '',
      measurement: config.influxMeasurementPrefix + measurement,
      tagKey: name,
      fieldKey: '',
    },
    links: {},
  },

  dashboard(dashboard):: {
    meta: { chronografVersion: '1.10.0' },
    dashboard: {
      id: 0,
      name: config.dashboardNamePrefix + dashboard.title,
      organization: 'default',
      cells: placed(dashboard),
      templates:
        [template('host', 'profiler_self')]
        + (if dashboard.uid == 'target' then [template('target', 'profiler_target')] else []),
      links: {},
    },
  },
  name(dashboard):: 'profiler-%s.json' % dashboard.uid,
}
