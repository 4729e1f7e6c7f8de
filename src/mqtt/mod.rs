//! The local MQTT broker: publishing readings, and the session that sources subscribe through.

mod outbox;
mod payloads;
mod publisher;
pub(crate) mod session;
pub(crate) mod topics;
mod trim;

pub use publisher::{Publisher, spawn};
