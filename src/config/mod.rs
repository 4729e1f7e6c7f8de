//! The configuration: what the user wrote ([`load`]) and what the agent uses ([`Config`]).
//!
//! [`load`] reads the file and its includes, and either gives a whole [`Config`] or every mistake it found at once,
//! each with file, line, column, the value and what is allowed. Modules take their own section, never the whole.

mod broker;
mod file;
mod flash;
mod gateway;
mod kafka;
mod keys;
mod modbus;
mod names;
mod output;
mod owned_properties;
mod ports;
mod problem;
mod queue_key;
mod reader;
mod reference;
mod resolved;
mod sasl;
mod secret;
mod source;
mod storage;
mod thinning;
mod tree;
mod units;

pub(crate) use broker::status_topic;
pub use file::{FILE_BYTES_MAX, INCLUDES_MAX, Loaded, load, parse};
pub use problem::{Errors, PROBLEMS_MAX, Place, Problem};
pub use queue_key::{KeyBytes, QueueKeys};
pub use reference::reference;
pub use resolved::*;
pub use source::SOURCES_MAX;
