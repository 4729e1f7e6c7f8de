//! The only rdkafka code: the producer's client and settings, error classes, and reading topics back.
//!
//! No rdkafka type leaves this module, so that the client library can be changed without touching the drain.

pub mod account;
mod beside;
mod broker_certificate;
mod brokers;
mod certificates;
mod client;
mod consumer;
mod error;
mod inspect;
mod probe;
mod quiet;
mod settings;
mod statistics;
mod tls_files;
mod token;
mod traffic;
mod transaction;

pub use broker_certificate::{BrokerCertificate, Judgement, Shown, look_at_brokers};
pub use certificates::{Certificate, read_certificates};
pub use client::{ClientError, Notice, Outgoing, Producer, Report, SendError};
pub use consumer::{Consumer, ConsumerError, Next, Received, Span, Start};
pub use error::{Class, Failure};
pub use inspect::{
    CursorFacts, CursorQuestion, IdAnswer, Inspection, PartitionFacts, ReadAnswer, TopicFacts, TopicSettings,
    TransactionFacts, TransactionQuestions, Unlisted, WriteAnswer, inspect,
};
pub use probe::{Doubt, can_take_records};
pub(crate) use settings::{CAREFUL_BYTES_MAX, Window, batch_bytes_max, socket_timeout, stream_window};
pub use settings::{Refusal, producer_properties};
pub use statistics::{PartitionProgress, TopicProgress};
pub use tls_files::{FirstToExpire, Renewal, TlsFiles};
pub use traffic::Traffic;
pub use transaction::{Committed, CursorReader, Group, Remedy, Trouble};
