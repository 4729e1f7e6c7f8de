//! Modbus registers into values: which bytes make the number, and by what it is scaled.
//!
//! Pure. Registers come as the 16-bit words of the wire (big endian inside a word, Modbus Application Protocol V1.1b3
//! section 4.2); how two of them make one 32-bit number is not in the standard, so it is configured.

use crate::config::{Number, Register, WordOrder};
use crate::reading::Value;

/// The value of `register` from its words, in the order of the wire; `None` where `words` are fewer than it takes, or
/// where the register is a bit. A float that is NaN or infinite reads as null.
pub fn number(register: &Register, words: &[u16]) -> Option<Value> {
    let value = match register.number {
        Number::Bit => return None,
        Number::U16 => integer(i64::from(*words.first()?), register.scale),
        Number::I16 => integer(i64::from(words.first()?.cast_signed()), register.scale),
        Number::U32 => integer(i64::from(u32::from_be_bytes(bytes(words, register.order)?)), register.scale),
        Number::I32 => integer(i64::from(i32::from_be_bytes(bytes(words, register.order)?)), register.scale),
        Number::F32 => float(f32::from_be_bytes(bytes(words, register.order)?), register.scale),
    };
    Some(value)
}

/// The four bytes of two words, most significant first.
fn bytes(words: &[u16], order: WordOrder) -> Option<[u8; 4]> {
    let [first, second] = *words.first_chunk::<2>()?;
    let ([a, b], [c, d]) = (first.to_be_bytes(), second.to_be_bytes());
    Some(match order {
        WordOrder::Abcd => [a, b, c, d],
        WordOrder::Cdab => [c, d, a, b],
        WordOrder::Badc => [b, a, d, c],
        WordOrder::Dcba => [d, c, b, a],
    })
}

fn integer(raw: i64, scale: f64) -> Value {
    // Exactly 1: the user asked for no scaling, so an integer stays one.
    if scale.to_bits() == 1.0_f64.to_bits() {
        return Value::Integer(raw);
    }
    // At most 33 bits: exact as f64.
    scaled(raw as f64, scale)
}

fn float(raw: f32, scale: f64) -> Value {
    if !raw.is_finite() {
        return Value::Null;
    }
    // Through its shortest decimal: 230.3 in the unit shall read 230.3, not 230.3000030517578; as f32 it is the same.
    let exact = raw.to_string().parse().unwrap_or_else(|_| f64::from(raw));
    if scale.to_bits() == 1.0_f64.to_bits() { Value::float(exact) } else { scaled(exact, scale) }
}

/// Multiplies; by a scale that is one over a whole number it divides, since 3 / 10 is 0.3 and 3 × 0.1 is not.
fn scaled(raw: f64, scale: f64) -> Value {
    let divisor = (1.0 / scale).round();
    if divisor.abs() >= 2.0 && (1.0 / divisor).to_bits() == scale.to_bits() {
        Value::float(raw / divisor)
    } else {
        Value::float(raw * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Table;
    use proptest::prelude::*;

    const ORDERS: [WordOrder; 4] = [WordOrder::Abcd, WordOrder::Cdab, WordOrder::Badc, WordOrder::Dcba];

    fn register(number: Number, order: WordOrder, scale: f64) -> Register {
        Register {
            name: "x".into(),
            table: Table::Holding,
            address: 0,
            number,
            order,
            scale,
            stream: "telemetry".into(),
        }
    }

    #[test]
    fn the_known_vector_reads_the_same_in_all_four_orders() {
        let wires = [[0x4366, 0x4CCD], [0x4CCD, 0x4366], [0x6643, 0xCD4C], [0xCD4C, 0x6643]];
        for (order, wire) in ORDERS.into_iter().zip(wires) {
            assert_eq!(number(&register(Number::F32, order, 1.0), &wire), Some(Value::Float(230.3)), "{order:?}");
        }
    }

    #[test]
    fn scaling_is_what_a_person_expects() {
        let of = |kind, scale, words: &[u16]| number(&register(kind, WordOrder::Abcd, scale), words);
        assert_eq!(of(Number::I16, 1.0, &[0xFFFF]), Some(Value::Integer(-1)));
        assert_eq!(of(Number::U16, 1.0, &[0xFFFF]), Some(Value::Integer(65_535)));
        assert_eq!(of(Number::I16, 0.1, &[3]), Some(Value::Float(0.3)));
        assert_eq!(of(Number::I16, 0.1, &[715]), Some(Value::Float(71.5)));
        assert_eq!(of(Number::I32, 0.5, &[0xFFFF, 0xFFFE]), Some(Value::Float(-1.0)));
        assert_eq!(of(Number::U32, 10.0, &[0, 7]), Some(Value::Float(70.0)));
    }

    #[test]
    fn what_is_no_number_is_null_and_what_is_short_is_nothing() {
        let single = register(Number::F32, WordOrder::Abcd, 1.0);
        assert_eq!(number(&single, &[0x7FC0, 0]), Some(Value::Null));
        assert_eq!(number(&single, &[0x7F80, 0]), Some(Value::Null));
        assert_eq!(number(&single, &[0x4366]), None);
        assert_eq!(number(&register(Number::U16, WordOrder::Abcd, 1.0), &[]), None);
        assert_eq!(number(&register(Number::Bit, WordOrder::Abcd, 1.0), &[1]), None);
    }

    proptest! {
        #[test]
        fn every_order_is_undone(value: u32, order in prop::sample::select(&ORDERS[..])) {
            let [a, b, c, d] = value.to_be_bytes();
            let wire = match order {
                WordOrder::Abcd => [a, b, c, d],
                WordOrder::Cdab => [c, d, a, b],
                WordOrder::Badc => [b, a, d, c],
                WordOrder::Dcba => [d, c, b, a],
            };
            let words = [u16::from_be_bytes([wire[0], wire[1]]), u16::from_be_bytes([wire[2], wire[3]])];
            let unsigned = number(&register(Number::U32, order, 1.0), &words);
            prop_assert_eq!(unsigned, Some(Value::Integer(i64::from(value))));
            let signed = number(&register(Number::I32, order, 1.0), &words);
            prop_assert_eq!(signed, Some(Value::Integer(i64::from(value.cast_signed()))));
            let single = number(&register(Number::F32, order, 1.0), &words);
            match single {
                Some(Value::Float(read)) => prop_assert_eq!((read as f32).to_bits(), value),
                other => prop_assert!(other == Some(Value::Null) && !f32::from_bits(value).is_finite()),
            }
        }

        #[test]
        fn no_words_and_no_scale_make_it_panic_or_give_what_json_cannot_carry(
            words in prop::collection::vec(any::<u16>(), 0..4), scale: f64,
        ) {
            for kind in [Number::I16, Number::U16, Number::I32, Number::U32, Number::F32] {
                if let Some(Value::Float(read)) = number(&register(kind, WordOrder::Abcd, scale), &words) {
                    prop_assert!(read.is_finite());
                }
            }
        }
    }
}
