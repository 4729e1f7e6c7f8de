//! stub
pub mod devices;
pub mod modbus;
