use proptest::prelude::*;

use super::*;

fn column(name: &str, kind: ColumnKind) -> Column {
    Column { name: name.into(), kind }
}

fn logger() -> Format {
    let columns = vec![
        column("", ColumnKind::Text),
        column("number", ColumnKind::Integer),
        column("battery_v", ColumnKind::Float),
        column("pump_on", ColumnKind::Bool),
        column("temperature_c", ColumnKind::Float),
    ];
    Format::Csv { separator: ',', columns, line_bytes_max: 1024 }
}

fn pairs() -> Format {
    Format::KeyValue { separator: ' ', assign: '=', line_bytes_max: 1024 }
}

#[test]
fn a_loggers_line_gives_typed_fields_and_nan_is_null() {
    let fields = parse(&logger(), br#""2026-11-22, 13:00:00",1042,12.61,on,"NAN""#).unwrap();
    let expected = [
        Field::new("number", Value::Integer(1042)),
        Field::new("battery_v", Value::Float(12.61)),
        Field::new("pump_on", Value::Bool(true)),
        Field::new("temperature_c", Value::Null),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_wrong_line_says_which_column_and_what_it_holds() {
    let error = parse(&logger(), b"x,1,twelve,0,1").unwrap_err();
    assert_eq!(error.to_string(), r#"column battery_v is "twelve", not a number"#);
    assert_eq!(parse(&logger(), b"x,1"), Err(LineError::Columns { found: 2, expected: 5 }));
    assert_eq!(parse(&logger(), b"\"x,1,1,1,1"), Err(LineError::Quote));
    assert_eq!(parse(&logger(), &[0xFF]), Err(LineError::NotText));
}

#[test]
fn pairs_get_clean_names_and_guessed_types() {
    let fields = parse(&pairs(), b"Temp-C=21.50 rpm=1450 doorOpen=true time=12:00 mode=infinity n=-3 T2=").unwrap();
    let expected = [
        Field::new("temp_c", Value::Float(21.5)),
        Field::new("rpm", Value::Integer(1450)),
        Field::new("door_open", Value::Bool(true)),
        Field::new("time_", Value::Text("12:00".to_owned())),
        Field::new("mode", Value::Text("infinity".to_owned())),
        Field::new("n", Value::Integer(-3)),
        Field::new("t2", Value::Null),
    ];
    assert_eq!(fields, expected);
    assert_eq!(parse(&pairs(), b"hello"), Err(LineError::Pair("hello".to_owned())));
}

#[test]
fn a_megabyte_without_an_end_costs_one_error_and_no_memory() {
    let mut splitter = Splitter::new(256);
    splitter.silence();
    let mut lines = Vec::new();
    for _ in 0..1024 {
        splitter.push(&[b'x'; 1024], &mut |line| lines.push(line.to_vec()));
        assert!(splitter.line.capacity() <= 512);
    }
    splitter.push(b"\r\nafter\r\n", &mut |line| lines.push(line.to_vec()));
    assert_eq!(lines, [b"after"]);
    assert_eq!(splitter.trouble().take(), Trouble { too_long: 1, dropped_bytes: 1 << 20, ..Trouble::default() });
}

#[test]
fn a_line_cut_by_opening_the_port_is_dropped_unless_the_port_was_silent() {
    let mut lines = Vec::new();
    let mut splitter = Splitter::new(64);
    splitter.push(b"5.", &mut |line| lines.push(line.to_vec()));
    splitter.silence();
    splitter.push(b"3\r\n125.4\n12", &mut |line| lines.push(line.to_vec()));
    assert_eq!(splitter.trouble().take().dropped_bytes, 3);
    splitter.reset();
    splitter.push(b"5.5\n125.6\n", &mut |line| lines.push(line.to_vec()));
    assert_eq!(splitter.trouble().take().dropped_bytes, 2 + 3);
    splitter.reset();
    splitter.silence();
    splitter.push(b"125.7\n", &mut |line| lines.push(line.to_vec()));
    assert_eq!(lines, [b"125.4", b"125.6", b"125.7"]);
}

proptest! {
    #[test]
    fn any_line_parses_or_errs_and_any_split_finds_the_same_lines(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1_usize..32,
    ) {
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        let mut splitter = Splitter::new(64);
        splitter.silence();
        splitter.push(&bytes, &mut |line| whole.push(line.to_vec()));
        let mut splitter = Splitter::new(64);
        splitter.silence();
        for chunk in bytes.chunks(cut) {
            splitter.push(chunk, &mut |line| parts.push(line.to_vec()));
        }
        prop_assert_eq!(&whole, &parts);
        for line in whole {
            for format in [logger(), pairs()] {
                if let Ok(fields) = parse(&format, &line) {
                    prop_assert!(fields.iter().all(|field| !is_reserved(&field.name) && !field.name.is_empty()));
                }
            }
        }
    }
}
