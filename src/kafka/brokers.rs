//! Gives a client its brokers again that it has forgotten.
//!
//! At an answer that names topics and no broker the library forgets all of them, the configured ones too, and never
//! connects again (`rdkafka_metadata.c`, `rd_kafka_metadata_decommission_unavailable_brokers`;
//! confluentinc/librdkafka#5301, open as of 2.13). A cluster gives such an answer whose brokers come back all at once, or
//! whose only broker has hung: the controller has them fenced for a moment then.
#![allow(unsafe_code)] // one call of the client library, which rdkafka does not make

use std::ffi::CString;

use rdkafka::ClientContext;
use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::Client;

/// The client knows these brokers as if it had just been made, beside those that it knows.
pub(super) fn give_again<C: ClientContext>(client: &Client<C>, brokers: &str) {
    tracing::warn!(brokers, "kafka client has lost all brokers and is given the configured ones again");
    // The client was made of it, so there is no zero byte in it.
    let Ok(brokers) = CString::new(brokers) else { return };
    // SAFETY: the client lives as long as it is borrowed; the string ends with a zero and outlives the call, which copies
    // it.
    unsafe { rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
}
