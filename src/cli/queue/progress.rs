//! How far a long look has come, on standard error where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Less is read before anyone could see a bar.
const SHOWN_BYTES_MIN: u64 = 16 << 20;

/// A bar over the bytes of all epochs; nothing is drawn where standard error is no terminal.
pub(super) fn bar(total_bytes: u64) -> ProgressBar {
    if total_bytes < SHOWN_BYTES_MIN {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total_bytes);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
