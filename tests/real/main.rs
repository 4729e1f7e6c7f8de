//! The agent's own binary among real parts: Apache Kafka, Mosquitto, Modbus units served by pymodbus, a receiver on a
//! pseudo-terminal; killed, cut off and restarted.
//!
//! `./x real` runs it. Every scenario has its own servers on free ports of the loopback
//! interface, in a directory that it removes, and prints its account. What is missing on the machine fails a scenario
//! with the line that installs it. Judged is what Kafka holds afterwards, read twice: by the product's consumer and
//! account, and by kcat into the [`ledger`] of these tests.
#![allow(clippy::unwrap_used, reason = "unwrap is how a test fails")]

#[allow(dead_code, reason = "other tests need the rest")]
mod agent;
mod clock;
mod cluster;
mod kafka;
mod ledger;
mod line;
mod once;
mod others;
mod process;
mod scene;
mod secure;
mod servers;
mod silence;
#[path = "../registry/stand_in.rs"]
#[allow(dead_code, reason = "tests/uplink uses more of it")]
mod stand_in;
