//! Which requests read the registers of a unit.
//!
//! A request costs far more than the registers in it, so neighbours are read together, small holes included. Some
//! units refuse to read what they do not have, or to answer long requests: a refused request is taken apart, first at
//! its holes, then in halves, until the register at fault stands alone; that one is then left out.

use crate::config::{Register, Table};

/// Most registers of one request (Modbus Application Protocol V1.1b3, sections 6.3 and 6.4).
const REGISTERS_MAX: u32 = 125;
/// Most coils or discrete inputs of one request (sections 6.1 and 6.2).
const BITS_MAX: u32 = 2000;
/// Largest hole read over, in registers. A register more is 22 bits on the line; a request of its own costs two
/// headers, two silences and the unit's turnaround, as much as some 8 registers at any usual speed.
const GAP_REGISTERS_MAX: u32 = 8;
/// The same in bits.
const GAP_BITS_MAX: u32 = GAP_REGISTERS_MAX * 16;

/// One read request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Which table.
    pub table: Table,
    /// First address.
    pub address: u16,
    /// Registers or bits to read.
    pub count: u16,
    /// Which of the unit's registers are in it, ascending by address.
    pub members: Vec<usize>,
}

/// What became of a request that the unit refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is smaller requests now, in its place.
    TakenApart,
    /// It could not be smaller: these registers are not asked for again.
    LeftOut(Vec<usize>),
}

/// The requests of one unit.
#[derive(Debug)]
pub(super) struct Plan {
    pub requests: Vec<Request>,
}

impl Plan {
    /// As few requests as the limits allow. Registers that would end beyond address 65535 are in none.
    pub fn new(registers: &[Register]) -> Self {
        let mut order: Vec<usize> = (0..registers.len()).filter(|&index| end(&registers[index]) <= 65_536).collect();
        order.sort_by_key(|&index| (registers[index].table, registers[index].address, index));
        Self { requests: group(registers, &order, true) }
    }

    /// Takes request `index` apart after the unit refused it, or leaves its register out.
    pub fn refuse(&mut self, registers: &[Register], index: usize) -> Refused {
        let Some(request) = self.requests.get(index) else { return Refused::TakenApart };
        let mut parts = group(registers, &request.members, false);
        if parts.len() == 1 {
            parts = halves(registers, &request.members);
        }
        if parts.len() == 1 {
            return Refused::LeftOut(self.requests.remove(index).members);
        }
        self.requests.splice(index..=index, parts);
        Refused::TakenApart
    }

    /// Leaves request `index` out altogether (the unit does not know its function).
    pub fn leave_out(&mut self, index: usize) -> Vec<usize> {
        if index < self.requests.len() { self.requests.remove(index).members } else { Vec::new() }
    }
}

/// First address after the register.
fn end(register: &Register) -> u32 {
    u32::from(register.address) + u32::from(register.number.registers())
}

fn limits(table: Table) -> (u32, u32) {
    match table {
        Table::Holding | Table::Input => (REGISTERS_MAX, GAP_REGISTERS_MAX),
        Table::Coil | Table::Discrete => (BITS_MAX, GAP_BITS_MAX),
    }
}

/// Groups registers that are sorted by table and address.
fn group(registers: &[Register], order: &[usize], over_holes: bool) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for &index in order {
        let register = &registers[index];
        let (count_max, gap_max) = limits(register.table);
        let gap_max = if over_holes { gap_max } else { 0 };
        if let Some(last) = requests.last_mut() {
            let (start, stop) = (u32::from(last.address), u32::from(last.address) + u32::from(last.count));
            let count = end(register).max(stop) - start;
            if last.table == register.table && u32::from(register.address) <= stop + gap_max && count <= count_max {
                last.count = count as u16; // at most 2000
                last.members.push(index);
                continue;
            }
        }
        let count = register.number.registers();
        requests.push(Request { table: register.table, address: register.address, count, members: vec![index] });
    }
    requests
}

/// Two requests of half the registers each; one where all of them start at one address.
fn halves(registers: &[Register], members: &[usize]) -> Vec<Request> {
    let middle = members.len() / 2;
    let differs = |&cut: &usize| registers[members[cut]].address != registers[members[cut - 1]].address;
    let cut = (middle.max(1)..members.len()).find(differs).or_else(|| (1..middle).rev().find(differs));
    match cut {
        Some(cut) => {
            let mut parts = group(registers, &members[..cut], false);
            parts.extend(group(registers, &members[cut..], false));
            parts
        }
        None => group(registers, members, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Number, WordOrder};
    use proptest::prelude::*;

    fn register(table: Table, address: u16, number: Number) -> Register {
        Register {
            name: format!("r{address}").into(),
            table,
            address,
            number,
            order: WordOrder::Abcd,
            scale: 1.0,
            stream: "telemetry".into(),
        }
    }

    fn spans(plan: &Plan) -> Vec<(u16, u16)> {
        plan.requests.iter().map(|request| (request.address, request.count)).collect()
    }

    #[test]
    fn small_holes_are_read_over_and_large_ones_are_not() {
        let registers = [100, 102, 111, 130].map(|address| register(Table::Holding, address, Number::U16));
        assert_eq!(spans(&Plan::new(&registers)), [(100, 12), (130, 1)]);
    }

    #[test]
    fn a_refused_request_is_taken_apart_until_the_one_at_fault_stands_alone() {
        let registers = [10, 11, 12, 13, 20].map(|address| register(Table::Holding, address, Number::U16));
        let mut plan = Plan::new(&registers);
        assert_eq!(spans(&plan), [(10, 11)]);
        assert_eq!(plan.refuse(&registers, 0), Refused::TakenApart);
        assert_eq!(spans(&plan), [(10, 4), (20, 1)]);
        assert_eq!(plan.refuse(&registers, 0), Refused::TakenApart);
        assert_eq!(spans(&plan), [(10, 2), (12, 2), (20, 1)]);
        assert_eq!(plan.refuse(&registers, 2), Refused::LeftOut(vec![4]));
        assert_eq!(spans(&plan), [(10, 2), (12, 2)]);
    }

    #[test]
    fn a_register_beyond_the_last_address_is_never_asked_for() {
        let registers = [register(Table::Input, 65_535, Number::U32), register(Table::Input, 65_535, Number::U16)];
        assert_eq!(spans(&Plan::new(&registers)), [(65_535, 1)]);
    }

    fn any_registers() -> impl Strategy<Value = Vec<Register>> {
        let one = (any::<u16>(), 0..2000_u16, any::<bool>(), prop::sample::select(vec![Number::U16, Number::F32]));
        prop::collection::vec(one, 1..60).prop_map(|all| {
            let of = |(far, near, is_near, number): (u16, u16, bool, Number)| {
                let bit = far % 3 == 0;
                let table = if bit { Table::Coil } else { Table::Holding };
                register(table, if is_near { near } else { far }, if bit { Number::Bit } else { number })
            };
            all.into_iter().map(of).collect()
        })
    }

    fn check(plan: &Plan, registers: &[Register]) -> Vec<usize> {
        let mut seen = Vec::new();
        for request in &plan.requests {
            assert!(u32::from(request.count) <= limits(request.table).0);
            for &member in &request.members {
                assert_eq!(registers[member].table, request.table);
                assert!(registers[member].address >= request.address);
                assert!(end(&registers[member]) <= u32::from(request.address) + u32::from(request.count));
                seen.push(member);
            }
        }
        seen.sort_unstable();
        seen
    }

    proptest! {
        #[test]
        fn every_register_is_in_one_request_also_after_refusals(
            registers in any_registers(), refusals in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut plan = Plan::new(&registers);
            let mut expected: Vec<usize> = (0..registers.len()).filter(|&i| end(&registers[i]) <= 65_536).collect();
            prop_assert_eq!(check(&plan, &registers), expected.clone());
            for refusal in refusals {
                if plan.requests.is_empty() { break }
                if let Refused::LeftOut(out) = plan.refuse(&registers, refusal.index(plan.requests.len())) {
                    expected.retain(|index| !out.contains(index));
                }
                prop_assert_eq!(check(&plan, &registers), expected.clone());
            }
        }
    }
}
