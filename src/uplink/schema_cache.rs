//! Registered schemas on disk, one small file a stream: a boot without a registry goes on with them.
//!
//! A file that is damaged, or is of another registry, topic or form, counts as none: registering again gives the same
//! id for the same schema.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::encode::{Column, Columns, Plan, Registered};
use crate::queue::write_atomically;

/// Longest file: a thousand columns with names of 128 bytes, in JSON.
const FILE_BYTES_MAX: u64 = 2 << 20;
const VERSION: u32 = 1;

/// What a file holds, behind a line with its CRC-32C in hex.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    registry: String,
    subject: String,
    encoding: String,
    shape: String,
    id: u32,
    columns: Vec<Column>,
}

/// The directory of the files, and the registry they are of.
#[derive(Debug, Clone)]
pub struct SchemaCache {
    directory: PathBuf,
    registry: String,
}

impl SchemaCache {
    /// In the state directory; for the registry at this URL.
    pub fn new(state_dir: &Path, registry: String) -> Self {
        Self { directory: state_dir.join("schemas"), registry }
    }

    /// Stream names are letters, digits and `._-`.
    fn file(&self, stream: &str) -> PathBuf {
        self.directory.join(format!("{stream}.json"))
    }

    /// What was registered for a stream, if that is known and still fits `plan`.
    pub fn load(&self, stream: &str, plan: &Plan) -> Option<Registered> {
        let file = self.file(stream);
        let opened = std::fs::File::open(&file).ok()?;
        let mut text = String::new();
        let read = opened.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(anyhow::Error::from);
        match read.and_then(|_| parse(&text)) {
            Ok(content) if self.fits(&content, plan) => {
                Some(Registered { id: content.id, columns: Columns::from_list(content.columns) })
            }
            Ok(_) => None,
            Err(error) => {
                let file = file.display();
                tracing::warn!(%file, error = %format!("{error:#}"), "cached schema is not used; it is registered anew");
                None
            }
        }
    }

    /// Keeps what was registered for a stream; it survives a power cut from then on.
    ///
    /// # Errors
    /// The directory or the file cannot be written.
    pub fn store(&self, stream: &str, plan: &Plan, registered: &Registered) -> anyhow::Result<()> {
        let content = Content {
            version: VERSION,
            registry: self.registry.clone(),
            subject: plan.subject.clone(),
            encoding: plan.form.encoding.as_str().to_owned(),
            shape: plan.form.shape.as_str().to_owned(),
            id: registered.id,
            columns: registered.columns.list().to_vec(),
        };
        let json = serde_json::to_string(&content)?;
        let file = self.file(stream);
        std::fs::create_dir_all(&self.directory).with_context(|| self.directory.display().to_string())?;
        let text = format!("{:08x}\n{json}", crc32c::crc32c(json.as_bytes()));
        write_atomically(&file, text.as_bytes()).with_context(|| file.display().to_string())
    }

    fn fits(&self, content: &Content, plan: &Plan) -> bool {
        content.version == VERSION
            && content.registry == self.registry
            && content.subject == plan.subject
            && content.encoding == plan.form.encoding.as_str()
            && content.shape == plan.form.shape.as_str()
    }
}

fn parse(text: &str) -> anyhow::Result<Content> {
    let (sum, json) = text.split_once('\n').context("it has no checksum")?;
    anyhow::ensure!(
        u32::from_str_radix(sum, 16).ok() == Some(crc32c::crc32c(json.as_bytes())),
        "its checksum is wrong"
    );
    Ok(serde_json::from_str(json)?)
}
