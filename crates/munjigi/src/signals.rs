//! What the operator says by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::outcome::Failure;

/// SIGINT, SIGTERM, SIGHUP, SIGUSR2, from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user2: Signal,
}

/// What was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Drain and end (SIGINT, SIGTERM).
    Stop,
    /// Read the settings again (SIGHUP).
    Reload,
    /// Start another process in the place of this one (SIGUSR2).
    HandOver,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let on =
            |kind| signal(kind).map_err(|error| Failure::could_not(format!("no signals: {error}")));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            user2: on(SignalKind::user_defined2())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.terminate.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
            _ = self.user2.recv() => Told::HandOver,
        }
    }

    /// Ends once the process is told to stop, whatever else it is told.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
    }
}
