//! One stream's way out: what it reads, what it may send, and what became of that.

use super::encoding::Front;
use crate::queue::StreamIndex;
use crate::uplink::Settings;
use crate::uplink::delivery::Through;
use crate::uplink::lane::{Backoff, Lane};
use crate::uplink::rate::{LinkRate, RateLimit};
use crate::uplink::reader::Reader;
use crate::uplink::schemas::Writer;
use crate::uplink::timestamp::Timestamps;

pub(super) struct Outlet {
    pub(super) name: String,
    pub(super) topic: String,
    pub(super) priority: u8,
    pub(super) index: StreamIndex,
    pub(super) lane: Lane,
    pub(super) reader: Reader,
    pub(super) rate: RateLimit,
    pub(super) link: LinkRate,
    /// Reported delivered since the link was last measured.
    pub(super) delivered_bytes: u64,
    /// Delivered and not yet told to the queue: how far each of its lanes.
    pub(super) acknowledged: Vec<Through>,
    pub(super) timestamps: Timestamps,
    pub(super) writer: Writer,
    /// It is held as a block of it cannot be opened here.
    pub(super) is_blocked: bool,
    /// Its records could not be read the last time.
    pub(super) peek_failed: bool,
    /// What is newest could not be told the last time.
    pub(super) split_failed: bool,
    pub(super) front: Front,
}

impl Outlet {
    /// Everything sent of a lane up to there is delivered.
    pub(super) fn note_acknowledged(&mut self, through: Through) {
        match self.acknowledged.iter_mut().find(|known| known.lane == through.lane) {
            Some(known) => known.position = through.position,
            None => self.acknowledged.push(through),
        }
    }
}

/// One for each stream, the highest priority first.
pub(super) fn all(settings: &Settings, backoff: Backoff) -> Vec<Outlet> {
    let streams = settings.streams.iter().enumerate();
    let mut outlets: Vec<Outlet> = streams
        .map(|(index, stream)| Outlet {
            name: stream.name.to_string(),
            topic: stream.topic.clone(),
            priority: stream.priority,
            index: StreamIndex(index),
            lane: Lane::new(backoff),
            reader: Reader::new(StreamIndex(index), stream.drain.unwrap_or(settings.kafka.drain)),
            rate: RateLimit::new(stream.rate),
            link: LinkRate::default(),
            delivered_bytes: 0,
            acknowledged: Vec::new(),
            timestamps: Timestamps::default(),
            writer: Writer::new(stream, settings, backoff),
            is_blocked: false,
            peek_failed: false,
            split_failed: false,
            front: Front::default(),
        })
        .collect();
    outlets.sort_by_key(|outlet| std::cmp::Reverse(outlet.priority));
    outlets
}
