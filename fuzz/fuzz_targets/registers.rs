//! Any registers as any kind of number, in any order and by any scale: a value where there are enough of them, and never
//! one that JSON cannot carry.
#![no_main]

use forebay::config::{Number, Register, Table, WordOrder};
use forebay::decode::registers::number;
use forebay::reading::Value;
use libfuzzer_sys::fuzz_target;

const NUMBERS: [Number; 6] = [Number::Bit, Number::U16, Number::I16, Number::U32, Number::I32, Number::F32];
const ORDERS: [WordOrder; 4] = [WordOrder::Abcd, WordOrder::Cdab, WordOrder::Badc, WordOrder::Dcba];

fuzz_target!(|bytes: &[u8]| {
    // One byte for the kind, one for the order, eight for the scale; the rest is what the unit answered.
    let Some((head, image)) = bytes.split_first_chunk::<10>() else { return };
    let [kind, order, scale @ ..] = *head;
    let register = Register {
        name: "register".into(),
        table: Table::Holding,
        address: 0,
        number: NUMBERS[usize::from(kind) % NUMBERS.len()],
        order: ORDERS[usize::from(order) % ORDERS.len()],
        scale: f64::from_be_bytes(scale),
        stream: "telemetry".into(),
    };
    let words: Vec<u16> = image.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let read = number(&register, &words);
    let is_number = !matches!(register.number, Number::Bit);
    assert_eq!(read.is_some(), is_number && words.len() >= usize::from(register.number.registers()));
    assert!(!matches!(read, Some(Value::Float(value)) if !value.is_finite()));
});
