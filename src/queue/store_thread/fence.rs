//! The fence around the block store: every call is timed for the watchdog, and a panic of the engine is an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::Driver;
use crate::metrics::ByKind;
use crate::queue::store::{BlockStore, StoreError};

impl Driver {
    /// Calls the store inside the fence: timed for the watchdog, panics caught.
    pub(super) fn fenced<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let began_ns = self.inner.now_ns().max(1);
        self.inner.store_busy_since_ns.store(began_ns, Ordering::Release);
        let outcome = catch_unwind(AssertUnwindSafe(|| call(self)));
        self.inner.store_busy_since_ns.store(0, Ordering::Release);
        outcome.unwrap_or_else(|panic| {
            self.after_panic();
            Err(failed("call of the store", anyhow::anyhow!("it panicked: {}", panic_text(&*panic)), self.dir()))
        })
    }

    /// A store that panicked is closed and opened once more; the second time it stays closed.
    fn after_panic(&mut self) {
        self.panics += 1;
        let store = self.store.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(store)));
        self.inner.metrics.queue_store_failures.get_or_create(&ByKind { kind: "panic" }).inc();
        if self.panics > 1 {
            self.inner.store_failed.store(true, Ordering::Release);
        }
    }

    /// A call of the store, fenced; an error where there is no store.
    pub(in crate::queue) fn with_store<T>(
        &mut self,
        call: impl FnOnce(&mut dyn BlockStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let dir = self.dir();
        self.fenced(|driver| match driver.store.as_deref_mut() {
            Some(store) => call(store),
            None => Err(not_open(dir)),
        })
    }

    /// What is asked of a store that is not open.
    pub(super) fn not_open(&self) -> StoreError {
        not_open(self.dir())
    }
}

fn not_open(dir: String) -> StoreError {
    failed("use of the store", anyhow::anyhow!("it is not open"), dir)
}

pub(super) fn failed(what: &'static str, source: anyhow::Error, path: String) -> StoreError {
    StoreError::Failed { what, path, source }
}

/// The error and its causes in one line.
pub(in crate::queue) fn error_text(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
