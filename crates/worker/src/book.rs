//! Which attempts the worker holds, which it will never take again, and whether there is room for one more. Decides;
//! does no I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use munjigi_events::AnalysisId;
use munjigi_foundation::clock::Timestamp;

/// How long it is remembered that an attempt was deleted, and for how many.
pub(crate) const FENCE_AGE: Duration = Duration::from_secs(7 * 86_400);
pub(crate) const FENCES_MAX: usize = 20_000;

/// Where an attempt stands on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its file arrives.
    Receiving,
    /// Its model runs, or its result is packed.
    Running,
    /// Its result can be fetched.
    Ready,
    /// Its file did not arrive whole; the same attempt may be sent again.
    Cut,
    /// The worker was restarted while it ran.
    Lost,
}

/// An attempt that the worker holds.
#[derive(Debug, Clone)]
pub(crate) struct Entry<J> {
    pub(crate) attempt: u32,
    pub(crate) phase: Phase,
    /// Being removed: answers as if it were gone.
    pub(crate) leaving: bool,
    pub(crate) job: J,
}

/// What an upload is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission<J> {
    /// There is room: it may arrive.
    Take,
    /// The same attempt arrived before, in part: it may arrive again, in the same folder.
    TakeAgain(J),
    /// It is here already.
    Here,
    /// It is arriving at this moment, by another connection.
    Arriving,
    /// It was lost at a restart.
    Lost,
    /// An attempt not older than this one was deleted or cancelled.
    Fenced(u32),
    /// A newer attempt is here.
    Older(u32),
    /// An older attempt is here and must be removed first.
    Supersedes(u32),
    /// All slots are taken.
    Full,
}

/// What a question for an attempt is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<J> {
    Here(Phase, J),
    /// Deleted, or replaced by a newer attempt.
    Deleted,
    Unknown,
}

/// The attempts of one worker. `J` is what the worker needs to work on one.
#[derive(Debug)]
pub(crate) struct Book<J> {
    slots: usize,
    entries: BTreeMap<AnalysisId, Entry<J>>,
    fences: BTreeMap<AnalysisId, Fence>,
}

/// All attempts up to this one are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Fence {
    pub(crate) attempt: u32,
    pub(crate) at: Timestamp,
}

impl<J: Clone> Book<J> {
    pub(crate) fn new(slots: usize, fences: BTreeMap<AnalysisId, Fence>) -> Self {
        Self {
            slots,
            entries: BTreeMap::new(),
            fences,
        }
    }

    /// Whether attempt `attempt` of `id` may be sent now.
    pub(crate) fn admit(&self, id: &AnalysisId, attempt: u32) -> Admission<J> {
        if let Some(fence) = self.fences.get(id).filter(|fence| attempt <= fence.attempt) {
            return Admission::Fenced(fence.attempt);
        }
        let Some(entry) = self.entries.get(id) else {
            return self.room(Admission::Take);
        };
        if attempt < entry.attempt {
            return Admission::Older(entry.attempt);
        }
        if attempt > entry.attempt {
            return Admission::Supersedes(entry.attempt);
        }
        if entry.leaving {
            return Admission::Fenced(attempt);
        }
        match entry.phase {
            Phase::Running | Phase::Ready => Admission::Here,
            Phase::Receiving => Admission::Arriving,
            Phase::Lost => Admission::Lost,
            Phase::Cut => self.room(Admission::TakeAgain(entry.job.clone())),
        }
    }

    fn room(&self, admission: Admission<J>) -> Admission<J> {
        if self.free_slots() > 0 {
            admission
        } else {
            Admission::Full
        }
    }

    /// Slots that no analysis uses.
    pub(crate) fn free_slots(&self) -> usize {
        self.slots.saturating_sub(
            self.count(|entry| matches!(entry.phase, Phase::Receiving | Phase::Running)),
        )
    }

    fn count(&self, which: impl Fn(&Entry<J>) -> bool) -> usize {
        self.entries.values().filter(|entry| which(entry)).count()
    }

    /// Attempts in `phase`.
    pub(crate) fn in_phase(&self, phase: Phase) -> usize {
        self.count(|entry| entry.phase == phase)
    }

    pub(crate) fn insert(&mut self, id: AnalysisId, attempt: u32, phase: Phase, job: J) {
        let entry = Entry {
            attempt,
            phase,
            leaving: false,
            job,
        };
        self.entries.insert(id, entry);
    }

    /// Moves an attempt on; false when it is no longer here, or on its way out.
    pub(crate) fn advance(&mut self, id: &AnalysisId, attempt: u32, phase: Phase) -> bool {
        match self.entries.get_mut(id) {
            Some(entry) if entry.attempt == attempt => {
                entry.phase = phase;
                !entry.leaving
            }
            _ => false,
        }
    }

    /// Looks for an attempt; for the one that is here when none is named.
    pub(crate) fn find(&self, id: &AnalysisId, attempt: Option<u32>) -> Found<J> {
        let fenced = self.fences.get(id).map_or(0, |fence| fence.attempt);
        match self.entries.get(id) {
            Some(entry) if attempt.is_none_or(|wanted| wanted == entry.attempt) => {
                if entry.leaving {
                    Found::Deleted
                } else {
                    Found::Here(entry.phase, entry.job.clone())
                }
            }
            Some(entry) if attempt.is_some_and(|wanted| wanted < entry.attempt) => Found::Deleted,
            _ if fenced > 0 && attempt.is_none_or(|wanted| wanted <= fenced) => Found::Deleted,
            _ => Found::Unknown,
        }
    }

    /// Ends all attempts up to `attempt` (the one that is here when none is named). Returns the fence to keep, and the
    /// job to stop, when there is one.
    pub(crate) fn fence(
        &mut self,
        id: &AnalysisId,
        attempt: Option<u32>,
        now: Timestamp,
    ) -> (Option<Fence>, Option<J>) {
        let here = self.entries.get_mut(id);
        let Some(upto) = attempt.or(here.as_ref().map(|entry| entry.attempt)) else {
            return (None, None);
        };
        let job = here.filter(|entry| entry.attempt <= upto).map(|entry| {
            entry.leaving = true;
            entry.job.clone()
        });
        let upto = upto.max(self.fences.get(id).map_or(0, |fence| fence.attempt));
        let fence = Fence {
            attempt: upto,
            at: now,
        };
        self.fences.insert(id.clone(), fence);
        (Some(fence), job)
    }

    /// Drops an attempt that is gone from the disk.
    pub(crate) fn remove(&mut self, id: &AnalysisId, attempt: u32) {
        if self
            .entries
            .get(id)
            .is_some_and(|entry| entry.attempt == attempt)
        {
            self.entries.remove(id);
        }
    }

    /// Every attempt that is here.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&AnalysisId, &Entry<J>)> {
        self.entries.iter()
    }

    /// Forgets fences that are too old, and the oldest beyond the limit. Returns those that stay, when some went.
    pub(crate) fn forget(&mut self, now: Timestamp) -> Option<&BTreeMap<AnalysisId, Fence>> {
        let before = self.fences.len();
        self.fences
            .retain(|_, fence| now.since(fence.at) < FENCE_AGE);
        if self.fences.len() > FENCES_MAX {
            let mut times: Vec<Timestamp> = self.fences.values().map(|fence| fence.at).collect();
            times.sort_unstable();
            let cut = times
                .get(self.fences.len() - FENCES_MAX)
                .copied()
                .unwrap_or(now);
            self.fences.retain(|_, fence| fence.at >= cut);
        }
        (self.fences.len() < before).then_some(&self.fences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book<&'static str> {
        Book::new(2, BTreeMap::new())
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn an_attempt_is_admitted_once_and_never_an_older_one() {
        let mut book = book();
        let id = AnalysisId::from("a");
        assert_eq!(book.admit(&id, 2), Admission::Take);
        book.insert(id.clone(), 2, Phase::Receiving, "job");
        assert_eq!(book.admit(&id, 2), Admission::Arriving);
        assert_eq!(book.admit(&id, 1), Admission::Older(2));
        assert_eq!(book.admit(&id, 3), Admission::Supersedes(2));
        assert!(book.advance(&id, 2, Phase::Running));
        assert_eq!(book.admit(&id, 2), Admission::Here);
        book.advance(&id, 2, Phase::Cut);
        assert_eq!(book.admit(&id, 2), Admission::TakeAgain("job"));
        book.advance(&id, 2, Phase::Lost);
        assert_eq!(book.admit(&id, 2), Admission::Lost);
    }

    #[test]
    fn slots_are_those_of_what_arrives_or_runs() {
        let mut book = book();
        book.insert("a".into(), 1, Phase::Receiving, "a");
        book.insert("b".into(), 1, Phase::Running, "b");
        assert_eq!(book.admit(&"c".into(), 1), Admission::Full);
        book.advance(&"b".into(), 1, Phase::Ready);
        assert_eq!(book.admit(&"c".into(), 1), Admission::Take);
        book.advance(&"a".into(), 1, Phase::Cut);
        assert_eq!(book.free_slots(), 2);
    }

    #[test]
    fn a_fence_ends_all_attempts_up_to_it_and_no_newer_one() {
        let mut book = book();
        let id = AnalysisId::from("a");
        // Nothing here and none named: nothing to fence.
        assert_eq!(book.fence(&id, None, at(1)), (None, None));
        assert_eq!(book.find(&id, None), Found::Unknown);
        book.insert(id.clone(), 3, Phase::Running, "third");
        // An older attempt never touches a newer one.
        let (fence, job) = book.fence(&id, Some(2), at(2));
        assert_eq!((fence.map(|fence| fence.attempt), job), (Some(2), None));
        assert_eq!(book.find(&id, None), Found::Here(Phase::Running, "third"));
        assert_eq!(book.find(&id, Some(2)), Found::Deleted);
        assert_eq!(book.find(&id, Some(4)), Found::Unknown);
        let (fence, job) = book.fence(&id, None, at(3));
        assert_eq!(
            (fence.map(|fence| fence.attempt), job),
            (Some(3), Some("third"))
        );
        assert_eq!(book.find(&id, Some(3)), Found::Deleted);
        assert_eq!(book.admit(&id, 3), Admission::Fenced(3));
        // The model may still be ending: its slot is not free before it is gone.
        assert_eq!(book.free_slots(), 1);
        book.remove(&id, 3);
        assert_eq!(book.free_slots(), 2);
        assert_eq!(book.find(&id, None), Found::Deleted);
        // A late, lower fence does not lower it.
        book.fence(&id, Some(1), at(4));
        assert_eq!(book.admit(&id, 3), Admission::Fenced(3));
        assert_eq!(book.admit(&id, 4), Admission::Take);
    }

    #[test]
    fn fences_are_forgotten_by_age_and_number() {
        let mut book = book();
        book.fence(&"old".into(), Some(1), at(0));
        let week = i64::try_from(FENCE_AGE.as_millis()).unwrap();
        for number in 0..FENCES_MAX + 5 {
            let time = week + i64::try_from(number).unwrap();
            book.fence(&format!("a{number}").into(), Some(1), at(time));
        }
        let kept = book.forget(at(week + 100_000)).map(BTreeMap::len);
        assert_eq!(kept, Some(FENCES_MAX));
        assert_eq!(book.find(&"old".into(), Some(1)), Found::Unknown);
        assert_eq!(book.find(&"a4".into(), Some(1)), Found::Unknown);
        assert_eq!(book.find(&"a5".into(), Some(1)), Found::Deleted);
        assert_eq!(book.forget(at(week + 100_000)).map(BTreeMap::len), None);
    }
}
