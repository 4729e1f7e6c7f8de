//! librdkafka properties that the agent keeps for itself: its promises rest on them, or they are configured elsewhere.
//! Names: librdkafka 2.12 `CONFIGURATION.md`.

/// Property, and why a user may not set it in `[kafka.properties]`.
pub(super) const OWNED_PROPERTIES: [(&str, &str); 46] = [
    ("acks", "nothing leaves the queue before all in-sync replicas have it"),
    ("request.required.acks", "nothing leaves the queue before all in-sync replicas have it"),
    ("enable.idempotence", "order and at-least-once delivery rest on it"),
    ("enable.gapless.guarantee", "order across refused batches depends on it"),
    ("queuing.strategy", "order rests on it"),
    ("max.in.flight", "order rests on it"),
    ("max.in.flight.requests.per.connection", "order rests on it"),
    ("partitioner", "a device's order rests on its partition"),
    ("message.timeout.ms", "the queue is the retry store; the client must not give up"),
    ("delivery.timeout.ms", "the queue is the retry store; the client must not give up"),
    ("retries", "the queue is the retry store; the client must not give up"),
    ("message.send.max.retries", "the queue is the retry store; the client must not give up"),
    ("delivery.report.only.error", "a record leaves the queue by its delivery report"),
    ("transactional.id", "write kafka.delivery and kafka.transactional-id"),
    ("transaction.timeout.ms", "write kafka.transaction-timeout"),
    ("bootstrap.servers", "write kafka.brokers"),
    ("metadata.broker.list", "write kafka.brokers"),
    ("client.id", "it is the gateway id"),
    ("compression.type", "write kafka.compression"),
    ("compression.codec", "write kafka.compression"),
    ("linger.ms", "write kafka.linger"),
    ("queue.buffering.max.ms", "write kafka.linger"),
    ("queue.buffering.max.messages", "write kafka.in-flight-bytes"),
    ("queue.buffering.max.kbytes", "write kafka.in-flight-bytes"),
    ("security.protocol", "write kafka.tls and kafka.sasl"),
    ("sasl.mechanism", "write kafka.sasl.mechanism"),
    ("sasl.mechanisms", "write kafka.sasl.mechanism"),
    ("sasl.username", "write kafka.sasl.username"),
    ("sasl.password", "secrets come from files: write kafka.sasl.password-file"),
    ("ssl.ca.location", "write kafka.tls.ca"),
    ("ssl.certificate.location", "write kafka.tls.cert"),
    ("ssl.key.location", "write kafka.tls.key"),
    ("ssl.key.password", "secrets come from files: give the key in a file without password"),
    ("ssl.key.pem", "secrets come from files: write kafka.tls.key"),
    ("ssl.certificate.pem", "write kafka.tls.cert"),
    ("ssl.keystore.password", "secrets come from files: write kafka.tls.cert and kafka.tls.key"),
    ("sasl.oauthbearer.client.secret", "secrets come from files: write kafka.sasl.token-file or token-command"),
    ("sasl.oauthbearer.config", "write kafka.sasl.token-file or token-command"),
    ("sasl.oauthbearer.method", "write kafka.sasl.token-file or token-command"),
    ("sasl.oauthbearer.token.endpoint.url", "write kafka.sasl.token-file or token-command"),
    ("enable.sasl.oauthbearer.unsecure.jwt", "the agent makes no tokens of its own"),
    ("ssl.ca.pem", "write kafka.tls.ca"),
    ("ssl.ca", "write kafka.tls.ca"),
    ("statistics.interval.ms", "the agent reads the brokers' states from the statistics"),
    ("enable.metrics.push", "the client's metrics would be sent over a metered link"),
    ("plugin.library.paths", "the agent loads no foreign code"),
];

/// Why the user may not set this librdkafka property, or `None` where they may.
pub(super) fn owned_property(name: &str) -> Option<&'static str> {
    match OWNED_PROPERTIES.iter().find(|(owned, _)| *owned == name) {
        Some((_, why)) => Some(why),
        None if name.ends_with("_cb") => Some("callbacks belong to the agent"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_the_promises_rest_on_are_owned() {
        for name in ["acks", "enable.idempotence", "message.timeout.ms", "queue.buffering.max.ms", "dr_msg_cb"] {
            assert!(owned_property(name).is_some(), "{name}");
        }
        for name in ["ssl.key.pem", "ssl.keystore.password", "sasl.oauthbearer.client.secret"] {
            assert!(owned_property(name).is_some_and(|why| why.starts_with("secrets")), "{name}");
        }
        for name in ["batch.size", "socket.timeout.ms", "client.rack", "ssl.providers"] {
            assert_eq!(owned_property(name), None, "{name}");
        }
    }
}
