//! A process of our own that reads what targets have made: their files and copies of their stacks. It has no rights, bounded
//! memory and bounded time, and may be killed at any moment; it is started again then.

pub mod references;
