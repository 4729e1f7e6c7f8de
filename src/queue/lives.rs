//! The lives of this queue that may have written its cursor in Kafka: a random number each, in a small file.
//!
//! A copy of the state directory has the queue's identity and its runs. That two agents deliver under it shows in the
//! cursor: it bears the number of a life that this queue has never had.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::{Queue, disk};

/// Lives remembered; older ones have long been followed by a newer cursor.
const LIVES_MAX: usize = 64;
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 4096;

/// The lives of a queue, the present one last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lives {
    numbers: Vec<u64>,
}

impl Lives {
    #[cfg(test)]
    pub(crate) fn of(numbers: Vec<u64>) -> Self {
        Self { numbers }
    }

    /// Whether this queue has had this life.
    pub fn contains(&self, number: u64) -> bool {
        self.numbers.contains(&number)
    }

    /// The newest; 0 where none began.
    pub fn newest(&self) -> u64 {
        self.numbers.last().copied().unwrap_or_default()
    }

    fn encode(&self, queue: Uuid) -> Vec<u8> {
        let mut text = format!("queue {}\n", queue.simple());
        for number in &self.numbers {
            text.push_str(&format!("life {number:016x}\n"));
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc {crc:08x}\n"));
        text.into_bytes()
    }

    fn decode(text: &str, queue: Uuid) -> Option<Self> {
        let number = |line: &str| u64::from_str_radix(line.strip_prefix("life ")?, 16).ok();
        let lives = Self { numbers: text.lines().filter_map(number).collect() };
        (lives.encode(queue) == text.as_bytes()).then_some(lives)
    }
}

impl Queue {
    /// The lives so far. A file that is damaged or another queue's counts as none.
    pub fn lives(&self) -> Lives {
        read(&self.lives_file(), self.id())
    }

    /// Begins a life, durably: before its number is written anywhere else.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin_life(&self) -> io::Result<Lives> {
        let mut lives = self.lives();
        let (_, random) = Uuid::new_v4().as_u64_pair();
        lives.numbers.push(random);
        let surplus = lives.numbers.len().saturating_sub(LIVES_MAX);
        lives.numbers.drain(..surplus);
        disk::write_atomically(&self.lives_file(), &lives.encode(self.id()))?;
        Ok(lives)
    }

    fn lives_file(&self) -> PathBuf {
        self.inner().settings.dir.join("queue").join("lives")
    }
}

fn read(path: &Path, queue: Uuid) -> Lives {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Lives::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "lives of the queue cannot be read");
            Lives::default()
        }
        Ok(_) => Lives::decode(&text, queue).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "lives of the queue are damaged or another queue's");
            Lives::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_read_back_and_only_by_their_queue() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lives");
        let (queue, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        assert_eq!(read(&path, queue), Lives::default());
        let lives = Lives { numbers: vec![1, u64::MAX] };
        disk::write_atomically(&path, &lives.encode(queue)).unwrap();
        let back = read(&path, queue);
        assert!(back.contains(1) && back.newest() == u64::MAX && !back.contains(2));
        assert_eq!(read(&path, other), Lives::default(), "a queue of another identity has not lived");
        let mut damaged = lives.encode(queue);
        damaged[50] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(read(&path, queue), Lives::default());
    }

    #[test]
    fn the_largest_file_can_be_read() {
        let lives = Lives { numbers: vec![u64::MAX; LIVES_MAX] };
        assert!((lives.encode(Uuid::from_u128(7)).len() as u64) < FILE_BYTES_MAX);
    }
}
