//! What an answer of a server means. Pure.
