//! The hash state that an upload carries along, and the checksum of one request.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

/// How much is read back at once when the digests lag behind.
const READ_BACK: usize = 256 * 1024;

/// SHA-256 and BLAKE3 of the first `hashed` bytes.
#[derive(Clone)]
pub(super) struct Digests {
    hashed: u64,
    sha256: Sha256,
    blake3: Box<blake3::Hasher>,
}

impl Default for Digests {
    fn default() -> Self {
        Self {
            hashed: 0,
            sha256: Sha256::new(),
            blake3: Box::new(blake3::Hasher::new()),
        }
    }
}

impl Digests {
    /// How many bytes they cover.
    pub(super) fn hashed(&self) -> u64 {
        self.hashed
    }

    /// Takes the bytes that stand right behind what is covered.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.blake3.update(bytes);
        self.hashed += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }

    /// Reads at most `most` bytes back from `file`, up to the offset `end`.
    pub(super) fn catch_up(&mut self, file: &File, end: u64, most: u64) -> io::Result<()> {
        let end = end.min(self.hashed.saturating_add(most));
        let mut buffer = vec![0; READ_BACK];
        while self.hashed < end {
            let left = usize::try_from(end - self.hashed).unwrap_or(usize::MAX);
            let room = left.min(READ_BACK);
            let Some(part) = buffer.get_mut(..room) else {
                break;
            };
            file.read_exact_at(part, self.hashed)?;
            self.update(part);
        }
        Ok(())
    }

    /// SHA-256, then BLAKE3.
    pub(super) fn finish(&self) -> ([u8; 32], [u8; 32]) {
        (
            self.sha256.clone().finalize().into(),
            *self.blake3.finalize().as_bytes(),
        )
    }
}

/// The algorithms of tus' `Upload-Checksum` that are spoken here.
pub(super) const CHECKSUM_ALGORITHMS: &str = "sha1,sha256,blake3";

/// A request's checksum (tus 1.0, checksum extension): what is expected and the state so far.
pub(super) struct Checksum {
    expected: Vec<u8>,
    state: State,
}

enum State {
    Sha1(sha1::Sha1),
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Checksum {
    /// `None` for an algorithm that is not spoken or a value that can't be its digest.
    pub(super) fn new(algorithm: &str, expected: Vec<u8>) -> Option<Self> {
        let (state, length) = match algorithm {
            "sha1" => (State::Sha1(<sha1::Sha1 as sha1::Digest>::new()), 20),
            "sha256" => (State::Sha256(Sha256::new()), 32),
            "blake3" => (State::Blake3(Box::new(blake3::Hasher::new())), 32),
            _ => return None,
        };
        (expected.len() == length).then_some(Self { expected, state })
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha1(state) => sha1::Digest::update(state, bytes),
            State::Sha256(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// True when what came is what was announced.
    pub(super) fn matches(self) -> bool {
        match self.state {
            State::Sha1(state) => sha1::Digest::finalize(state)[..] == self.expected[..],
            State::Sha256(state) => state.finalize().as_slice() == self.expected,
            State::Blake3(state) => state.finalize().as_bytes().as_slice() == self.expected,
        }
    }
}
