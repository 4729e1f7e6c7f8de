use super::*;
use crate::decode::checksum;
use crate::decode::nmea::Scanner;

/// 2026-11-01 in days since 1970.
const DAY_FLOOR: i64 = 20_758;

fn feed(assembler: &mut Assembler, bodies: &[&str]) -> Vec<Fix> {
    let mut scanner = Scanner::new();
    let mut fixes = Vec::new();
    for body in bodies {
        let line = format!("${body}*{:02X}\r\n", checksum::xor8(body.as_bytes()));
        scanner.push(line.as_bytes(), &mut |sentence| assembler.push(sentence, 7, &mut |fix| fixes.push(fix)));
    }
    fixes
}

fn epoch(assembler: &mut Assembler, bodies: &[&str]) -> Vec<Fix> {
    let mut fixes = feed(assembler, bodies);
    assembler.silence(&mut |fix| fixes.push(fix));
    fixes
}

fn value<'a>(fix: &'a Fix, name: &str) -> Option<&'a Value> {
    fix.fields.iter().find(|field| &*field.name == name).map(|field| &field.value)
}

fn text(fix: &Fix, name: &str) -> String {
    match value(fix, name) {
        Some(Value::Text(text)) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

const RMC: &str = "GNRMC,092725.00,A,4717.11399,N,00833.91590,E,10.0,77.52,091226,,,A,V";
const GGA: &str = "GNGGA,092725.00,4717.11399,N,00833.91590,E,4,12,0.62,499.6,M,48.0,M,1.0,0000";
const GSA: &str = "GNGSA,A,3,80,71,73,79,69,,,,,,,,1.83,1.09,1.47,2";

#[test]
fn all_sentences_of_an_epoch_make_one_fix_with_the_best_quality_told() {
    let mut assembler = Assembler::new(DAY_FLOOR);
    let fixes = epoch(&mut assembler, &[RMC, GGA, GSA, GSA, "GPGSV,1,1,00", "GNGST,092725.00,28,,,,1.2,1.3,2.2"]);
    assert_eq!(fixes.len(), 1);
    let fix = &fixes[0];
    assert_eq!((fix.is_valid, fix.measured_us, fix.boot_ns), (true, Some(1_796_808_445_000_000), 7));
    assert_eq!((text(fix, "fix"), text(fix, "quality")), ("3d".to_owned(), "rtk".to_owned()));
    assert_eq!(value(fix, "altitude_m"), Some(&Value::Float(499.6)));
    assert_eq!(value(fix, "course_deg"), Some(&Value::Float(77.52)));
    assert_eq!(value(fix, "error_altitude_m"), Some(&Value::Float(2.2)));
    assert_eq!(value(fix, "satellites_used"), Some(&Value::Integer(12)));
}

#[test]
fn rmc_after_gga_does_not_lower_the_quality() {
    let fixes = epoch(&mut Assembler::new(DAY_FLOOR), &[GGA, RMC]);
    assert_eq!(text(&fixes[0], "quality"), "rtk");
}

#[test]
fn another_time_closes_the_epoch_without_silence() {
    let mut assembler = Assembler::new(DAY_FLOOR);
    let next = RMC.replace("092725.00", "092725.10");
    let fixes = feed(&mut assembler, &[RMC, GGA, &next]);
    assert_eq!(fixes.len(), 1);
    assert_eq!(epoch(&mut assembler, &[]).len(), 1);
}

#[test]
fn without_a_fix_there_is_neither_a_position_nor_a_time_of_measurement() {
    let mut assembler = Assembler::new(DAY_FLOOR);
    assert!(epoch(&mut assembler, &[RMC, GGA])[0].is_valid);
    let lost = epoch(&mut assembler, &["GNRMC,144602.00,V,,,,,,,011226,,,N,V", "GNGGA,144602.00,,,,,0,00,99.99,,,,,,"]);
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].is_valid, lost[0].measured_us), (false, None));
    assert_eq!((text(&lost[0], "fix"), text(&lost[0], "quality")), ("none".to_owned(), "none".to_owned()));
    assert_eq!((value(&lost[0], "latitude_deg"), value(&lost[0], "altitude_m")), (None, None));
    // A position the receiver does not vouch for is no position either.
    let doubtful = epoch(&mut assembler, &["GNRMC,144603.00,V,4717.11399,N,00833.91590,E,,,011226,,,E,V"]);
    assert_eq!((doubtful[0].is_valid, value(&doubtful[0], "latitude_deg")), (false, None));
}

#[test]
fn a_receiver_without_time_has_epochs_too() {
    let mut assembler = Assembler::new(DAY_FLOOR);
    let bodies = ["GNRMC,,V,,,,,,,,,,N,V", "GNGGA,,,,,,0,00,99.99,,,,,,"];
    let fixes = feed(&mut assembler, &[bodies, bodies].concat());
    assert_eq!(fixes.len(), 1, "the second RMC opens the second epoch");
}

#[test]
fn a_week_rollover_is_corrected_against_the_day_floor_and_said() {
    let rollover = "GPRMC,202827.00,A,4717.11399,N,00833.91590,E,0.0,,090407,,,A";
    let fixes = epoch(&mut Assembler::new(DAY_FLOOR), &[rollover]);
    // 2026-11-23T20:28:27Z
    assert_eq!(fixes[0].measured_us, Some(1_795_465_707_000_000));
    assert_eq!(value(&fixes[0], "date_corrected"), Some(&Value::Bool(true)));
    assert_eq!(value(&fixes[0], "course_deg"), None);
    let fixes = epoch(&mut Assembler::new(DAY_FLOOR), &[RMC]);
    assert_eq!(value(&fixes[0], "date_corrected"), None);
    let fixes = epoch(&mut Assembler::new(DAY_FLOOR), &[&rollover.replace("090407", "150624")]);
    // 2024-06-15T20:28:27Z, as in a log of that day.
    assert_eq!(fixes[0].measured_us, Some(1_718_483_307_000_000));
    assert_eq!(value(&fixes[0], "date_corrected"), None);
}

#[test]
fn once_the_last_sentence_is_known_the_fix_comes_with_it() {
    let mut assembler = Assembler::new(DAY_FLOOR);
    for second in 0..3 {
        let at = format!("09272{second}.00");
        assert_eq!(epoch(&mut assembler, &[&RMC.replace("092725.00", &at), &GGA.replace("092725.00", &at)]).len(), 1);
    }
    assert_eq!(feed(&mut assembler, &[RMC, GGA]).len(), 1, "no silence was needed");
    assert_eq!(epoch(&mut assembler, &[]).len(), 0, "and it is not given twice");
    // A receiver that starts to send more: the straggler is not a second fix, and the guess is taken back.
    let late = "GNGLL,4717.11399,N,00833.91590,E,092726.00,A,A";
    let next = [&*RMC.replace("2725", "2726"), &*GGA.replace("2725", "2726"), late];
    assert_eq!(epoch(&mut assembler, &next).len(), 1);
    let after = [&*RMC.replace("2725", "2727"), &*GGA.replace("2725", "2727")];
    assert_eq!(feed(&mut assembler, &after).len(), 0);
}
