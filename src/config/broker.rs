//! `[mqtt]`: the local broker, and which topics are our own.

use super::keys::OUTBOX;
use super::names::{filter_takes_in, host_port, template_fault};
use super::reader::Table;
use super::resolved::{Broker, Mqtt};
use super::secret::{self, Secrets};

/// Port of the embedded broker where none is written, as of any broker without TLS.
const MQTT_PORT: u16 = 1883;

/// The topics the agent publishes on, `{...}` standing for what it fills in.
pub(super) struct Publications {
    readings: String,
    status: String,
}

impl Publications {
    fn new(template: &str, gateway: &str) -> Self {
        let readings = template.replace("{gateway}", gateway);
        Self { readings, status: status_topic(template, gateway) }
    }

    /// Our own topic that `filter` takes in, in words.
    pub(super) fn taken_in_by(&self, filter: &str) -> Option<String> {
        if filter_takes_in(filter, &self.readings) {
            Some(format!("\"{}\" (mqtt.topic)", self.readings))
        } else if filter_takes_in(filter, &self.status) {
            Some(format!("\"{}\" (the agent's status)", self.status))
        } else {
            None
        }
    }
}

/// Where the gateway's retained status stands: the literal levels `template` begins with, the gateway, `status`.
/// `forebay/{gateway}/{device}` gives `forebay/<gateway>/status`. A gateway's id is always good for a topic level.
pub(crate) fn status_topic(template: &str, gateway: &str) -> String {
    let literal = template.split('/').take_while(|level| !level.contains('{'));
    literal.chain([gateway, "status"]).collect::<Vec<_>>().join("/")
}

/// Reads `[mqtt]`.
pub(super) fn read(
    table: &Table<'_>,
    gateway: Option<&str>,
    secrets: Secrets<'_>,
) -> (Option<Mqtt>, Option<Publications>) {
    let broker = read_broker(table);
    let topic = table.text("topic");
    if let Some(topic) = &topic {
        let parts = ["gateway", "source", "stream", "device"];
        let fault = match template_fault(topic, &parts, |_| false) {
            None if topic.contains(['+', '#']) => Some("has a wildcard".to_owned()),
            None if topic.chars().any(char::is_control) => Some("has a control character".to_owned()),
            None if topic.len() > 1_024 => Some("is longer than 1024 bytes".to_owned()),
            fault => fault,
        };
        if let Some(fault) = fault {
            table.refuse("topic", &fault);
        }
        if !topic.contains("{device}") {
            let message = "has no {device}; readings of all devices share topics".to_owned();
            table.report.warning(&table.place_of("topic"), table.path_of("topic"), message);
        }
    }
    let publications = topic.as_deref().map(|topic| Publications::new(topic, gateway.unwrap_or("{gateway}")));
    let qos = table.integer("qos");
    let retain = table.boolean("retain");
    let outbox = if table.has("outbox") {
        table.table("outbox", &OUTBOX).and_then(|outbox| outbox.integer("records"))
    } else {
        OUTBOX.default_of("records").and_then(|text| text.parse().ok())
    };
    let keep_alive = table.duration("keep-alive");
    let username = if table.has("username") { table.text("username") } else { None };
    let password = secret::read(table, secrets);
    if password.is_some() && !table.has("username") {
        table.error(&table.at, "username", "missing; a password needs a user name".to_owned());
    }
    let mqtt = || {
        Some(Mqtt {
            broker: broker?,
            topic: topic?,
            qos: qos?,
            retain: retain?,
            outbox_records: outbox?,
            keep_alive: keep_alive?,
            username,
            password,
        })
    };
    (mqtt(), publications)
}

fn read_broker(table: &Table<'_>) -> Option<Broker> {
    let text = table.text("broker")?;
    let refuse = |why: &str| {
        table.refuse("broker", why);
        None
    };
    if let Some(rest) = text.strip_prefix("embedded") {
        if cfg!(not(feature = "demo")) {
            return refuse("needs a build with the feature \"demo\"");
        }
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => Some(MQTT_PORT),
            port => port.and_then(|port| port.parse().ok()),
        };
        return port.map_or_else(|| refuse("has no valid port"), |port| Some(Broker::Embedded { port }));
    }
    match text.split_once("://") {
        Some(("mqtt", address)) if address.contains('@') => {
            refuse("bears credentials; write username and password-file instead")
        }
        Some(("mqtt", address)) => match host_port(address, Some(MQTT_PORT)) {
            Some((host, port)) => Some(Broker::Tcp { host, port }),
            None => refuse("has no valid host and port"),
        },
        Some(("mqtts" | "ws" | "wss", _)) => refuse("is not yet supported"),
        _ => refuse("is not a broker"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_topic_keeps_the_literal_levels() {
        assert_eq!(status_topic("forebay/{gateway}/{device}", "gw"), "forebay/gw/status");
        assert_eq!(status_topic("{gateway}/{device}", "gw"), "gw/status");
        assert_eq!(status_topic("plant/a/x-{device}", "gw"), "plant/a/gw/status");
    }
}
