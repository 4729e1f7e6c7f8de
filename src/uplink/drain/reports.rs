//! What the client reports of what it was given, told to the streams record by record and to the queue in one go: a
//! report is a matter of nanoseconds, the queue's lock and its counting are not.

use std::sync::PoisonError;

use super::Drain;
use crate::clock::boot_ns;
use crate::kafka::Report;
use crate::metrics::{ByKind, ByStream};
use crate::uplink::lane::Event;

impl Drain<'_> {
    /// Takes up what was reported since the last poll. Gives how many reports there were.
    pub(super) fn take_reports(&mut self) -> usize {
        let now_ns = boot_ns();
        let mut reports = std::mem::take(&mut self.reports);
        let count = reports.len();
        for report in reports.drain(..) {
            self.report(report, now_ns);
        }
        self.reports = reports;
        self.acknowledge();
        self.measure_links();
        count
    }

    fn report(&mut self, report: Report, now_ns: u64) {
        let Some(sent) = self.tokens.give_back(report.token) else { return };
        let Some(place) = self.outlets.iter().position(|outlet| outlet.index.0 == sent.stream) else { return };
        self.watchdog.reported(sent.stream, report.partition, now_ns);
        let outlet = &mut self.outlets[place];
        match &report.failure {
            None => {
                outlet.timestamps.accepted(sent.timestamp_ms);
                self.rebuilds.succeeded();
                self.connected();
            }
            Some(failure) => {
                self.metrics.uplink_errors.get_or_create(&ByKind { kind: failure.class.as_str() }).inc();
            }
        }
        let outlet = &mut self.outlets[place];
        let (delivered, (_, bytes)) = (report.failure.is_none(), outlet.lane.in_flight());
        let events = outlet.lane.reported(sent.serial, report.failure, now_ns, fastrand::f64());
        if delivered {
            outlet.delivered_bytes += bytes.saturating_sub(outlet.lane.in_flight().1) as u64;
        }
        self.follow(place, events);
    }

    /// Does what a stream's lane asks for. What is delivered is kept for [`Drain::acknowledge`], but for what depends on
    /// it.
    pub(super) fn follow(&mut self, place: usize, events: Vec<Event>) {
        for event in events {
            if !matches!(event, Event::Acknowledged(_)) {
                self.acknowledge();
            }
            let outlet = &mut self.outlets[place];
            match event {
                Event::Acknowledged(through) => outlet.note_acknowledged(through),
                Event::Held(reason) => {
                    let name = outlet.name.clone();
                    self.health().hold(&name, reason);
                }
                Event::Released => {
                    let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                    health.release_unless(&outlet.name, outlet.writer.held().or_else(|| outlet.reader.blocked()));
                }
                Event::SetAside(position, failure) => self.set_aside(place, position, failure),
                Event::Rebuild(reason) => self.rebuild = Some(reason),
            }
        }
        // After a rewind the lane reads again from the cursor; what was read ahead is not next any more.
        if self.outlets[place].lane.take_rewound() {
            self.acknowledge();
            let outlet = &mut self.outlets[place];
            outlet.reader.rewind();
            outlet.front.forget();
        }
    }

    /// Tells the queue what was delivered.
    pub(super) fn acknowledge(&mut self) {
        for outlet in &mut self.outlets {
            let records = outlet.lane.take_delivered();
            if records > 0 {
                let stream = outlet.name.clone();
                self.metrics.uplink_records_delivered.get_or_create(&ByStream { stream }).inc_by(records);
            }
            for through in outlet.acknowledged.drain(..) {
                self.queue.ack_lane(outlet.index, through.lane, through.position);
            }
        }
    }
}
