//! What Kafka knows a gateway's transactions and cursors by.

use uuid::Uuid;

use crate::config::Transactions;

/// The transactional id: the configured one, or one that no other queue has: a new identity must not take over what an
/// old one left open, and two gateways of one id do not fence each other.
pub fn transactional_id(how: &Transactions, gateway: &str, queue: Uuid) -> String {
    let queue = queue.simple().to_string();
    how.id.clone().unwrap_or_else(|| format!("{gateway}.{}", queue.get(..8).unwrap_or(&queue)))
}

/// The consumer group that keeps the cursor of a stream.
pub fn group_id(transactional_id: &str, stream: &str) -> String {
    format!("{transactional_id}.{stream}")
}
