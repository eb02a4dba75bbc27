// All dashboards, by the names of their files.
{
  grafanaDashboards+:: {},
  chronografDashboards+:: {},
}
