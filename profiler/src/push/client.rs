//! One batch to one server, over HTTP, in the dialect of each generation of InfluxDB.
