//! Whether the uplink delivers: one state, its beginning, and a log line at each change and at no other time.

use crate::clock::boot_ns;

use super::UplinkStatus;

/// `connecting` at start, then `up` or `down`; `held` while a stream waits for an operator; `stopped` at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Connecting,
    Up,
    Down,
    Stopped,
}

/// The uplink's state.
#[derive(Debug)]
pub struct Health {
    link: Link,
    link_since_ns: u64,
    state: &'static str,
    state_since_ns: u64,
    last_error: Option<String>,
    held: Vec<(String, String)>,
    was_up: bool,
}

impl Health {
    /// At start.
    pub fn new() -> Self {
        let now_ns = boot_ns();
        Self {
            link: Link::Connecting,
            link_since_ns: now_ns,
            state: "connecting",
            state_since_ns: now_ns,
            last_error: None,
            held: Vec::new(),
            was_up: false,
        }
    }

    /// Whether it delivers, or is idle with a connection.
    pub fn is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// Whether no broker can be reached.
    pub fn is_down(&self) -> bool {
        self.link == Link::Down
    }

    /// A record was delivered or a connection stands. Gives whether this is a return after an outage.
    pub fn connected(&mut self) -> bool {
        if self.link == Link::Up {
            return false;
        }
        let after_s = self.change(Link::Up);
        let again = std::mem::replace(&mut self.was_up, true);
        tracing::info!(after_s, again, "uplink is up");
        again
    }

    /// No broker can be reached.
    pub fn disconnected(&mut self) {
        if self.link == Link::Down {
            return;
        }
        let after_s = self.change(Link::Down);
        let error = self.last_error.as_deref().unwrap_or("all brokers are down");
        tracing::warn!(after_s, error, "uplink is down; readings stay in the queue");
    }

    /// The agent ends.
    pub fn stopped(&mut self) {
        self.change(Link::Stopped);
    }

    /// An error, kept for the status.
    pub fn error(&mut self, text: String) {
        self.last_error = Some(text);
    }

    /// A stream waits for somebody.
    pub fn hold(&mut self, stream: &str, reason: String) {
        if self.held.iter().any(|(held, known)| held == stream && *known == reason) {
            return;
        }
        tracing::warn!(stream, reason, "stream is held; nothing of it is dropped");
        self.last_error = Some(reason.clone());
        self.held.retain(|(held, _)| held != stream);
        self.held.push((stream.to_owned(), reason));
        self.name_state();
    }

    /// A stream delivers again.
    pub fn release(&mut self, stream: &str) {
        tracing::info!(stream, "stream is no longer held");
        self.held.retain(|(held, _)| held != stream);
        self.name_state();
    }

    /// What a stream was held for is over; `other` is what it still waits for.
    pub fn release_unless(&mut self, stream: &str, other: Option<&str>) {
        match other {
            Some(reason) => self.hold(stream, reason.to_owned()),
            None => self.release(stream),
        }
    }

    /// As status shows it.
    pub fn status(&self) -> UplinkStatus {
        UplinkStatus {
            state: self.state,
            since_boot_ns: self.state_since_ns,
            last_error: self.last_error.clone(),
            held: self.held.clone(),
        }
    }

    /// Gives how long the old state lasted, in seconds.
    fn change(&mut self, link: Link) -> u64 {
        let now_ns = boot_ns();
        let lasted_ns = now_ns.saturating_sub(self.link_since_ns);
        (self.link, self.link_since_ns) = (link, now_ns);
        self.name_state();
        lasted_ns / 1_000_000_000
    }

    fn name_state(&mut self) {
        let state = match self.link {
            Link::Connecting if self.held.is_empty() => "connecting",
            Link::Up if self.held.is_empty() => "up",
            Link::Connecting | Link::Up => "held",
            Link::Down => "down",
            Link::Stopped => "stopped",
        };
        if state != self.state {
            (self.state, self.state_since_ns) = (state, boot_ns());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_waits_for_something_else_stays_held() {
        let mut health = Health::new();
        health.connected();
        health.hold("telemetry", "the topic is not there".into());
        health.release_unless("telemetry", Some("the registry is away"));
        assert_eq!(health.status().held, [("telemetry".to_owned(), "the registry is away".to_owned())]);
        assert_eq!(health.status().state, "held");
        health.release_unless("telemetry", None);
        assert_eq!((health.status().held.len(), health.status().state), (0, "up"));
    }

    #[test]
    fn a_return_is_told_from_the_first_connection() {
        let mut health = Health::new();
        assert_eq!(health.status().state, "connecting");
        assert!(!health.connected());
        health.disconnected();
        assert_eq!((health.status().state, health.is_up()), ("down", false));
        assert!(health.connected());
        assert!(!health.connected(), "it already was");
    }

    #[test]
    fn held_streams_show_until_the_last_is_released() {
        let mut health = Health::new();
        health.connected();
        health.hold("a", "no such topic".into());
        health.hold("b", "not authorised".into());
        health.hold("a", "not authorised".into());
        assert_eq!((health.status().state, health.status().held.len()), ("held", 2));
        health.release("a");
        assert_eq!(health.status().state, "held");
        health.release("b");
        assert_eq!((health.status().state, health.is_up()), ("up", true));
    }
}
