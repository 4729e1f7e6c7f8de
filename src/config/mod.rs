//! The configuration: what the user wrote ([`file`]) and what the agent uses ([`resolved`]).
//!
//! [`load`] reads the file and its includes, and either gives a whole [`Config`] or every mistake it found at once,
//! each with file, line, column, the value and what is allowed. Modules take their own section, never the whole.

mod resolved;

pub use resolved::*;
