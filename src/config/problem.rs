//! What is wrong with a configuration, and where: collected, so that a user sees every mistake of a file at once.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Most problems kept of one configuration; the rest are counted.
pub const PROBLEMS_MAX: usize = 200;

/// A place in a configuration file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// Line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}", self.file.display()),
            line => write!(out, "{}:{line}:{}", self.file.display(), self.column),
        }
    }
}

/// One mistake, or one thing worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is written.
    pub place: Place,
    /// Which key, dotted, list elements numbered from 1 (`source[2].unit[1].every`); empty for a file as a whole.
    pub key: String,
    /// What is wrong, with the value and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.message)
    }
}

/// Every mistake of a configuration, in the order of the files; shown one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Errors {
    /// The mistakes; at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl fmt::Display for Errors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{problem}")?;
        }
        if self.more > 0 {
            write!(out, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

/// Collects problems while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    more: RefCell<usize>,
}

impl Report {
    /// Notes a mistake.
    pub(super) fn error(&self, place: &Place, key: impl Into<String>, message: impl Into<String>) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() >= PROBLEMS_MAX {
            *self.more.borrow_mut() += 1;
            return;
        }
        errors.push(Problem { place: place.clone(), key: key.into(), message: message.into() });
    }

    /// Notes something that works, yet probably not as meant.
    pub(super) fn warning(&self, place: &Place, key: impl Into<String>, message: impl Into<String>) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < PROBLEMS_MAX {
            warnings.push(Problem { place: place.clone(), key: key.into(), message: message.into() });
        }
    }

    /// The warnings, or the errors if there is one, in the order of `files` and of their lines.
    pub(super) fn finish(self, files: &[Arc<Path>]) -> Result<Vec<Problem>, Errors> {
        let order = |problem: &Problem| {
            let file = files.iter().position(|file| *file == problem.place.file).unwrap_or(files.len());
            (file, problem.place.line, problem.place.column)
        };
        let mut problems = self.errors.into_inner();
        if problems.is_empty() {
            let mut warnings = self.warnings.into_inner();
            warnings.sort_by_key(order);
            return Ok(warnings);
        }
        problems.sort_by_key(order);
        Err(Errors { problems, more: self.more.into_inner() })
    }
}
