//! Durations and sizes as users write them: a number and a unit, `"500ms"`, `"1.5 GiB"`.

use std::time::Duration;

/// Units of durations and their milliseconds.
const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Units of sizes and their bytes: decimal as the SI has them, binary as IEC 80000-13 has them.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// What a duration may look like, for messages.
pub(super) const DURATION_FORM: &str = "a number and one of ms, s, min, h, d, w, as in \"500ms\"";
/// What a size may look like, for messages.
pub(super) const SIZE_FORM: &str = "a number and one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB, as in \"64 MiB\"";

/// The duration that `text` says; whole milliseconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// The bytes that `text` says.
pub(super) fn size(text: &str) -> Option<u64> {
    scaled(text, &SIZE_UNITS)
}

/// Number times unit, exactly: the fraction is taken in decimal, not in floating point.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let number_end = text.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    let (number, unit) = text.split_at(number_end);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| u128::from(*factor))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction_is_wrong = number.contains('.') && fraction.is_empty() || fraction.contains('.');
    if whole.is_empty() || fraction_is_wrong || fraction.len() > 9 {
        return None;
    }
    let tenths = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole: u128 = whole.parse().ok()?;
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let total = whole.checked_mul(factor)?.checked_add(fraction * factor / tenths)?;
    u64::try_from(total).ok()
}

/// A duration in the largest unit that says it exactly.
pub(super) fn shown_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    shown(milliseconds, &DURATION_UNITS, "")
}

/// A size in the largest binary unit that says it exactly.
pub(super) fn shown_size(bytes: u64) -> String {
    let binary: Vec<_> = SIZE_UNITS.into_iter().filter(|(name, _)| *name == "B" || name.contains('i')).collect();
    shown(bytes, &binary, " ")
}

fn shown(amount: u64, units: &[(&str, u64)], between: &str) -> String {
    let fits = |factor: u64| amount != 0 && amount.is_multiple_of(factor);
    let (name, factor) = match units.iter().rev().find(|(_, factor)| fits(*factor)) {
        Some(unit) => *unit,
        None => units.iter().find(|(name, _)| *name == "s").copied().unwrap_or(units[0]),
    };
    format!("{}{between}{name}", amount / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_exact() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5 h"), Some(Duration::from_secs(5_400)));
        assert_eq!(duration("30d"), Some(Duration::from_secs(2_592_000)));
        assert_eq!(size("1.5 GiB"), Some(1_610_612_736));
        assert_eq!(size("100 kB"), Some(100_000));
        assert_eq!(size("64MiB"), Some(67_108_864));
    }

    #[test]
    fn what_has_no_unit_or_does_not_fit_is_nothing() {
        for wrong in ["", "5", "5 parsecs", "ms", ".5s", "1.s", "1.2.3s", "-1s", "1e3s", "99999999999999999999w", "½s"]
        {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(size("20000000 TiB"), None);
        assert_eq!(size("1 mb"), None);
    }

    #[test]
    fn amounts_are_shown_in_the_unit_that_says_them_exactly() {
        assert_eq!(shown_duration(Duration::from_secs(120)), "2min");
        assert_eq!(shown_duration(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(shown_duration(Duration::ZERO), "0s");
        assert_eq!(shown_size(64 << 20), "64 MiB");
        assert_eq!(shown_size(1_000), "1000 B");
    }
}
