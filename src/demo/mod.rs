//! What the demo brings along so that nothing needs installing: embedded broker, embedded Kafka, simulated devices.

pub mod kafka;
