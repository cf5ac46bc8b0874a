//! Any bytes as an upload: the intake ends, within its limits, and accounts for what it saw.
#![no_main]

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libfuzzer_sys::fuzz_target;
use munjigi_analyzer::intake::{EntryPath, Halt, Intake, Leaf, Limits, Meter, Sink, reason_of};
use munjigi_analyzer::report::coverage::{Row, Status};

/// Reads every file to its end and keeps nothing.
#[derive(Default)]
struct Drain {
    entries: u64,
}

impl Sink for Drain {
    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<(), Halt> {
        self.entries += 1;
        let mut buffer = [0; 4096];
        loop {
            match leaf.reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return reason_of(&error).map(|reason| assert!(!reason.is_empty())),
            }
        }
    }

    fn row(&mut self, row: Row) -> Result<(), Halt> {
        assert_eq!(
            row.reason.is_some(),
            row.status != Status::Analysed,
            "{row:?}"
        );
        self.entries += row.entries();
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let scratch = std::env::temp_dir();
    let mut file = tempfile::tempfile_in(&scratch).expect("a temporary file");
    file.write_all(bytes)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .expect("room for the input");
    let limits = Limits {
        expanded_bytes: Some(4 << 20),
        entries: 1000,
        memory_bytes: 1024,
        ..Limits::default()
    };
    let meter = Meter::default();
    meter
        .bytes_total
        .store(bytes.len() as u64, Ordering::Relaxed);
    for name in ["upload", "upload.zip", "upload.tar"] {
        let mut drain = Drain::default();
        file.seek(SeekFrom::Start(0)).expect("a regular file");
        Intake::new(limits.clone(), Arc::default(), &meter, &scratch, &mut drain)
            .input(&mut file, &EntryPath::new(name.as_bytes()))
            .expect("only a sink or a cancellation ends an intake early");
        let mut head = Vec::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut head))
            .expect("a regular file");
        assert_eq!(head, bytes, "an intake never changes its input");
    }
});
