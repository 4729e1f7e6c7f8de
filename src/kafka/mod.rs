//! The only rdkafka code: the producer's client and settings, error classes, and reading topics back.
//!
//! No rdkafka type leaves this module, so that the client library can be changed without touching the drain.

pub mod account;
mod client;
mod consumer;
mod error;
mod probe;
mod settings;
mod tls_files;
mod traffic;

pub use client::{ClientError, Notice, Outgoing, Producer, Report, SendError};
pub use consumer::{Consumer, ConsumerError, Next, Received, Span, Start};
pub use error::{Class, Failure};
pub use probe::can_take_records;
pub(crate) use settings::{CAREFUL_BYTES_MAX, stream_window};
pub use settings::{Refusal, producer_properties};
pub use tls_files::{Renewal, TlsFiles};
pub use traffic::Traffic;
