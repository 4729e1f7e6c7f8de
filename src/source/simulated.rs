//! Made-up readings: vehicles that drive a loop and watch a boiler, for demos, load and tests.
//!
//! The same source name gives the same values in the same order. Each device counts its readings in the field
//! `sequence`, from 0 without holes, so that whoever receives them can prove that none is missing.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config;
use crate::metrics::Metrics;
use crate::reading::{Envelope, Field, Name, Reading, Value};

/// Readings of one round of the loop.
const LOOP_READINGS: u64 = 600;
/// Metres of a degree of latitude.
const DEGREE_M: f64 = 111_320.0;
/// Radius of the loop.
const LOOP_RADIUS_M: f64 = 1_500.0;

/// Hands on readings of `config.devices` devices, each so often, spread evenly, until `stop` is cancelled. None is left
/// out when the hub is slow; they only come later.
pub async fn run(
    name: Name,
    stream: Name,
    config: config::Simulated,
    hub: mpsc::Sender<Envelope>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let _ = stop.run_until_cancelled(emit(name, stream, config, hub, metrics)).await;
}

async fn emit(name: Name, stream: Name, config: config::Simulated, hub: mpsc::Sender<Envelope>, metrics: Arc<Metrics>) {
    let mut devices: Vec<Device> = (0..config.devices).map(|index| Device::new(&name, index)).collect();
    let step = config.every.checked_div(config.devices).unwrap_or(config.every).max(Duration::from_nanos(1));
    metrics.source_is_up(&name, true);
    let mut due = Instant::now();
    while !devices.is_empty() {
        for device in &mut devices {
            sleep_until(due).await;
            due += step;
            let reading = device.reading(&name, &stream, config.every, clock::boot_ns());
            if hub.send(reading.into()).await.is_err() {
                return;
            }
        }
        // What the hub could not take in time is not caught up in a burst.
        due = due.max(Instant::now().checked_sub(config.every).unwrap_or(due));
    }
}

/// One made-up vehicle.
#[derive(Debug)]
struct Device {
    name: Name,
    random: fastrand::Rng,
    sequence: u64,
    temperature_c: f64,
    fields: [Name; 7],
}

impl Device {
    fn new(source: &str, index: u32) -> Self {
        // FNV-1a: the seed follows from the names alone.
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let seed = source.bytes().chain(index.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, fold);
        let names =
            ["sequence", "latitude_deg", "longitude_deg", "speed_m_s", "temperature_c", "pressure_kpa", "pump_on"];
        Self {
            name: format!("{source}-{index}").into(),
            random: fastrand::Rng::with_seed(seed),
            sequence: 0,
            temperature_c: 60.0,
            fields: names.map(Name::from),
        }
    }

    fn reading(&mut self, source: &Name, stream: &Name, every: Duration, boot_ns: u64) -> Reading {
        let sequence = self.sequence;
        self.sequence += 1;
        let angle = TAU * (sequence % LOOP_READINGS) as f64 / LOOP_READINGS as f64;
        let pump_on = sequence % 120 < 40;
        let pull = if pump_on { 75.0 - self.temperature_c } else { 55.0 - self.temperature_c };
        self.temperature_c += pull * 0.02 + self.noise(0.05);
        let metres = TAU * LOOP_RADIUS_M / LOOP_READINGS as f64;
        let speed_m_s = metres / every.as_secs_f64().max(0.001);
        let latitude_deg = 47.0 + angle.sin() * LOOP_RADIUS_M / DEGREE_M;
        let longitude_deg = 8.0 + angle.cos() * LOOP_RADIUS_M / (DEGREE_M * 47.0_f64.to_radians().cos());
        let values = [
            Value::Integer(i64::try_from(sequence).unwrap_or(i64::MAX)),
            rounded(latitude_deg + self.noise(1e-5), 1e7),
            rounded(longitude_deg + self.noise(1e-5), 1e7),
            rounded((speed_m_s + self.noise(0.2)).max(0.0), 100.0),
            rounded(self.temperature_c, 100.0),
            rounded(180.0 + 0.5 * (self.temperature_c - 60.0) + self.noise(0.3), 100.0),
            Value::Bool(pump_on),
        ];
        Reading {
            source: source.clone(),
            device: self.name.clone(),
            stream: stream.clone(),
            boot_ns,
            measured_us: None,
            from_mqtt: false,
            fields: self.fields.iter().cloned().zip(values).map(|(name, value)| Field { name, value }).collect(),
        }
    }

    fn noise(&mut self, most: f64) -> f64 {
        (self.random.f64() * 2.0 - 1.0) * most
    }
}

/// Rounded to one part in `parts`, as an instrument would.
fn rounded(value: f64, parts: f64) -> Value {
    Value::float((value * parts).round() / parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_device_counts_from_zero_without_holes() {
        let (hub, mut readings) = mpsc::channel(4);
        let (metrics, _) = Metrics::new();
        let stop = CancellationToken::new();
        let config = config::Simulated { devices: 3, every: Duration::from_millis(10) };
        let task = tokio::spawn(run("sim".into(), "telemetry".into(), config, hub, metrics, stop.clone()));
        let mut counts = std::collections::BTreeMap::<Name, i64>::new();
        for _ in 0..30 {
            let reading = readings.recv().await.unwrap().reading;
            let count = counts.entry(reading.device).or_default();
            assert_eq!(reading.fields[0].value, Value::Integer(*count));
            *count += 1;
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
        stop.cancel();
        readings.close();
        task.await.unwrap();
    }

    #[test]
    fn the_same_names_give_the_same_values() {
        let series = |source: &str| {
            let mut device = Device::new(source, 7);
            let name = Name::from("s");
            (0..50).map(|_| device.reading(&name, &name, Duration::from_secs(1), 0).fields).collect::<Vec<_>>()
        };
        assert_eq!(series("plant"), series("plant"));
        assert_ne!(series("plant"), series("yard"));
    }
}
