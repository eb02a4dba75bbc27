//! Batches on disk, a file each, until they are acknowledged.
