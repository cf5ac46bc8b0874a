//! One attempt on this worker, from the first byte of its file to its removal.

use std::sync::{Arc, Mutex, PoisonError};

use munjigi_events::{AnalysisId, Status};
use munjigi_foundation::clock::Clock;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::folder::{Place, Stage, State};
use crate::log::{Draft, EventLog, Identity, LogError};

/// What the worker holds of one attempt.
#[derive(Debug)]
pub(crate) struct Job {
    state: Mutex<State>,
    pub(crate) place: Place,
    pub(crate) log: Arc<EventLog>,
    /// Asked to stop: it was cancelled. The model may end by itself.
    pub(crate) cancelled: CancellationToken,
    /// To stop at once: it was deleted, or the grace is over.
    pub(crate) stopped: CancellationToken,
    /// All that works on it. Nothing is removed while something does.
    pub(crate) tasks: TaskTracker,
    /// Removed once, whoever asks how often.
    pub(crate) removed: OnceCell<()>,
    /// Ends the sender of an attempt whose file was cut, before it is sent again.
    pub(crate) sending: Mutex<CancellationToken>,
}

impl Job {
    pub(crate) fn new(
        state: State,
        server: munjigi_events::ServerId,
        place: Place,
        clock: Clock,
        shutdown: &CancellationToken,
    ) -> Self {
        let identity = Identity {
            user: state.user.clone(),
            event: state.event.clone(),
            server,
            analysis: state.analysis.clone(),
            attempt: state.attempt,
        };
        let log = EventLog::new(identity, place.events(), state.first_seq, clock);
        Self {
            state: Mutex::new(state),
            place,
            log: Arc::new(log),
            cancelled: CancellationToken::new(),
            stopped: shutdown.child_token(),
            tasks: TaskTracker::new(),
            removed: OnceCell::new(),
            sending: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn analysis(&self) -> &AnalysisId {
        &self.log.identity().analysis
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.log.identity().attempt
    }

    /// Changes the state and keeps it, durably. Blocking.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = state.clone();
        change(&mut next);
        self.place.keep(&next)?;
        *state = next;
        Ok(())
    }

    /// Moves to `stage`, durably. Blocking.
    pub(crate) fn reach(&self, stage: Stage, clock: &Clock) -> std::io::Result<()> {
        self.change(|state| {
            state.stage = stage;
            state.since = clock.now();
        })
    }

    /// Keeps events, durably.
    pub(crate) async fn tell(&self, drafts: Vec<Draft>) -> Result<(), LogError> {
        if drafts.is_empty() {
            return Ok(());
        }
        let log = Arc::clone(&self.log);
        tokio::task::spawn_blocking(move || log.append(drafts))
            .await
            .unwrap_or_else(|error| Err(LogError::Io(std::io::Error::other(error))))
    }

    /// Keeps one event of `status`; what can't be kept is told to the log and changes nothing else.
    pub(crate) async fn tell_or_log(&self, draft: Draft) {
        let status: Status = draft.status;
        if let Err(error) = self.tell(vec![draft]).await {
            tracing::error!(analysis = %self.analysis(), %status, %error, "an event is missing");
        }
    }

    /// True once nothing of its work counts any more.
    pub(crate) fn is_over(&self) -> bool {
        self.cancelled.is_cancelled() || self.stopped.is_cancelled()
    }
}
