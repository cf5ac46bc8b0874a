//! What every role stands on, and nothing else: settings, telemetry, listening sockets, TLS, the JSON face, the clock.

pub mod api;
pub mod clock;
pub mod listen;
pub mod settings;
pub mod telemetry;
pub mod tls;
