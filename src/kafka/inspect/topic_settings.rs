//! Asks for the settings of topics, by the admin protocol and so with a client of its own.

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};

use super::{ANSWER_MAX, TopicSettings};
use crate::config::Kafka;
use crate::kafka::client::{ClientError, client_config};
use crate::kafka::quiet::Quiet;

/// The settings of each topic, in their order. `logged_in` is the context of a client that is.
pub(in crate::kafka) fn ask(
    kafka: &Kafka,
    properties: &[(String, String)],
    topics: &[String],
    logged_in: &Quiet,
) -> Result<Vec<Result<TopicSettings, String>>, ClientError> {
    let unknown = |why: &str| Ok(topics.iter().map(|_| Err(why.to_owned())).collect());
    let client: AdminClient<Quiet> = client_config(properties)?
        .create_with_context(Quiet::new(kafka))
        .map_err(|error| ClientError::Creation(error.to_string()))?;
    if let Err(why) = logged_in.log_in_admin(&client) {
        return unknown(&why);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => return unknown(&error.to_string()),
    };
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    let of = |topic: &String| {
        let asked = runtime.block_on(client.describe_configs([&ResourceSpecifier::Topic(topic)], &options));
        match asked.map(|mut answers| answers.pop()) {
            // The library hands on a refusal as a topic without settings.
            Ok(Some(Ok(found))) if found.entries.is_empty() => Err("no right to DescribeConfigs".to_owned()),
            Ok(Some(Ok(found))) => Ok(of_resource(&found)),
            Ok(Some(Err(code))) => Err(code.to_string()),
            Ok(None) => Err("no answer".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    Ok(topics.iter().map(of).collect())
}

fn of_resource(found: &ConfigResource) -> TopicSettings {
    let text = |name: &str| found.get(name).and_then(|entry| entry.value.clone());
    let number = |name: &str| text(name).and_then(|text| text.parse::<i64>().ok());
    TopicSettings {
        message_bytes_max: number("max.message.bytes").and_then(|bytes| u64::try_from(bytes).ok()),
        retention_ms: number("retention.ms"),
        in_sync_needed: number("min.insync.replicas").and_then(|count| usize::try_from(count).ok()),
        cleanup_policy: text("cleanup.policy"),
        timestamp_type: text("message.timestamp.type"),
        timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
        timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
    }
}
