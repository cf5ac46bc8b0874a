//! What HTTP/2 has of its own: which protocols a listener and a service speak, and the limits of
//! one connection.

use std::time::Duration;

use munjigi_foundation::settings::{Size, Table};

/// A protocol above a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As the settings write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// The keys of `[gate.limits]` that begin with `http2_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Limits {
    /// Requests at once on one connection of a client.
    pub streams: u32,
    /// Bytes of one body that may wait in the gate for the other side.
    pub window: u32,
    /// Bytes of all bodies of one connection that may.
    pub connection_window: u32,
    /// Streams of one connection that a client may reset in 10 s, or make the gate reset.
    pub resets: u32,
    /// Frames that carry nothing, in 10 s, beyond those that go with data.
    pub frames: u32,
    /// Connections to one backend, of each thread.
    pub backend_connections: usize,
    /// Requests that may wait for a stream of one backend, in each thread.
    pub backend_queue: usize,
    /// How long a backend may be silent with requests under way before it is asked for a sign.
    pub ping: Duration,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            streams: 128,
            window: 256 * 1024,
            connection_window: 1024 * 1024,
            resets: 200,
            frames: 1_000,
            backend_connections: 4,
            backend_queue: 1_024,
            ping: Duration::from_secs(20),
        }
    }
}

pub(super) fn read_limits(table: &Table<'_>) -> Http2Limits {
    let defaults = Http2Limits::default();
    let size = |key, default: u32, most| {
        let read = table.within(key, Size(u64::from(default)), Size(64 << 10)..=Size(most));
        u32::try_from(read.bytes()).unwrap_or(default)
    };
    let ping = Duration::from_millis(100)..=Duration::from_secs(3_600);
    Http2Limits {
        streams: table.within("http2_streams", defaults.streams, 1..=10_000),
        window: size("http2_window", defaults.window, 16 << 20),
        connection_window: size(
            "http2_connection_window",
            defaults.connection_window,
            256 << 20,
        ),
        resets: table.within("http2_resets", defaults.resets, 1..=1_000_000),
        frames: table.within("http2_frames", defaults.frames, 10..=1_000_000),
        backend_connections: table.within(
            "http2_backend_connections",
            defaults.backend_connections,
            1..=256,
        ),
        backend_queue: table.within("http2_backend_queue", defaults.backend_queue, 1..=1_000_000),
        ping: table.duration("http2_ping", defaults.ping, ping),
    }
}
