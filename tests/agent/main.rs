//! The whole agent in one process, between an embedded broker, an embedded Kafka, pseudo-terminals and a Modbus plant.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)]

mod bad_input;
mod control;
mod ground;
mod reload;
mod service;
mod status;
mod stop;
mod whole_way;
