//! The client and its connection: reports, the steps of a transaction that Kafka answers, and whether the link is up.

use std::time::Duration;

use super::cursor::Cursor;
use super::session::{Event as Turn, Loss, Outcome};
use super::thread::{Exactly, SLICE};
use crate::clock::boot_ns;
use crate::kafka::{Class, Failure, Notice, Producer, Remedy, Trouble};
use crate::metrics::ByKind;
use crate::reading::Position;

/// Longest wait for reports in one go.
const POLL_MAX: Duration = Duration::from_millis(20);

impl Exactly<'_> {
    /// Serves the client's callbacks.
    pub(super) fn poll(&mut self, client: &Producer, wait: Duration) -> Option<Turn> {
        client.poll(wait, &mut self.reports, &mut self.notices);
        for notice in std::mem::take(&mut self.notices) {
            match notice {
                Notice::Connected => self.connected(),
                Notice::AllBrokersDown => self.disconnected("all brokers are down".into()),
                // Whether the client is stuck is judged by how transactions end, see `stalls`.
                Notice::Progress(_) => {}
                Notice::Traffic(traffic) => self.metering.counted(traffic, self.in_flight_bytes(), &self.metrics),
                Notice::Trouble(failure) => {
                    let kind = failure.class.as_str();
                    self.metrics.uplink_errors.get_or_create(&ByKind { kind }).inc();
                    tracing::debug!(error = %failure, class = kind, "kafka client");
                    self.health().error(failure.text);
                }
            }
        }
        let reports = std::mem::take(&mut self.reports);
        for report in reports {
            // Those of a transaction that was aborted come late and are of no interest.
            let Some(open) = &mut self.open else { continue };
            let number = report.token.wrapping_sub(open.first_token);
            if number >= open.records.len() {
                continue;
            }
            open.reported += 1;
            open.reported_bytes += open.records[number].bytes as usize;
            let Some(failure) = report.failure else { continue };
            if failure.class == Class::Poison {
                open.refused.insert(number);
            }
            // What else fails is mostly a consequence.
            let known = open.failure.as_ref().map(|(_, known)| known.class);
            if known.is_none() || failure.class == Class::Poison && known != Some(Class::Poison) {
                self.metrics.uplink_errors.get_or_create(&ByKind { kind: failure.class.as_str() }).inc();
                open.failure = Some((Some(number), failure));
            }
        }
        let trouble = client.fatal_trouble()?;
        Some(self.lost_by(trouble))
    }

    /// The client says that it can no longer be used.
    pub(super) fn lost_by(&mut self, trouble: Trouble) -> Turn {
        let loss = loss(trouble.remedy);
        let text = self.in_words(trouble);
        self.health().error(text);
        self.session.lost_client(loss, boot_ns(), fastrand::f64())
    }

    /// What went wrong, and with what, where somebody must mend it.
    fn in_words(&self, trouble: Trouble) -> String {
        let text = trouble.failure.text;
        let open = self.open.as_ref().map(|open| &self.outlets[open.place]);
        match (trouble.remedy, open) {
            (Remedy::Denied, _) => format!("transactional id {:?}: {text} (docs/kafka-acls.md)", self.id),
            (Remedy::Abort, Some(outlet)) if trouble.failure.class == Class::Held => {
                format!("group {}.{}, topic {}: {text} (docs/kafka-acls.md)", self.id, outlet.name, outlet.topic)
            }
            _ => text,
        }
    }

    /// Adds to the open transaction, has its doubt made durable meanwhile, and waits for reports.
    pub(super) fn deliver(&mut self, client: &Producer) -> Option<Turn> {
        self.fill(client);
        if !self.secure() {
            return None;
        }
        let Some(open) = &self.open else {
            return Some(self.session.lost_client(Loss::Broken, boot_ns(), fastrand::f64()));
        };
        let before = open.reported;
        if before < open.records.len() {
            let turn = self.poll(client, self.waited);
            if turn.is_some() {
                return turn;
            }
        }
        let open = self.open.as_ref()?;
        let none = open.reported == before;
        // By a quarter: what is waited too long at the end of each transaction is time that nothing is sent.
        let longer = (self.waited * 5 / 4).clamp(Duration::from_millis(1), POLL_MAX);
        self.waited = if none { longer } else { Duration::ZERO };
        match &open.failure {
            Some((_, failure)) => {
                // One that was broken off says nothing of Kafka.
                let times_out = failure.class == Class::Retried && !open.incomplete;
                let failure = failure.clone();
                self.fail_open(failure, times_out);
            }
            None if !open.is_filling && open.reported >= open.records.len() => self.session.delivered(),
            None => {}
        }
        None
    }

    /// Before anything is committed the queue notes what is in doubt then; the client has work meanwhile. Gives whether
    /// the transaction can go on.
    fn secure(&mut self) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| !open.is_filling && !open.is_secured) else { return true };
        open.is_secured = true;
        if open.range.is_none() {
            return true;
        }
        let index = self.outlets[open.place].index;
        let Err(error) = self.queue.secure_transaction(index) else { return true };
        tracing::warn!(%error, "transaction cannot be noted in the queue and is aborted");
        self.fail_open(Failure::retried(format!("queue: {error}")), false);
        false
    }

    /// Puts the cursor behind the transaction's records into it.
    pub(super) fn offset(&mut self, client: &Producer) -> Option<Turn> {
        let open = self.open.as_ref()?;
        let outlet = &self.outlets[open.place];
        let lasts = Duration::from_nanos(boot_ns().saturating_sub(open.began_ns));
        // One that is under way is waited for: until then the client refuses to abort, at once and without a pause.
        if lasts >= self.how.timeout && !client.is_sending_cursor() {
            self.fail_open(Failure::retried("the cursor was not taken in time".into()), true);
            return None;
        }
        let (Some(mut lanes), Some(group)) = (self.queue.lanes(outlet.index), &outlet.group) else {
            return Some(self.session.lost_client(Loss::Broken, boot_ns(), fastrand::f64()));
        };
        if let Some((_, last)) = open.range {
            // What is not read over is not in front of what was sent.
            lanes.ack_range(Position::ZERO, last, |_| false);
        }
        let of_letter = open.letter.map_or(0, |skipped| skipped.saturating_add(1));
        let skipped = self.queue.skipped_at(outlet.index, lanes.cursor()).saturating_add(of_letter);
        let doubtful = outlet.doubtful.filter(|(first, last)| lanes.first_open(*first) <= *last);
        let cursor = Cursor { queue: self.queue.id(), life: self.lives.newest(), lanes, doubtful, skipped };
        let sent = client.send_cursor(group, &outlet.topic, &cursor.encode(), SLICE);
        self.ended(sent)
    }

    /// How a call of the client ended.
    pub(super) fn ended(&mut self, answer: Result<(), Trouble>) -> Option<Turn> {
        let outcome = match answer {
            Ok(()) => {
                self.connected();
                Outcome::Done
            }
            Err(trouble) => {
                let kind = trouble.failure.class.as_str();
                self.metrics.uplink_errors.get_or_create(&ByKind { kind }).inc();
                tracing::debug!(error = %trouble, remedy = ?trouble.remedy, class = kind, "transaction");
                let (remedy, failure) = (trouble.remedy, trouble.failure.clone());
                let text = self.in_words(trouble);
                if let Some(open) = &mut self.open
                    && open.failure.is_none()
                    && remedy == Remedy::Abort
                {
                    open.failure = Some((None, Failure { text: text.clone(), ..failure }));
                }
                self.health().error(text);
                match remedy {
                    Remedy::Again => Outcome::Again,
                    Remedy::Abort => Outcome::Abort,
                    remedy => Outcome::Gone(loss(remedy)),
                }
            }
        };
        let now_ns = boot_ns();
        let (step, longest) = (self.session.step(now_ns), Duration::from_nanos(self.session.longest_ns()));
        let turn = self.session.ended(outcome, now_ns, fastrand::f64());
        if outcome == Outcome::Again && turn.is_some() {
            let last = self.health().status().last_error.unwrap_or_default();
            self.health().error(format!("{} did not end in {} s: {last}", step.in_words(), longest.as_secs()));
        }
        turn
    }

    pub(super) fn connected(&mut self) {
        let mut health = self.health();
        if health.is_up() {
            return;
        }
        let again = health.connected();
        drop(health);
        if again {
            self.metrics.uplink_reconnects.inc();
        }
        self.metrics.uplink_up.set(1);
        self.queue.set_uplink_up(true);
    }

    pub(super) fn disconnected(&mut self, error: String) {
        let mut health = self.health();
        health.error(error);
        health.disconnected();
        drop(health);
        self.metrics.uplink_up.set(0);
        self.queue.set_uplink_up(false);
    }
}

fn loss(remedy: Remedy) -> Loss {
    match remedy {
        Remedy::Fenced => Loss::Fenced,
        Remedy::Denied => Loss::Denied,
        Remedy::Again | Remedy::Abort | Remedy::Rebuild => Loss::Broken,
    }
}
