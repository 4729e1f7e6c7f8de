//! A file system of its own on a loop device: its power can be cut, it can be filled, run out of inodes, be made
//! read-only, and its device counts the sectors that are written. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long others may hold a file system that was unmounted.
const LETS_GO_MAX: Duration = Duration::from_secs(60);

/// An ext4 file system in a file, mounted by a loop device; unmounted when dropped.
pub struct LoopDisk {
    image: PathBuf,
    pub mount_point: PathBuf,
    _dir: tempfile::TempDir,
}

impl LoopDisk {
    pub fn make(mebibytes: u64) -> anyhow::Result<Self> {
        Self::make_with(mebibytes, &[])
    }

    /// With further arguments for `mkfs.ext4`.
    pub fn make_with(mebibytes: u64, arguments: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let image = dir.path().join("image");
        let mount_point = dir.path().join("mount");
        std::fs::create_dir(&mount_point)?;
        std::fs::File::create(&image)?.set_len(mebibytes << 20)?;
        run(Command::new("mkfs.ext4").arg("-q").arg("-F").args(arguments).arg(&image))?;
        let disk = Self { image, mount_point, _dir: dir };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> anyhow::Result<()> {
        run(Command::new("mount")
            .args(["-o", "loop,noatime,errors=remount-ro"])
            .arg(&self.image)
            .arg(&self.mount_point))
    }

    #[allow(dead_code, reason = "not all who use this module need it")]
    pub fn remount(&self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Unmounts it and waits until the device has let go of the image. A process that begins in a mount namespace of
    /// its own takes a copy of all mounts with it; mounted again before that is gone it would be the old file system,
    /// still without power.
    fn unmount(&self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.mount_point))?;
        let deadline = Instant::now() + LETS_GO_MAX;
        loop {
            let holders = Command::new("losetup").arg("-j").arg(&self.image).output().context("losetup")?;
            if holders.stdout.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "somebody else holds {}", self.mount_point.display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Cuts the power: what is not on the device by now is gone.
    #[allow(dead_code, reason = "not all who use this module need it")]
    pub fn shut_down(&self) -> anyhow::Result<()> {
        let file = std::fs::File::open(&self.mount_point)?;
        power::shut_down(&file).context("FS_IOC_SHUTDOWN")
    }

    /// Has the file system find an error, upon which it makes itself read-only, for open files too.
    #[allow(dead_code, reason = "not all who use this module need it")]
    pub fn break_down(&self) -> anyhow::Result<()> {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device()?);
        std::fs::write(&trigger, "storm").with_context(|| trigger.clone())
    }

    /// Repairs it as an administrator would and mounts it again.
    #[allow(dead_code, reason = "not all who use this module need it")]
    pub fn repair(&self) -> anyhow::Result<()> {
        self.unmount()?;
        // 1: errors were corrected.
        let status =
            Command::new("e2fsck").args(["-fp"]).arg(&self.image).stdout(std::process::Stdio::null()).status()?;
        anyhow::ensure!(matches!(status.code(), Some(0 | 1)), "e2fsck ended with {status}");
        self.mount()
    }

    /// The loop device's name, `loop3`.
    pub fn device(&self) -> anyhow::Result<String> {
        let output = Command::new("findmnt").args(["-no", "SOURCE"]).arg(&self.mount_point).output()?;
        let name = String::from_utf8(output.stdout)?;
        Ok(name.trim().trim_start_matches("/dev/").to_owned())
    }

    /// Bytes that the device was asked to write since it exists: the seventh number of its statistics, in sectors
    /// of 512 bytes (Documentation/block/stat.rst of Linux).
    #[allow(dead_code, reason = "not all who use this module need it")]
    pub fn written_bytes(&self) -> anyhow::Result<u64> {
        let path = format!("/sys/block/{}/stat", self.device()?);
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let sectors: u64 = text.split_whitespace().nth(6).with_context(|| path.clone())?.parse()?;
        Ok(sectors * 512)
    }

    /// Has the kernel write what it holds back.
    #[allow(dead_code, reason = "not all who use this module need it")]
    pub fn sync(&self) -> anyhow::Result<()> {
        let directory = std::fs::File::open(&self.mount_point)?;
        Ok(rustix::fs::syncfs(&directory)?)
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.mount_point));
    }
}

/// A directory under a read-only mount of itself: what is opened by path from now on cannot be written. Taken away when
/// dropped. (`remount,ro` of the whole is refused while a file is open for writing, as it always is here.)
#[allow(dead_code, reason = "not all who use this module need it")]
pub struct ReadOnly(PathBuf);

#[allow(dead_code, reason = "not all who use this module need it")]
impl ReadOnly {
    pub fn over(dir: &Path) -> anyhow::Result<Self> {
        run(Command::new("mount").arg("--bind").arg(dir).arg(dir))?;
        let over = Self(dir.to_owned());
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(dir))?;
        Ok(over)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok(())
}

/// The one ioctl that no safe crate wraps.
mod power {
    #![allow(unsafe_code)] // ioctl(2) that reads one integer of ours

    use std::os::fd::AsRawFd as _;

    /// `_IOR('X', 125, __u32)`, include/uapi/linux/fs.h of Linux.
    const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
    /// `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`: nothing more is written, not even the journal.
    const NO_LOG_FLUSH: u32 = 2;

    pub(super) fn shut_down(file: &std::fs::File) -> std::io::Result<()> {
        let flags = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open, and the pointer is to a live u32, which the call reads.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SHUTDOWN as _, &raw const flags) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}
