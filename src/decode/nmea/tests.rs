use proptest::prelude::*;

use super::*;

fn scan(bytes: &[u8]) -> (Vec<Sentence>, Trouble) {
    let mut scanner = Scanner::new();
    let mut sentences = Vec::new();
    scanner.push(bytes, &mut |sentence| sentences.push(sentence.clone()));
    (sentences, scanner.trouble().take())
}

fn one(text: &str) -> Sentence {
    let (mut sentences, trouble) = scan(format!("{text}\r\n").as_bytes());
    assert_eq!((sentences.len(), trouble), (1, Trouble::default()), "{text}");
    sentences.remove(0)
}

fn near(value: Option<f64>, expected: f64) -> bool {
    value.is_some_and(|value| (value - expected).abs() < 1e-4)
}

const GGA: &str = "$GNGGA,092725.00,4717.11399,N,00833.91590,E,4,12,0.62,499.6,M,48.0,M,1.0,0000*60";
const TIME_US: u64 = (9 * 3600 + 27 * 60 + 25) * 1_000_000;

#[test]
fn gga_gives_position_quality_and_altitude() {
    let gga = one(GGA);
    assert_eq!((gga.kind, gga.time_of_day_us, gga.quality), (Kind::Gga, Some(TIME_US), Some(Quality::Rtk)));
    let (latitude, longitude) = gga.position_deg.unwrap();
    assert!((latitude - 47.285_233_2).abs() < 1e-7 && (longitude - 8.565_265_0).abs() < 1e-7);
    assert_eq!((gga.altitude_m, gga.geoid_separation_m, gga.satellites_used), (Some(499.6), Some(48.0), Some(12)));
    assert_eq!((gga.hdop, gga.correction_age_s), (Some(0.62), Some(1.0)));
}

#[test]
fn rmc_gives_speed_course_and_date() {
    let rmc = one("$GNRMC,092725.00,A,4717.11399,N,00833.91590,E,10.0,77.52,091226,,,R,V*10");
    assert_eq!(rmc.date, Some(Date { year: 2026, month: 12, day: 9 }));
    assert!(near(rmc.speed_m_s, 5.1444) && near(rmc.course_deg, 77.52));
    assert_eq!((rmc.is_valid, rmc.quality), (Some(true), Some(Quality::Rtk)));
}

#[test]
fn rmc_without_a_fix_still_tells_the_time() {
    let rmc = one("$GNRMC,144602.00,V,,,,,,,011120,,,N,V*1F");
    assert_eq!((rmc.is_valid, rmc.position_deg), (Some(false), None));
    assert_eq!((rmc.time_of_day_us, rmc.date.is_some()), (Some(53_162_000_000), true));
    let standing = one("$GPRMC,202827.00,A,4717.11399,N,00833.91590,E,0.0,,090407,,,A*7D");
    assert_eq!((standing.course_deg, standing.speed_m_s), (None, Some(0.0)));
}

#[test]
fn gns_takes_a_mode_letter_for_every_constellation() {
    let gns = one("$GNGNS,092725.00,4717.11399,N,00833.91590,E,RRNN,12,0.62,499.6,48.0,1.0,0000,V*35");
    assert_eq!((gns.quality, gns.is_valid, gns.geoid_separation_m), (Some(Quality::Rtk), Some(true), Some(48.0)));
}

#[test]
fn zda_gst_and_gsa_give_date_errors_and_dilution() {
    let zda = one("$GNZDA,092725.00,09,12,2026,00,00*7F");
    assert_eq!((zda.time_of_day_us, zda.date), (Some(TIME_US), Some(Date { year: 2026, month: 12, day: 9 })));
    assert_eq!(one("$GNGST,092725.00,28,,,,1.2,1.3,2.2*49").error_m, [Some(1.2), Some(1.3), Some(2.2)]);
    let gsa = one("$GNGSA,A,3,80,71,73,79,69,,,,,,,,1.83,1.09,1.47,2*09");
    assert_eq!((gsa.dimensions, gsa.pdop, gsa.hdop, gsa.vdop), (Some(3), Some(1.83), Some(1.09), Some(1.47)));
}

#[test]
fn a_leap_second_is_a_time() {
    let gga = one("$GPGGA,235960.00,5321.6802,N,00630.3372,W,1,8,1.03,61.7,M,55.2,M,,*44");
    assert_eq!(gga.time_of_day_us, Some(86_400_000_000));
    assert!(near(gga.position_deg.map(|position| position.1), -6.505_62));
}

#[test]
fn binary_frames_between_sentences_are_stepped_over() {
    let ubx = [0xB5, 0x62, 0x06, 0x01, 0x03, 0x00, b'$', 0x05, 0x00, 0x33, 0x82];
    let mut ubx = ubx.to_vec();
    let sum = checksum::fletcher8(&ubx[2..9]);
    ubx[9..].copy_from_slice(&sum);
    let mut rtcm = vec![0xD3, 0x00, 0x02, b'$', b'!'];
    let crc = checksum::crc24q(&rtcm).to_be_bytes();
    rtcm.extend_from_slice(&crc[1..]);
    let line = format!("{GGA}\r\n");
    let (sentences, trouble) = scan(&[&ubx, line.as_bytes(), &rtcm, line.as_bytes()].concat());
    assert_eq!((sentences.len(), trouble), (2, Trouble::default()));
}

#[test]
fn what_is_wrong_is_counted_and_the_next_sentence_is_found() {
    let bad_sum = GGA.replace("4717", "4718");
    let stream = format!("\u{7}{bad_sum}\r\n$GPGGA,0927{GGA}\r\n${}\r\n{GGA}\r\n", "x".repeat(300));
    let (sentences, trouble) = scan(stream.as_bytes());
    assert_eq!(sentences.len(), 2);
    assert_eq!((trouble.checksum, trouble.malformed, trouble.too_long), (1, 1, 1));
}

#[test]
fn a_false_binary_header_ends_with_silence() {
    let mut scanner = Scanner::new();
    let mut sentences = 0;
    scanner.push(&[0xB5, 0x62, 1, 1, 0, 8], &mut |_| sentences += 1);
    scanner.push(format!("{GGA}\r\n").as_bytes(), &mut |_| sentences += 1);
    assert_eq!(sentences, 0, "it looks like a long frame");
    scanner.silence(&mut |_| sentences += 1);
    assert_eq!(sentences, 1);
}

proptest! {
    #[test]
    fn any_bytes_in_any_split_stay_bounded_and_a_sentence_is_found_behind_them(
        noise in proptest::collection::vec(any::<u8>(), 0..600), cut in 1_usize..64,
    ) {
        let mut scanner = Scanner::new();
        let mut found = 0;
        let sentences = format!("\r\n{GGA}\r\n");
        for chunk in [&noise[..], sentences.as_bytes()].concat().chunks(cut) {
            scanner.push(chunk, &mut |_| found += 1);
            prop_assert!(scanner.pending.len() <= UBX_PAYLOAD_BYTES_MAX + 8);
        }
        scanner.silence(&mut |_| found += 1);
        prop_assert!(found >= 1);
    }

    #[test]
    fn any_fields_parse_or_are_refused(kind in "(RMC|GGA|GNS|GSA|GST|VTG|GLL|ZDA|GSV)", fields in "[0-9A-Z.,+-]{0,120}") {
        let sentence = sentence::parse(&format!("GP{kind},{fields}"));
        if let Some((latitude, longitude)) = sentence.and_then(|sentence| sentence.position_deg) {
            prop_assert!(latitude.abs() <= 90.0 && longitude.abs() <= 180.0);
        }
    }

    #[test]
    fn positions_agree_with_another_decoder(
        latitude_degrees in 0_u32..90, longitude_degrees in 0_u32..180, minutes in 0_u32..5_999_999, south in any::<bool>(),
    ) {
        let (minute, fraction) = (minutes / 100_000, minutes % 100_000);
        let hemisphere = if south { 'S' } else { 'N' };
        let text = format!("GPGGA,092725.00,{latitude_degrees:02}{minute:02}.{fraction:05},{hemisphere},{longitude_degrees:03}{minute:02}.{fraction:05},W,1,12,0.62,499.6,M,48.0,M,,");
        let sentence = format!("${text}*{:02X}", checksum::xor8(text.as_bytes()));
        let ours = one(&sentence).position_deg.unwrap();
        let nmea::ParseResult::GGA(theirs) = nmea::parse_str(&sentence).unwrap() else { panic!("not GGA") };
        prop_assert!((ours.0 - theirs.latitude.unwrap()).abs() < 1e-9);
        prop_assert!((ours.1 - theirs.longitude.unwrap()).abs() < 1e-9);
    }
}
