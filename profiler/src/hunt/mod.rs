//! The hunt for leaks: takes samples from the kernel side, has their stacks unwound and named, keeps the books, and gives a
//! picture of it whenever somebody asks.

mod sites;
