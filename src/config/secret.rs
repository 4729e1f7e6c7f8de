//! Secrets: from a file or a systemd credential, never from the configuration itself or the command line.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::reader::Table;
use super::resolved::Secret;

/// Longest secret file in bytes.
const SECRET_BYTES_MAX: u64 = 4_096;

/// Whether secrets are read, and what their paths are relative to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Secrets<'a> {
    /// Files are opened; relative paths start at this directory.
    Read(&'a Path),
    /// No file is touched; secrets stay empty.
    Skip,
}

/// The password of a table with `password-file` or `password-credential`; `None` where it has neither.
pub(super) fn read(table: &Table<'_>, secrets: Secrets<'_>) -> Option<Secret> {
    let key = match (table.has("password-file"), table.has("password-credential")) {
        (false, false) => return None,
        (true, false) => "password-file",
        (false, true) => "password-credential",
        (true, true) => {
            let message = "password-file is written too; allowed: one of the two".to_owned();
            table.error(&table.place_of("password-credential"), "password-credential", message);
            return None;
        }
    };
    let written = table.text(key)?;
    let Secrets::Read(directory) = secrets else { return Some(Secret(String::new())) };
    let path = if key == "password-file" {
        directory.join(&written)
    } else {
        match credential(&written) {
            Ok(path) => path,
            Err(why) => {
                table.refuse(key, why);
                return None;
            }
        }
    };
    let secret = first_line(&path);
    secret.map_err(|why| table.refuse(key, &format!("cannot be used: {why}"))).ok().map(Secret)
}

/// Where systemd puts the credential of this name.
pub(super) fn credential(name: &str) -> Result<PathBuf, &'static str> {
    let is_name = !name.contains('/') && !matches!(name, "" | "." | "..");
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(credentials) if is_name => Ok(PathBuf::from(credentials).join(name)),
        Some(_) => Err("is not a file name"),
        None => Err("cannot be read: the environment has no CREDENTIALS_DIRECTORY"),
    }
}

fn first_line(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is not a file".to_owned());
    }
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("it is longer than {SECRET_BYTES_MAX} bytes"));
    }
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err("its first line is empty".to_owned()),
    }
}
