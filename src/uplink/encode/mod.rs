//! From a record to the bytes of a Kafka message.

mod json;

pub use json::encode_json;
