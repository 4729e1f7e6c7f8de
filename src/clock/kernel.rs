//! The one call into the kernel's time discipline, which no safe crate of ours wraps: adjtimex(2), read-only.
#![allow(unsafe_code)] // one libc call that fills a struct we own

/// What the kernel says of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Discipline {
    /// Bound of the clock's error, microseconds (`maxerror`).
    pub max_error_us: i64,
    /// `STA_UNSYNC` is set.
    pub unsynchronised: bool,
}

/// Reads the discipline; `None` where the kernel refuses (a sandbox that filters the call).
pub(super) fn discipline() -> Option<Discipline> {
    // SAFETY: `timex` is plain integers, for which all zeroes is a value; modes = 0 asks for a read.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed struct of the type the call fills.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    #[allow(clippy::useless_conversion)] // `maxerror` is a C long: 32 bit on 32-bit ARM
    let max_error_us = i64::from(timex.maxerror);
    (state >= 0).then_some(Discipline { max_error_us, unsynchronised: timex.status & libc::STA_UNSYNC != 0 })
}
