//! `[[source]]` of type `modbus`: the connection, its units and their registers.

use super::keys::{REGISTER, UNIT};
use super::names::{self, note_unique};
use super::ports::read_connect;
use super::reader::Table;
use super::resolved::{Modbus, ModbusConnect, Number, Register, Table as RegisterTable, Unit, WordOrder};
use super::source::Surroundings;
use crate::reading::{FIELDS_MAX, Name};

/// Addresses of each of the four tables.
const ADDRESSES: u32 = 65_536;

/// Reads what is particular to Modbus.
pub(super) fn read(table: &Table<'_>, stream: Option<Name>, around: &Surroundings<'_>) -> Option<Modbus> {
    let connect = read_connect(table);
    let is_serial = matches!(connect, Some(ModbusConnect::Rtu { .. }));
    let mut units: Vec<Unit> = Vec::new();
    let mut ids: Vec<u8> = Vec::new();
    for unit in table.tables("unit", &UNIT, 1..=247) {
        let id: Option<u8> = unit.integer("id");
        if let Some(id) = id {
            if is_serial && !(1..=247).contains(&id) {
                let message = format!("{id} is out of range; allowed on RTU: a whole number from 1 to 247");
                unit.error(&unit.place_of("id"), "id", message);
            }
            if ids.contains(&id) {
                unit.error(&unit.place_of("id"), "id", format!("{id} is taken; unit ids must be unique in a source"));
            }
            ids.push(id);
        }
        units.extend(read_unit(&unit, id, stream.as_ref(), around));
    }
    Some(Modbus { connect: connect?, units })
}

fn read_unit(table: &Table<'_>, id: Option<u8>, stream: Option<&Name>, around: &Surroundings<'_>) -> Option<Unit> {
    let device = names::device(table, "device");
    let every = table.duration("every");
    let timeout = table.duration("timeout");
    let pause = table.duration("pause");
    let stream = if table.has("stream") { names::stream(table, "stream", around.streams) } else { stream.cloned() };
    let mut taken = Vec::new();
    let mut registers = Vec::new();
    for register in table.tables("registers", &REGISTER, 1..=FIELDS_MAX) {
        registers.extend(read_register(&register, stream.as_ref(), around, &mut taken));
    }
    if let (Some(every), Some(timeout)) = (every, timeout)
        && timeout > every.saturating_mul(10)
    {
        let message = "is more than ten poll intervals; a unit that is silent will miss many polls".to_owned();
        table.report.warning(&table.place_of("timeout"), table.path_of("timeout"), message);
    }
    Some(Unit { id: id?, device: device?, every: every?, timeout: timeout?, pause: pause?, registers })
}

fn read_register(
    table: &Table<'_>,
    stream: Option<&Name>,
    around: &Surroundings<'_>,
    taken: &mut Vec<String>,
) -> Option<Register> {
    let name = names::field(table, "name", around.tags);
    if let Some(name) = &name {
        note_unique(table, "name", name, taken, "the registers of a unit");
    }
    let place = read_place(table);
    let is_bit = matches!(place, Some((RegisterTable::Coil | RegisterTable::Discrete, _)));
    if is_bit {
        for key in ["type", "order", "scale"].into_iter().filter(|key| table.has(key)) {
            table.error(
                &table.place_of(key),
                key,
                "does not go with coils and discrete inputs, which are bits; remove it".to_owned(),
            );
        }
    }
    let number = if is_bit { Some(Number::Bit) } else { read_number(table) };
    if !is_bit && table.has("order") && number.is_some_and(|number| number.registers() < 2) {
        table.refuse("order", "is for values of 32 bits; remove it, or write their type (u32, i32, f32)");
    }
    let order = match table.word("order") {
        Some("cdab") => Some(WordOrder::Cdab),
        Some("badc") => Some(WordOrder::Badc),
        Some("dcba") => Some(WordOrder::Dcba),
        Some(_) => Some(WordOrder::Abcd),
        None => None,
    };
    let scale = table.number("scale");
    if scale == Some(0.0) {
        table.refuse("scale", "would make every value 0");
    }
    let stream = if table.has("stream") { names::stream(table, "stream", around.streams) } else { stream.cloned() };
    let (register_table, address) = place?;
    let number = number?;
    let end = u32::from(address) + u32::from(number.registers());
    if end > ADDRESSES {
        let message = format!(
            "address {address} and {} registers end at {end}; allowed: at most {ADDRESSES}",
            number.registers()
        );
        table.error(&table.place_of(key_of(register_table)), key_of(register_table), message);
    }
    Some(Register {
        name: name?,
        table: register_table,
        address,
        number,
        order: order?,
        scale: scale?,
        stream: stream?,
    })
}

fn key_of(table: RegisterTable) -> &'static str {
    match table {
        RegisterTable::Holding => "holding",
        RegisterTable::Input => "input",
        RegisterTable::Coil => "coil",
        RegisterTable::Discrete => "discrete",
    }
}

/// Which table, and the address there: exactly one of the four keys.
fn read_place(table: &Table<'_>) -> Option<(RegisterTable, u16)> {
    let all = [RegisterTable::Holding, RegisterTable::Input, RegisterTable::Coil, RegisterTable::Discrete];
    let written: Vec<_> = all.into_iter().filter(|one| table.has(key_of(*one))).collect();
    if let [only] = written[..] {
        return Some((only, table.integer(key_of(only))?));
    }
    let found: Vec<_> = written.into_iter().map(key_of).collect();
    let found =
        if found.is_empty() { "no address is written".to_owned() } else { format!("{} are written", found.join(", ")) };
    table.report.error(
        &table.at,
        table.path.as_str(),
        format!("{found}; allowed: exactly one of holding, input, coil, discrete"),
    );
    None
}

fn read_number(table: &Table<'_>) -> Option<Number> {
    if !table.has("type") {
        return Some(Number::U16);
    }
    Some(match table.word("type")? {
        "i16" => Number::I16,
        "u32" => Number::U32,
        "i32" => Number::I32,
        "f32" => Number::F32,
        _ => Number::U16,
    })
}
