//! Modbus registers into values.
