//! How far a long look has come, on standard error where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Less is read before anyone could see a bar.
const SHOWN_BYTES_MIN: u64 = 16 << 20;
/// Fewer epochs are changed before anyone could see a bar.
const SHOWN_EPOCHS_MIN: u64 = 8;

/// A bar over the epochs that are changed.
pub(super) fn epochs(count: u64) -> ProgressBar {
    if count < SHOWN_EPOCHS_MIN {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(count);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} epochs, {eta} left") {
        bar.set_style(style);
    }
    bar
}

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
