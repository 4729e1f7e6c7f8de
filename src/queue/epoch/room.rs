//! Whether there is room: by the quota, and on the file system beside the reserve.

use super::{EpochStore, failure};
use crate::queue::disk;
use crate::queue::store::{BlockStore as _, StoreError};

impl EpochStore {
    pub(super) fn check_room(&self, needed_bytes: u64) -> Result<(), StoreError> {
        let by_quota = self.quota_bytes.saturating_sub(self.disk_bytes());
        let free_bytes = disk::free_bytes(&self.queue_dir)
            .map_err(|error| failure("ask for free space", &self.queue_dir)(error.into()))?;
        let reserve_bytes = disk::ballast_bytes(self.quota_bytes);
        let left = by_quota.min(free_bytes.saturating_sub(reserve_bytes));
        if needed_bytes <= left {
            return Ok(());
        }
        let path = self.queue_dir.display().to_string();
        Err(StoreError::Full {
            needed_bytes,
            free_bytes: left,
            path,
            outside: needed_bytes <= by_quota && free_bytes < reserve_bytes / 2,
        })
    }

    /// Whether less is free than the reserve that appends leave untouched: others have filled the disk.
    pub(super) fn is_disk_full(&self) -> bool {
        disk::free_bytes(&self.queue_dir).is_ok_and(|free| free < disk::ballast_bytes(self.quota_bytes))
    }
}
