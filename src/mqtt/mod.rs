//! The local MQTT broker: publishing every reading, and the session that sources subscribe through.

mod outbox;
mod payloads;
mod publisher;
pub(crate) mod session;
pub(crate) mod topics;
mod trim;

pub use publisher::{Publisher, spawn};
