//! Readings as the three usual kinds of devices make them, the same at every run: a receiver on the move, a boiler's
//! registers, a particulate sensor. Values wander as measured ones do; constant or random ones would flatter or wrong
//! the compression.

use std::sync::Arc;

use forebay::reading::{Field, Lineage, Position, Record, Stamp, Trust, Value};

/// 2026-11-22T12:00:00Z.
const NOON_US: i64 = 1_795_348_800_000_000;

// A generator of small pseudo-random numbers (xorshift), seeded so that every run sees the same readings.
struct Noise(u64);

impl Noise {
    /// Uniform in -1 to 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// Rounds to so many decimals, as devices do.
fn rounded(value: f64, decimals: i32) -> Value {
    let scale = 10_f64.powi(decimals);
    Value::float((value * scale).round() / scale)
}

fn record(seq: u64, source: &str, device: &str, fields: Vec<Field>) -> Record {
    Record {
        position: Position::new(17, seq),
        skipped: 0,
        thinned: 0,
        stamp: Stamp {
            boot_ns: 3_600_000_000_000 + seq * 1_000_000_000 + seq * 7_919 % 400_000,
            wall_us: NOON_US + seq as i64 * 1_000_000 + (seq * 7_919 % 400) as i64,
            trust: Trust::Ntp,
        },
        source: source.into(),
        device: device.into(),
        fields,
    }
}

/// One fix a second of a vehicle, with the fields that the receiver source makes.
pub fn gnss(count: u64) -> Vec<Record> {
    let mut noise = Noise(0x5f0c_9a1e);
    let (mut latitude, mut longitude, mut course, mut altitude) = (47.285_233, 8.565_265, 90.0, 431.7);
    (0..count)
        .map(|seq| {
            course = (course + 3.0 * noise.next() + 360.0) % 360.0;
            let speed_m_s = 15.0 + 2.0 * noise.next();
            latitude += speed_m_s * f64::to_radians(course).cos() / 111_320.0;
            longitude += speed_m_s * f64::to_radians(course).sin() / 75_600.0;
            altitude += 0.3 * noise.next();
            let fields = vec![
                Field::new("latitude_deg", rounded(latitude, 7)),
                Field::new("longitude_deg", rounded(longitude, 7)),
                Field::new("altitude_m", rounded(altitude, 1)),
                Field::new("speed_m_s", rounded(speed_m_s, 3)),
                Field::new("course_deg", rounded(course, 2)),
                Field::new("fix", Value::Text("3d".into())),
                Field::new("satellites", Value::Integer(9 + (2.0 * noise.next()) as i64)),
                Field::new("hdop", rounded(0.92 + 0.05 * noise.next(), 2)),
            ];
            record(seq, "position", "truck-17", fields)
        })
        .collect()
}

/// Ten registers and coils of a boiler a second.
pub fn modbus(count: u64) -> Vec<Record> {
    let mut noise = Noise(0x9e37_79b9);
    let (mut flow_c, mut return_c, mut energy_wh) = (71.5, 52.0, 1_204_113_i64);
    (0..count)
        .map(|seq| {
            flow_c += 0.15 * noise.next();
            return_c += 0.1 * noise.next();
            energy_wh += 5 + (2.0 * noise.next()) as i64;
            let fields = vec![
                Field::new("flow_c", rounded(flow_c, 1)),
                Field::new("return_c", rounded(return_c, 1)),
                Field::new("pressure_bar", rounded(1.8 + 0.02 * noise.next(), 2)),
                Field::new("mains_v", rounded(230.0 + 1.5 * noise.next(), 1)),
                Field::new("current_a", rounded(4.2 + 0.2 * noise.next(), 2)),
                Field::new("energy_wh", Value::Integer(energy_wh)),
                Field::new("burner_hours", Value::Integer(20_431 + (seq / 3_600) as i64)),
                Field::new("pump_on", Value::Bool(true)),
                Field::new("burner_on", Value::Bool(seq % 600 < 410)),
                Field::new("alarm", Value::Bool(false)),
            ];
            record(seq, "plant", "boiler", fields)
        })
        .collect()
}

/// One frame a second of a particulate sensor: twelve counts and concentrations.
pub fn particulates(count: u64) -> Vec<Record> {
    const NAMES: [&str; 12] = [
        "pm1_0_factory_ug_m3",
        "pm2_5_factory_ug_m3",
        "pm10_factory_ug_m3",
        "pm1_0_ug_m3",
        "pm2_5_ug_m3",
        "pm10_ug_m3",
        "above_0_3_um_per_0_1_l",
        "above_0_5_um_per_0_1_l",
        "above_1_0_um_per_0_1_l",
        "above_2_5_um_per_0_1_l",
        "above_5_0_um_per_0_1_l",
        "above_10_um_per_0_1_l",
    ];
    const TYPICAL: [f64; 12] = [9.0, 14.0, 16.0, 9.0, 14.0, 16.0, 1_710.0, 498.0, 92.0, 9.0, 3.0, 1.0];
    let mut noise = Noise(0x1234_5678);
    (0..count)
        .map(|seq| {
            let value = |typical: &f64| Value::Integer((typical * (1.0 + 0.08 * noise.next())).round() as i64);
            let values: Vec<Value> = TYPICAL.iter().map(value).collect();
            let fields = NAMES.iter().zip(values).map(|(name, value)| Field::new(*name, value)).collect();
            record(seq, "air", "pms5003", fields)
        })
        .collect()
}

/// What the records have in common.
pub fn lineage() -> Arc<Lineage> {
    Arc::new(Lineage {
        gateway: "truck-17-4f2a9c".into(),
        queue: uuid::Uuid::from_u128(0x5f0c_9a1e_0000_4000_8000_0000_0000_0001),
        boot_index: 0,
    })
}
