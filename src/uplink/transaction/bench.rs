//! A queue on disk for the tests of this folder.

use std::path::Path;
use std::time::Duration;

use crate::config::{Compression, Durability, Retention, Stream};
use crate::metrics::Metrics;
use crate::queue::{Queue, Settings};

pub(super) fn queue(dir: &Path) -> Queue {
    let stream = Stream {
        name: "telemetry".into(),
        topic: "telemetry".to_owned(),
        priority: 0,
        drain: None,
        rate: Default::default(),
        durability: Durability::Window,
        retention: Retention::default(),
    };
    let queue = crate::config::Queue {
        quota_bytes: None,
        window: Duration::from_secs(1),
        window_outage: Duration::from_secs(1),
        tail_bytes_max: 1 << 20,
        compression: Compression::None,
        keys: Default::default(),
    };
    let settings = Settings { dir: dir.to_owned(), gateway: "test".into(), queue, streams: vec![stream] };
    Queue::open(settings, Metrics::new().0).unwrap()
}
