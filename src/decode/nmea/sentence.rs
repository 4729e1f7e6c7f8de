//! The fields of one checked sentence, by the formats of NMEA 0183 version 4.11.

/// Which sentence it is; only those that say something about the fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Recommended minimum: time, date, position, speed, course.
    Rmc,
    /// Fix data: time, position, quality, satellites, altitude.
    Gga,
    /// Fix data of several constellations.
    Gns,
    /// Active satellites and dilution of precision.
    Gsa,
    /// Estimated errors.
    Gst,
    /// Course and speed.
    Vtg,
    /// Position and time.
    Gll,
    /// Time and date with a four-digit year.
    Zda,
    /// Satellites in view.
    Gsv,
    /// Not NMEA at all: UBX NAV-PVT, which says what RMC, GGA and GST say together.
    NavPvt,
    /// Any other; nothing of it is used.
    Other,
}

impl Kind {
    /// Whether a receiver sends it more than once in an epoch (one a constellation).
    pub fn repeats(self) -> bool {
        matches!(self, Self::Gsa | Self::Gsv | Self::Other)
    }

    /// A bit of its own, for sets of kinds.
    pub(crate) fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// How the position was found (GGA field 6, GNS and RMC mode letters), worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// No position.
    None,
    /// A simulator's.
    Simulated,
    /// Entered by hand.
    Manual,
    /// Dead reckoning.
    Estimated,
    /// Satellites alone.
    Gps,
    /// With corrections, SBAS included.
    Dgps,
    /// The precise positioning service.
    Pps,
    /// Carrier phase, ambiguities not fixed.
    RtkFloat,
    /// Carrier phase, ambiguities fixed.
    Rtk,
}

impl Quality {
    /// The word used in readings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Simulated => "simulated",
            Self::Manual => "manual",
            Self::Estimated => "estimated",
            Self::Gps => "gps",
            Self::Dgps => "dgps",
            Self::Pps => "pps",
            Self::RtkFloat => "rtk-float",
            Self::Rtk => "rtk",
        }
    }

    fn from_gga(text: &str) -> Option<Self> {
        Some(match text {
            "0" => Self::None,
            "1" => Self::Gps,
            "2" => Self::Dgps,
            "3" => Self::Pps,
            "4" => Self::Rtk,
            "5" => Self::RtkFloat,
            "6" => Self::Estimated,
            "7" => Self::Manual,
            "8" => Self::Simulated,
            _ => return None,
        })
    }

    fn from_mode(letter: char) -> Option<Self> {
        Some(match letter {
            'N' => Self::None,
            'A' => Self::Gps,
            'D' => Self::Dgps,
            'P' => Self::Pps,
            'R' => Self::Rtk,
            'F' => Self::RtkFloat,
            'E' => Self::Estimated,
            'M' => Self::Manual,
            'S' => Self::Simulated,
            _ => return None,
        })
    }
}

/// A date as the receiver says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Four digits.
    pub year: i16,
    /// From 1.
    pub month: i8,
    /// From 1.
    pub day: i8,
}

/// What one sentence says. Units: degrees (north and east positive), metres, metres per second.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    /// Which it is.
    pub kind: Kind,
    /// UTC since midnight in microseconds; a leap second makes it reach 86 400 000 000 and more.
    pub time_of_day_us: Option<u64>,
    /// UTC date.
    pub date: Option<Date>,
    /// Whether the receiver vouches for the position.
    pub is_valid: Option<bool>,
    /// Latitude and longitude.
    pub position_deg: Option<(f64, f64)>,
    /// Above mean sea level.
    pub altitude_m: Option<f64>,
    /// Geoid above ellipsoid.
    pub geoid_separation_m: Option<f64>,
    /// Over ground.
    pub speed_m_s: Option<f64>,
    /// Over ground, from true north.
    pub course_deg: Option<f64>,
    /// How the position was found.
    pub quality: Option<Quality>,
    /// Dimensions of the fix: 0 (none), 2 or 3.
    pub dimensions: Option<u8>,
    /// Satellites in the solution.
    pub satellites_used: Option<u32>,
    /// Satellites in view of this talker.
    pub satellites_in_view: Option<u32>,
    /// Horizontal dilution of precision.
    pub hdop: Option<f64>,
    /// Position dilution of precision.
    pub pdop: Option<f64>,
    /// Vertical dilution of precision.
    pub vdop: Option<f64>,
    /// Standard deviations of latitude, longitude and altitude.
    pub error_m: [Option<f64>; 3],
    /// Estimated horizontal error.
    pub error_horizontal_m: Option<f64>,
    /// Age of the differential corrections in seconds.
    pub correction_age_s: Option<f64>,
}

impl Sentence {
    /// A sentence of this kind that says nothing.
    pub fn empty(kind: Kind) -> Self {
        Self {
            kind,
            time_of_day_us: None,
            date: None,
            is_valid: None,
            position_deg: None,
            altitude_m: None,
            geoid_separation_m: None,
            speed_m_s: None,
            course_deg: None,
            quality: None,
            dimensions: None,
            satellites_used: None,
            satellites_in_view: None,
            hdop: None,
            pdop: None,
            vdop: None,
            error_m: [None; 3],
            error_horizontal_m: None,
            correction_age_s: None,
        }
    }
}

const METRES_PER_SECOND_PER_KNOT: f64 = 1852.0 / 3600.0;

/// What the text between `$` and `*` says; `None` where a field that must be a number, time or place is not.
pub(super) fn parse(text: &str) -> Option<Sentence> {
    let (address, fields) = text.split_once(',').unwrap_or((text, ""));
    let fields = Fields(fields);
    // Proprietary sentences (P...) have no talker and a format of their own.
    let formatter = if address.starts_with('P') { "" } else { address.get(2..).unwrap_or_default() };
    match formatter {
        "RMC" => rmc(fields),
        "GGA" => gga(fields),
        "GNS" => gns(fields),
        "GSA" => gsa(fields),
        "GST" => gst(fields),
        "VTG" => vtg(fields),
        "GLL" => gll(fields),
        "ZDA" => zda(fields),
        "GSV" => {
            let mut sentence = Sentence::empty(Kind::Gsv);
            sentence.satellites_in_view = fields.parsed(2)?;
            Some(sentence)
        }
        _ => Some(Sentence::empty(Kind::Other)),
    }
}

fn rmc(fields: Fields<'_>) -> Option<Sentence> {
    let mut sentence = Sentence::empty(Kind::Rmc);
    sentence.time_of_day_us = fields.time(0)?;
    sentence.is_valid = Some(fields.at(1) == "A");
    sentence.position_deg = fields.position(2)?;
    sentence.speed_m_s = fields.number(6)?.map(|knots| knots * METRES_PER_SECOND_PER_KNOT);
    sentence.course_deg = fields.number(7)?;
    sentence.date = fields.date(8)?;
    sentence.quality = fields.at(11).chars().next().and_then(Quality::from_mode);
    Some(sentence)
}

fn gga(fields: Fields<'_>) -> Option<Sentence> {
    let mut sentence = Sentence::empty(Kind::Gga);
    sentence.time_of_day_us = fields.time(0)?;
    sentence.position_deg = fields.position(1)?;
    sentence.quality = Some(Quality::from_gga(fields.at(5)).unwrap_or(Quality::None));
    sentence.is_valid = Some(sentence.quality != Some(Quality::None));
    sentence.satellites_used = fields.parsed(6)?;
    sentence.hdop = fields.number(7)?;
    sentence.altitude_m = fields.number(8)?;
    sentence.geoid_separation_m = fields.number(10)?;
    sentence.correction_age_s = fields.number(12)?;
    Some(sentence)
}

fn gns(fields: Fields<'_>) -> Option<Sentence> {
    let mut sentence = Sentence::empty(Kind::Gns);
    sentence.time_of_day_us = fields.time(0)?;
    sentence.position_deg = fields.position(1)?;
    // One letter a constellation; the best of them is what the position rests on.
    sentence.quality = fields.at(5).chars().filter_map(Quality::from_mode).max();
    sentence.is_valid = Some(sentence.quality.is_some_and(|quality| quality != Quality::None));
    sentence.satellites_used = fields.parsed(6)?;
    sentence.hdop = fields.number(7)?;
    sentence.altitude_m = fields.number(8)?;
    sentence.geoid_separation_m = fields.number(9)?;
    sentence.correction_age_s = fields.number(10)?;
    Some(sentence)
}

fn gsa(fields: Fields<'_>) -> Option<Sentence> {
    let mut sentence = Sentence::empty(Kind::Gsa);
    sentence.dimensions = match fields.at(1) {
        "1" => Some(0),
        "2" => Some(2),
        "3" => Some(3),
        _ => None,
    };
    sentence.pdop = fields.number(14)?;
    sentence.hdop = fields.number(15)?;
    sentence.vdop = fields.number(16)?;
    Some(sentence)
}

fn gst(fields: Fields<'_>) -> Option<Sentence> {
    let mut sentence = Sentence::empty(Kind::Gst);
    sentence.time_of_day_us = fields.time(0)?;
    sentence.error_m = [fields.number(5)?, fields.number(6)?, fields.number(7)?];
    Some(sentence)
}

fn vtg(fields: Fields<'_>) -> Option<Sentence> {
    let mut sentence = Sentence::empty(Kind::Vtg);
    sentence.course_deg = fields.number(0)?;
    sentence.speed_m_s = fields.number(4)?.map(|knots| knots * METRES_PER_SECOND_PER_KNOT);
    Some(sentence)
}

fn gll(fields: Fields<'_>) -> Option<Sentence> {
    let mut sentence = Sentence::empty(Kind::Gll);
    sentence.position_deg = fields.position(0)?;
    sentence.time_of_day_us = fields.time(4)?;
    sentence.is_valid = Some(fields.at(5) == "A");
    Some(sentence)
}

fn zda(fields: Fields<'_>) -> Option<Sentence> {
    let mut sentence = Sentence::empty(Kind::Zda);
    sentence.time_of_day_us = fields.time(0)?;
    if !fields.at(1).is_empty() {
        let (day, month, year) = (fields.at(1).parse().ok()?, fields.at(2).parse().ok()?, fields.at(3).parse().ok()?);
        sentence.date = Some(checked_date(year, month, day)?);
    }
    Some(sentence)
}

fn checked_date(year: i16, month: i8, day: i8) -> Option<Date> {
    jiff::civil::Date::new(year, month, day).ok().map(|_| Date { year, month, day })
}

/// The comma-separated fields behind the address. Each reader gives `Some(None)` for an empty field and `None` for one
/// that is not what it should be.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn at(self, index: usize) -> &'a str {
        self.0.split(',').nth(index).unwrap_or_default().trim()
    }

    fn parsed<T: std::str::FromStr>(self, index: usize) -> Option<Option<T>> {
        match self.at(index) {
            "" => Some(None),
            text => text.parse().ok().map(Some),
        }
    }

    fn number(self, index: usize) -> Option<Option<f64>> {
        let text = self.at(index);
        // "nan", "inf" and exponents are no NMEA numbers, though Rust would read them.
        if text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+')) {
            self.parsed(index)
        } else {
            None
        }
    }

    /// `hhmmss` with any number of decimals.
    fn time(self, index: usize) -> Option<Option<u64>> {
        let text = self.at(index);
        if text.is_empty() {
            return Some(None);
        }
        let (hour, minute) = (two_digits(text, 0)?, two_digits(text, 2)?);
        let second = two_digits(text, 4)?;
        let fraction = match text.get(6..)? {
            "" => "",
            rest => rest.strip_prefix('.')?,
        };
        if hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let micros = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
        let micros = micros.fold(0_u64, |micros, digit| micros * 10 + u64::from(digit - b'0'));
        Some(Some(((hour * 60 + minute) * 60 + second) * 1_000_000 + micros))
    }

    /// `ddmmyy`; years from 80 are those of the twentieth century.
    fn date(self, index: usize) -> Option<Option<Date>> {
        let text = self.at(index);
        if text.is_empty() {
            return Some(None);
        }
        let (day, month, year) = (two_digits(text, 0)?, two_digits(text, 2)?, two_digits(text, 4)?);
        let century = if year >= 80 { 1900 } else { 2000 };
        checked_date(century + year as i16, month as i8, day as i8).map(Some)
    }

    /// `ddmm.mmmm,N,dddmm.mmmm,E` from `index` on.
    fn position(self, index: usize) -> Option<Option<(f64, f64)>> {
        let latitude = self.angle(index, ["N", "S"], 90.0)?;
        let longitude = self.angle(index + 2, ["E", "W"], 180.0)?;
        Some(latitude.zip(longitude))
    }

    fn angle(self, index: usize, hemispheres: [&str; 2], degrees_max: f64) -> Option<Option<f64>> {
        let Some(packed) = self.number(index)? else { return Some(None) };
        let sign = match self.at(index + 1) {
            hemisphere if hemisphere == hemispheres[0] => 1.0,
            hemisphere if hemisphere == hemispheres[1] => -1.0,
            _ => return None,
        };
        let whole = (packed / 100.0).trunc();
        let minutes = packed - whole * 100.0;
        let degrees = whole + minutes / 60.0;
        (packed >= 0.0 && minutes < 60.0 && degrees <= degrees_max).then_some(Some(sign * degrees))
    }
}

fn two_digits(text: &str, at: usize) -> Option<u64> {
    let digits = text.as_bytes().get(at..at + 2)?;
    let value = |digit: u8| digit.is_ascii_digit().then(|| u64::from(digit - b'0'));
    Some(value(digits[0])? * 10 + value(digits[1])?)
}
