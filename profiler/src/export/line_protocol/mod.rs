//! Points as InfluxDB reads them.
