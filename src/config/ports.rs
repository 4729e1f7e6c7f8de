//! Serial ports and Modbus connections as users write them.

use std::path::PathBuf;

use super::keys::RTU;
use super::names::host_port;
use super::reader::Table;
use super::resolved::{Line, ModbusConnect, Parity, Port};
use super::tree::{Entry, Kind, Node};

/// A port, or why `text` is none.
pub(super) fn port(text: &str) -> Result<Port, &'static str> {
    if text.starts_with("gpsd://") {
        return Err("is not yet supported");
    }
    if let Some(identity) = text.strip_prefix("usb:") {
        let mut parts = identity.splitn(3, ':');
        let id = |part: Option<&str>| {
            let part =
                part.filter(|part| (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u16::from_str_radix(part, 16).ok()
        };
        let (Some(vendor), Some(product)) = (id(parts.next()), id(parts.next())) else {
            return Err("has no vendor and product id of 1 to 4 hexadecimal digits");
        };
        let serial = parts.next().map(str::to_owned);
        if serial.as_deref() == Some("") {
            return Err("has an empty serial number");
        }
        return Ok(Port::Usb { vendor, product, serial });
    }
    if !text.starts_with('/') || text.contains('\0') {
        return Err("is not a serial port");
    }
    Ok(Port::Path(PathBuf::from(text)))
}

/// Whether two sources with these ports would open one tty, as far as their text tells.
pub(super) fn may_be_one(one: &Port, other: &Port) -> bool {
    match (one, other) {
        (
            Port::Usb { vendor, product, serial },
            Port::Usb { vendor: other_vendor, product: other_product, serial: other_serial },
        ) => {
            let serials_differ = serial.is_some() && other_serial.is_some() && serial != other_serial;
            vendor == other_vendor && product == other_product && !serials_differ
        }
        (Port::Path(one), Port::Path(other)) => one == other,
        _ => false,
    }
}

/// The port at `port` of a source's table.
pub(super) fn read_port(table: &Table<'_>) -> Option<Port> {
    let text = table.text("port")?;
    port(&text).map_err(|why| table.refuse("port", why)).ok()
}

/// `baud`, `data-bits`, `parity` and `stop-bits` of a table.
pub(super) fn read_line(table: &Table<'_>) -> Option<Line> {
    let baud = table.integer("baud");
    let data_bits = table.integer("data-bits");
    let stop_bits = table.integer("stop-bits");
    let parity = match table.word("parity") {
        Some("even") => Some(Parity::Even),
        Some("odd") => Some(Parity::Odd),
        Some(_) => Some(Parity::None),
        None => None,
    };
    Some(Line { baud: baud?, data_bits: data_bits?, parity: parity?, stop_bits: stop_bits? })
}

/// `connect` of a Modbus source.
pub(super) fn read_connect(table: &Table<'_>) -> Option<ModbusConnect> {
    let text = table.text("connect")?;
    let refuse = |why: &str| {
        table.refuse("connect", why);
        None
    };
    match text.split_once("://") {
        Some(("tcp", address)) => match host_port(address, Some(502)) {
            Some((host, port)) => Some(ModbusConnect::Tcp { host, port }),
            None => refuse("has no valid host and port"),
        },
        Some(("rtu", rest)) => {
            let (text, query) = rest.split_once('?').unwrap_or((rest, ""));
            let line = query_line(table, query);
            match port(text) {
                Ok(port) => Some(ModbusConnect::Rtu { port, line: line? }),
                Err(why) => refuse(why),
            }
        }
        Some(("rtu+tcp" | "rtu-over-tcp" | "udp" | "tls", _)) => refuse("is not yet supported"),
        _ => refuse("is not a Modbus connection"),
    }
}

/// Line settings from `baud=19200&parity=even`, read as a table of their own so that they have the same limits.
fn query_line(table: &Table<'_>, query: &str) -> Option<Line> {
    let at = table.place_of("connect");
    let mut entries: Vec<Entry> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if entries.iter().any(|entry| entry.key == key) {
            table.refuse("connect", &format!("has {key:?} twice"));
            return None;
        }
        let kind = value.parse().map_or_else(|_| Kind::Text(value.to_owned()), Kind::Integer);
        entries.push(Entry { key: key.to_owned(), at: at.clone(), value: Node { at: at.clone(), kind } });
    }
    let node = Node { at, kind: Kind::Table(entries) };
    read_line(&Table::new(&node, table.path_of("connect"), &RTU, table.report)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_paths_or_usb_identities() {
        assert_eq!(port("/dev/ttyS1"), Ok(Port::Path("/dev/ttyS1".into())));
        let usb =
            |serial: Option<&str>| Port::Usb { vendor: 0x1546, product: 0x01a8, serial: serial.map(str::to_owned) };
        assert_eq!(port("usb:1546:01a8"), Ok(usb(None)));
        assert_eq!(port("usb:1546:1A8:A:9"), Ok(usb(Some("A:9"))));
        for wrong in ["ttyS1", "usb:1546", "usb:+546:1", "usb:12345:1", "usb:1:2:", "gpsd://127.0.0.1", ""] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
        assert!(may_be_one(&usb(None), &usb(Some("1"))));
        assert!(!may_be_one(&usb(Some("2")), &usb(Some("1"))));
    }
}
