//! Points to InfluxDB: a window is closed every interval, kept in a spool on disk, sent, and deleted once it is acknowledged.

pub mod client;
pub mod delivery;
pub mod figures;
pub mod policy;
pub mod spool;
