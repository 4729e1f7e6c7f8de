//! The one UBX message that says everything about a fix, NAV-PVT, as the facts an NMEA sentence would give.
//!
//! Offsets and units: u-blox 8 / M8 receiver description, UBX-13003221, section "UBX-NAV-PVT" (the same in M9 and M10).

use crate::decode::nmea::{Date, Kind, Quality, Sentence};

/// Bytes of a NAV-PVT payload.
pub const NAV_PVT_BYTES: usize = 92;

/// Date valid, time valid, leap seconds known (`valid`, bits 0 to 2): before that the time may be whole seconds off.
const TIME_FULLY_RESOLVED: u8 = 0b111;

/// What a NAV-PVT payload says; `None` where it is not one.
pub fn nav_pvt(payload: &[u8]) -> Option<Sentence> {
    let payload: &[u8; NAV_PVT_BYTES] = payload.try_into().ok()?;
    let word = |at: usize| [payload[at], payload[at + 1], payload[at + 2], payload[at + 3]];
    let signed = |at| f64::from(i32::from_le_bytes(word(at)));
    let unsigned = |at| f64::from(u32::from_le_bytes(word(at)));
    let (fix_type, flags) = (payload[20], payload[21]);
    let is_valid = flags & 1 != 0 && matches!(fix_type, 1..=4);

    let mut facts = Sentence::empty(Kind::NavPvt);
    if payload[11] & TIME_FULLY_RESOLVED == TIME_FULLY_RESOLVED {
        (facts.date, facts.time_of_day_us) = date_and_time(payload)?;
    }
    facts.is_valid = Some(is_valid);
    facts.quality = Some(quality(is_valid, fix_type, flags));
    facts.dimensions = match fix_type {
        2 => Some(2),
        3 | 4 => Some(3),
        _ => None,
    };
    facts.satellites_used = Some(u32::from(payload[23]));
    if is_valid {
        let (longitude, latitude) = (signed(24) * 1e-7, signed(28) * 1e-7);
        if latitude.abs() > 90.0 || longitude.abs() > 180.0 {
            return None;
        }
        facts.position_deg = Some((latitude, longitude));
        facts.altitude_m = Some(signed(36) / 1e3);
        facts.geoid_separation_m = Some((signed(32) - signed(36)) / 1e3);
        facts.error_horizontal_m = Some(unsigned(40) / 1e3);
        facts.error_m[2] = Some(unsigned(44) / 1e3);
        facts.speed_m_s = Some(signed(60) / 1e3);
        facts.course_deg = Some(signed(64) * 1e-5);
        facts.pdop = Some(f64::from(u16::from_le_bytes([payload[76], payload[77]])) / 1e2);
    }
    Some(facts)
}

fn quality(is_valid: bool, fix_type: u8, flags: u8) -> Quality {
    match (flags >> 6, fix_type) {
        _ if !is_valid => Quality::None,
        (2, _) => Quality::Rtk,
        (1, _) => Quality::RtkFloat,
        (_, 1) => Quality::Estimated,
        _ if flags & 0b10 != 0 => Quality::Dgps,
        _ => Quality::Gps,
    }
}

/// Date and time of day. The fields are rounded to whole seconds and `nano` is what that left, of either sign; the
/// instant is brought to whole milliseconds, as NMEA gives it, so that both name the same epoch.
fn date_and_time(payload: &[u8; NAV_PVT_BYTES]) -> Option<(Option<Date>, Option<u64>)> {
    let part = |at: usize| i8::try_from(payload[at]).ok();
    let year = i16::from_le_bytes([payload[4], payload[5]]);
    let whole = jiff::civil::Date::new(year, part(6)?, part(7)?).ok()?;
    let (hour, minute, second) = (i64::from(payload[8]), i64::from(payload[9]), i64::from(payload[10]));
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let nano = i64::from(i32::from_le_bytes([payload[16], payload[17], payload[18], payload[19]]));
    let milli = ((hour * 60 + minute) * 60 + second) * 1_000 + (nano + 500_000).div_euclid(1_000_000);
    let (date, milli) = if milli < 0 { (whole.yesterday().ok()?, milli + 86_400_000) } else { (whole, milli) };
    let date = Date { year: date.year(), month: date.month(), day: date.day() };
    Some((Some(date), u64::try_from(milli * 1_000).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Trouble;
    use crate::decode::nmea::Scanner;

    const FRAME: &str = "B5 62 01 07 5C 00 48 EC A0 16 EA 07 0C 09 09 1B 19 07 19 00 00 00 40 2B FE FF 03 01 E0 0E \
        AA F4 1A 05 6C 27 2F 1C 10 5B 08 00 90 9F 07 00 B0 04 00 00 98 08 00 00 78 00 00 00 EA 0B 00 00 F1 FF FF FF \
        EC 0B 00 00 40 49 76 00 50 00 00 00 20 BF 02 00 73 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 98 14";

    #[test]
    fn nav_pvt_says_what_rmc_gga_and_gst_would() {
        let bytes: Vec<u8> = FRAME.split_whitespace().map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
        let mut scanner = Scanner::new();
        let mut heard = Vec::new();
        bytes.chunks(9).for_each(|chunk| scanner.push(chunk, &mut |facts| heard.push(facts.clone())));
        assert_eq!((heard.len(), scanner.trouble().take()), (1, Trouble::default()));
        let facts = &heard[0];
        assert_eq!(facts.date, Some(Date { year: 2026, month: 12, day: 9 }));
        assert_eq!(facts.time_of_day_us, Some((9 * 3600 + 27 * 60 + 25) * 1_000_000));
        let (latitude, longitude) = facts.position_deg.unwrap();
        assert!((latitude - 47.285_233_2).abs() < 1e-7 && (longitude - 8.565_265_0).abs() < 1e-7);
        assert_eq!((facts.altitude_m, facts.geoid_separation_m), (Some(499.6), Some(48.0)));
        assert_eq!((facts.speed_m_s, facts.pdop, facts.satellites_used), (Some(3.052), Some(1.15), Some(14)));
        assert_eq!((facts.error_horizontal_m, facts.error_m[2]), (Some(1.2), Some(2.2)));
        assert_eq!((facts.is_valid, facts.dimensions, facts.quality), (Some(true), Some(3), Some(Quality::Gps)));
    }

    #[test]
    fn without_a_fix_or_a_resolved_time_neither_is_told() {
        let mut payload = [0; NAV_PVT_BYTES];
        payload[11] = 0b011;
        let facts = nav_pvt(&payload).unwrap();
        assert_eq!((facts.is_valid, facts.position_deg, facts.date), (Some(false), None, None));
        assert!(nav_pvt(&payload[1..]).is_none());
    }
}
