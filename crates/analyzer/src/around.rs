//! What the files of an input say for each other, read before the first is analysed: `.properties` files.
//!
//! Only those of the input itself count: what an archive inside it carries says nothing of the code around it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::Context;
use crate::intake::{EntryPath, Halt, Intake, Leaf, Limits, Meter, Sink, extension};
use crate::report::coverage::Row;
use crate::scan::Root;

/// Largest `.properties` file that is read, in bytes. A larger one is as if not there.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Files that are read.
const FILES_MAX: u32 = 10_000;
/// Bytes of all that are read.
const BYTES_MAX: u64 = 32 << 20;

/// Reads what the files of `roots` say for each other. `own` are the folders that the scan itself writes to.
///
/// # Errors
/// When the scan was cancelled.
pub(crate) fn look(
    roots: &[Root],
    own: &[PathBuf],
    limits: &Limits,
    scratch: &Path,
    cancelled: &Arc<AtomicBool>,
) -> Result<Context, Halt> {
    let mut reader = Reader {
        context: Context::default(),
        files: FILES_MAX,
        bytes: BYTES_MAX,
    };
    for root in roots {
        let meter = Meter::default();
        let opened = match root {
            Root::Folder(_) => None,
            // One that can't be opened is told when it is to be analysed.
            Root::File { path, .. } => match File::open(path) {
                Ok(file) => Some(file),
                Err(_) => continue,
            },
        };
        // The limits follow the size of the input.
        let size = opened.as_ref().and_then(|file| file.metadata().ok());
        meter
            .bytes_total
            .store(size.map_or(0, |size| size.len()), Ordering::Relaxed);
        let cancelled = Arc::clone(cancelled);
        let mut intake = Intake::new(limits.clone(), cancelled, &meter, scratch, &mut reader);
        match (root, opened) {
            (Root::Folder(path), _) => intake.folder(path, own)?,
            (Root::File { place, .. }, Some(mut file)) => intake.input(&mut file, place)?,
            (Root::File { .. }, None) => {}
        }
    }
    Ok(reader.context)
}

/// Reads `.properties` files and nothing else.
struct Reader {
    context: Context,
    /// What may still be read.
    files: u32,
    bytes: u64,
}

impl Sink for Reader {
    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<(), Halt> {
        if self.files == 0 || !self.wants(leaf.path) {
            return Ok(());
        }
        self.files -= 1;
        let most = FILE_BYTES_MAX.min(self.bytes);
        let mut text = Vec::new();
        let read = leaf.reader.take(most + 1).read_to_end(&mut text);
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_sub(bytes);
        // Half a file could say what the whole takes back.
        if read.is_ok() && bytes <= most {
            self.context.add_properties(&String::from_utf8_lossy(&text));
        }
        Ok(())
    }

    fn row(&mut self, _row: Row) -> Result<(), Halt> {
        Ok(())
    }

    fn opens_nested(&self) -> bool {
        false
    }

    fn wants(&self, path: &EntryPath) -> bool {
        is_properties(path)
    }
}

fn is_properties(path: &EntryPath) -> bool {
    extension(path.file_name()) == "properties"
}
