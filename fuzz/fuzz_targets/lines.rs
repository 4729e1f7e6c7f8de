//! Any bytes through the line splitter and both line formats: no field takes a name that a record bears itself.
#![no_main]

use forebay::config::{Column, ColumnKind, Format};
use forebay::decode::lines::{Splitter, parse};
use forebay::reading::is_reserved;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let column = |name: &str, kind| Column { name: name.into(), kind };
    let columns = vec![
        column("real", ColumnKind::Float),
        column("whole", ColumnKind::Integer),
        column("flag", ColumnKind::Bool),
        column("text", ColumnKind::Text),
    ];
    let formats = [
        Format::Csv { separator: ',', columns, line_bytes_max: 256 },
        Format::KeyValue { separator: ';', assign: '=', line_bytes_max: 256 },
    ];
    let mut splitter = Splitter::new(256);
    splitter.silence();
    splitter.push(bytes, &mut |line| {
        assert!(line.len() <= 256);
        for format in &formats {
            let fields = parse(format, line).unwrap_or_default();
            assert!(fields.iter().all(|field| !is_reserved(&field.name)));
        }
    });
});
