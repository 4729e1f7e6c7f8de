//! The only rdkafka code: the producer's client and settings, error classes, and reading topics back.
//!
//! No rdkafka type leaves this module, so that the client library can be changed without touching the drain.

pub mod account;
mod client;
mod consumer;
mod error;
mod settings;

pub use client::{ClientError, Notice, Outgoing, Producer, Report, SendError};
pub use consumer::{Consumer, ConsumerError, Next, Received, Span, Start};
pub use error::{Class, Failure};
pub(crate) use settings::IN_FLIGHT_RECORDS_MAX;
pub use settings::producer_properties;
