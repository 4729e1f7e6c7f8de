//! Bytes and registers in, fields out: pure, bounded, without clock or I/O.

pub mod payload;
