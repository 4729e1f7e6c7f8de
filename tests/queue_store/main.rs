//! Storms against the block store: kill -9, power cuts and a full disk, on real file systems.
//!
//! `cargo test --test storm -- --kills 20 --cuts 25 --full`. The program runs itself again as the writer; the writer
//! prints the last position of each group after `append` has returned. What was printed must be there afterwards.
//! Power cuts need root: an ext4 file system on a loop device is shut down by `FS_IOC_SHUTDOWN` without its log being
//! flushed, which loses the page cache and the uncommitted journal. Without root: exit code 77, "skipped".
#![allow(missing_docs)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use forebay::config::Compression;
use forebay::metrics::Metrics;
use forebay::queue::block::{SealContext, SealedBlock, open, seal};
use forebay::queue::recovery;
use forebay::queue::store::{BlockStore as _, StoreError};
use forebay::reading::{Field, Lineage, Name, Position, Record, Stamp, Trust, Value};

mod full;

const SKIPPED: u8 = 77;
const QUOTA_BYTES: u64 = 64 << 20;
const STREAM: &str = "telemetry";
const RECORDS: u64 = 60;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u32>().ok()
    };
    let result = match arguments.first().map(String::as_str) {
        Some("write") => write_for_ever(Path::new(&arguments[1])).map(|()| false),
        _ => storms(count("--kills").unwrap_or(10), count("--cuts"), arguments.iter().any(|a| a == "--full")),
    };
    match result {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(SKIPPED),
        Err(error) => {
            eprintln!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; `true` where some of it was skipped.
fn storms(kills: u32, cuts: Option<u32>, full: bool) -> anyhow::Result<bool> {
    let dir = tempfile::tempdir()?;
    let mut done = Durable::default();
    for kill in 0..kills {
        done.write_until(dir.path(), 3 + kill % 11, |_| Ok(()))?;
        done.check(dir.path()).with_context(|| format!("kill {kill}"))?;
    }
    println!("kill -9: {kills} of {kills} survived, {} blocks", done.last.map_or(0, |last| last / RECORDS + 1));
    if cuts.is_none() && !full {
        return Ok(false);
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(true);
    }
    if let Some(cuts) = cuts {
        let disk = LoopDisk::make(256)?;
        let mut done = Durable::default();
        for cut in 0..cuts {
            done.write_until(&disk.mount_point.join("state"), 2 + cut % 17, |_| disk.shut_down())?;
            disk.remount()?;
            done.check(&disk.mount_point.join("state")).with_context(|| format!("power cut {cut}"))?;
        }
        println!("power cut: {cuts} of {cuts} survived, {} blocks", done.last.map_or(0, |last| last / RECORDS + 1));
    }
    if full {
        fill_disk()?;
        full::beside_a_queue(&LoopDisk::make(96)?.mount_point)?;
        full::on_a_disk_smaller_than_the_quota(&LoopDisk::make(32)?.mount_point)?;
    }
    Ok(false)
}

/// What the writers have reported durable: all blocks of each life, up to this seq.
#[derive(Default)]
struct Durable {
    last: Option<u64>,
    lives: Vec<(u32, u64)>,
}

impl Durable {
    /// Starts a writer, lets it report `groups` groups, does `hit`, kills it.
    fn write_until(
        &mut self,
        dir: &Path,
        groups: u32,
        hit: impl Fn(&Child) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("write")
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .context("start writer")?;
        let output = child.stdout.take().context("writer's output")?;
        let mut reported = None;
        // Only what was read before the hit counts: later lines may have raced with it.
        for line in BufReader::new(output).lines().take(groups as usize) {
            let line = line?;
            let (run, seq) = line.split_once(' ').context("writer's line")?;
            reported = Some((run.parse()?, seq.parse()?));
        }
        let hit = hit(&child);
        child.kill()?;
        child.wait()?;
        hit?;
        let (run, seq) = reported.context("writer reported nothing")?;
        ensure!(self.lives.last().is_none_or(|(before, _)| *before < run), "run {run} was given twice");
        self.lives.push((run, seq));
        self.last = Some(self.last.map_or(seq, |last| last + seq + 1));
        Ok(())
    }

    /// Opens the queue and looks for every block that was reported durable.
    fn check(&self, dir: &Path) -> anyhow::Result<()> {
        let mut opened = recovery::open(dir, Some(QUOTA_BYTES), Metrics::new().0)?;
        ensure!(opened.lost.is_empty(), "lost ranges: {:?}", opened.lost);
        for (run, last) in &self.lives {
            let mut seq = 0;
            while seq <= *last {
                let at = Position::new(*run, seq);
                let block = opened.store.read(STREAM, at)?.with_context(|| format!("no block at {at}"))?;
                ensure!(block.header.first == at, "block at {at} is missing, next is {}", block.header.first);
                ensure!(open(&block, &Default::default())? == records_from(at), "block at {at} has other records");
                seq += RECORDS;
            }
        }
        opened.store.close()?;
        Ok(())
    }
}

/// The writer: a group of one to four blocks at a time, until it is killed or nobody listens.
fn write_for_ever(dir: &Path) -> anyhow::Result<()> {
    let mut opened = recovery::open(dir, Some(QUOTA_BYTES), Metrics::new().0)?;
    let run = opened.state_value.run;
    let mut seq = 0;
    for group in 0u64.. {
        let blocks = (0..1 + group % 4)
            .map(|n| block_at(Position::new(run, seq + n * RECORDS)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        seq += blocks.len() as u64 * RECORDS;
        opened.store.append(&blocks)?;
        if group % 5 == 0 {
            opened.state.save(&mut opened.state_value)?;
        }
        println!("{run} {}", seq - 1);
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn block_at(first: Position) -> anyhow::Result<SealedBlock> {
    let context = SealContext {
        stream: STREAM.into(),
        lineage: Arc::new(Lineage { gateway: "storm".into(), queue: uuid::Uuid::nil(), boot_index: 0 }),
        prev_last: None,
        cursor_at_seal: Position::ZERO,
        compression: Compression::None,
        keys: std::sync::Arc::default(),
    };
    seal(&context, &records_from(first))
}

fn records_from(first: Position) -> Vec<Record> {
    let text = |n: u64| format!("{:0>200}", first.packed().wrapping_mul(n + 3));
    (0..RECORDS)
        .map(|n| Record {
            position: Position::from_packed(first.packed() + n),
            skipped: 0,
            stamp: Stamp { boot_ns: n, wall_us: 0, trust: Trust::Ntp },
            source: Name::from("storm"),
            device: Name::from("device"),
            fields: vec![Field::new("text", Value::Text(text(n)))],
        })
        .collect()
}

/// Fills a small file system beside the queue: the append must be refused or fail cleanly, and go on once there is room.
fn fill_disk() -> anyhow::Result<()> {
    let disk = LoopDisk::make(96)?;
    let dir = disk.mount_point.join("state");
    let mut opened = recovery::open(&dir, Some(QUOTA_BYTES), Metrics::new().0)?;
    let mut seq = 0;
    let mut append = |opened: &mut recovery::Opened| -> Result<(), StoreError> {
        let block = block_at(Position::new(1, seq)).map_err(|source| StoreError::Failed {
            what: "seal",
            path: String::new(),
            source,
        })?;
        opened.store.append(&[block])?;
        seq += RECORDS;
        Ok(())
    };
    for _ in 0..100 {
        append(&mut opened)?;
    }
    let filler = disk.mount_point.join("filler");
    let mut file = std::fs::File::create(&filler)?;
    while file.write_all(&[1; 65536]).is_ok() {}
    drop(file);
    let refused = append(&mut opened).err().context("an append on a full disk went through")?;
    println!("full disk: {refused}");
    let mut at = Position::new(1, 0);
    for _ in 0..100 {
        let block = opened.store.read(STREAM, at)?.with_context(|| format!("no block at {at} on the full disk"))?;
        at = block.header.last.next();
    }
    std::fs::remove_file(&filler)?;
    append(&mut opened).context("append once there is room")?;
    println!("full disk: 100 of 100 blocks read, appends go on once there is room");
    Ok(())
}

/// An ext4 file system in a file, mounted by a loop device; unmounted when dropped.
struct LoopDisk {
    image: PathBuf,
    mount_point: PathBuf,
    _dir: tempfile::TempDir,
}

impl LoopDisk {
    fn make(mebibytes: u64) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let image = dir.path().join("image");
        let mount_point = dir.path().join("mount");
        std::fs::create_dir(&mount_point)?;
        std::fs::File::create(&image)?.set_len(mebibytes << 20)?;
        run(Command::new("mkfs.ext4").arg("-q").arg("-F").arg(&image))?;
        let disk = Self { image, mount_point, _dir: dir };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount_point))
    }

    fn remount(&self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.mount_point))?;
        self.mount()
    }

    /// Cuts the power: what is not on the device by now is gone.
    fn shut_down(&self) -> anyhow::Result<()> {
        let file = std::fs::File::open(&self.mount_point)?;
        power::shut_down(&file).context("FS_IOC_SHUTDOWN")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.mount_point));
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
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
