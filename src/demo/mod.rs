//! What demos and tests need: an embedded broker.

pub mod broker;
