//! Which analysis goes to which worker. No I/O here.

use std::collections::{BTreeMap, BTreeSet};

use munjigi_events::{AnalysisId, ServerId, UserId};
use munjigi_foundation::clock::Timestamp;

/// Models that are named to who asked for another one.
const NAMED: usize = 20;

/// A worker, as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub server_id: ServerId,
    /// Models that it offers.
    pub models: Vec<String>,
    /// Free slots, as it said last.
    pub capacity: u32,
    /// It takes work: registered, `UP`, and drained by no gate's operator.
    pub up: bool,
    /// An operator drained it: what it has goes on.
    pub drained: bool,
}

/// An analysis that waits.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) analyze_id: AnalysisId,
    pub(crate) user_id: UserId,
    pub(crate) model: String,
    /// 1 comes first.
    pub(crate) priority: u32,
    pub(crate) since: Timestamp,
    /// A worker that can't be reached, or failed it: only when there is no other.
    pub(crate) avoid: Vec<ServerId>,
}

/// What one worker has to do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// Analyses placed there that have not ended.
    pub(crate) live: u32,
    /// Those that its `capacity` can't know of yet.
    pub(crate) unseen: u32,
}

/// Where each analysis goes, in this order; and why the others wait.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) placed: Vec<(AnalysisId, ServerId)>,
    pub(crate) waiting: Vec<(AnalysisId, String)>,
}

/// Places what waits: by priority, then the user with the least going on, then the oldest; each on the worker with the
/// most free slots that offers its model.
pub(crate) fn plan(
    mut waiting: Vec<Waiting>,
    workers: &[Worker],
    mut loads: BTreeMap<ServerId, Load>,
    mut of_user: BTreeMap<UserId, u32>,
) -> Plan {
    let mut plan = Plan::default();
    while !waiting.is_empty() {
        let first = waiting
            .iter()
            .enumerate()
            .min_by_key(|(_, one)| {
                let busy = of_user.get(&one.user_id).copied().unwrap_or(0);
                (one.priority, busy, one.since, one.analyze_id.clone())
            })
            .map_or(0, |(index, _)| index);
        let one = waiting.swap_remove(first);
        match choose(&one, workers, &loads) {
            Some(server) => {
                let load = loads.entry(server.clone()).or_default();
                load.live += 1;
                load.unseen += 1;
                *of_user.entry(one.user_id).or_default() += 1;
                plan.placed.push((one.analyze_id, server));
            }
            None => {
                let why = why_not(&one, workers);
                plan.waiting.push((one.analyze_id, why));
            }
        }
    }
    plan
}

fn choose(one: &Waiting, workers: &[Worker], loads: &BTreeMap<ServerId, Load>) -> Option<ServerId> {
    workers
        .iter()
        .filter(|worker| worker.up && worker.models.contains(&one.model))
        .filter_map(|worker| {
            let load = loads.get(&worker.server_id).copied().unwrap_or_default();
            let free = worker.capacity.saturating_sub(load.unseen);
            let avoided = one.avoid.contains(&worker.server_id);
            (free > 0).then_some((!avoided, free, std::cmp::Reverse(load.live), worker))
        })
        .max_by(|a, b| (a.0, a.1, a.2, &b.3.server_id).cmp(&(b.0, b.1, b.2, &a.3.server_id)))
        .map(|(_, _, _, worker)| worker.server_id.clone())
}

/// Why `one` waits, and what would not: shown to its user.
fn why_not(one: &Waiting, workers: &[Worker]) -> String {
    let offers = |worker: &&Worker| worker.models.contains(&one.model);
    let up = || workers.iter().filter(|worker| worker.up);
    if up().any(|worker| offers(&worker)) {
        return "all workers are busy".to_owned();
    }
    let model = &one.model;
    if workers
        .iter()
        .filter(|worker| worker.drained)
        .any(|worker| offers(&worker))
    {
        return format!("each worker that offers the model `{model}` is drained");
    }
    let offered: BTreeSet<&str> = up()
        .flat_map(|worker| &worker.models)
        .map(String::as_str)
        .collect();
    if offered.is_empty() {
        return format!("no worker offers the model `{model}`; none is there");
    }
    let more = if offered.len() > NAMED { ", …" } else { "" };
    let named: Vec<&str> = offered.into_iter().take(NAMED).collect();
    format!(
        "no worker offers the model `{model}`; offered: {}{more}",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: &str, models: &[&str], capacity: u32, up: bool) -> Worker {
        Worker {
            server_id: ServerId::from(id),
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            capacity,
            up,
            drained: false,
        }
    }

    fn waiting(id: &str, user: &str, priority: u32, since: i64) -> Waiting {
        Waiting {
            analyze_id: AnalysisId::from(id),
            user_id: UserId::from(user),
            model: "source".to_owned(),
            priority,
            since: Timestamp::from_millis(since),
            avoid: Vec::new(),
        }
    }

    fn placed(plan: &Plan) -> Vec<String> {
        plan.placed
            .iter()
            .map(|(analysis, server)| format!("{analysis}@{server}"))
            .collect()
    }

    #[test]
    fn the_least_loaded_worker_that_offers_the_model_is_taken() {
        let workers = [
            worker("a", &["source"], 1, true),
            worker("b", &["source", "deep"], 3, true),
            worker("c", &["deep"], 9, true),
            worker("d", &["source"], 9, false),
        ];
        let all = (0..5)
            .map(|n| waiting(&format!("x{n}"), "u", 3, n))
            .collect();
        let plan = plan(all, &workers, BTreeMap::new(), BTreeMap::new());
        assert_eq!(placed(&plan), ["x0@b", "x1@b", "x2@a", "x3@b"]);
        assert_eq!(
            plan.waiting,
            [(AnalysisId::from("x4"), "all workers are busy".to_owned())]
        );
    }

    #[test]
    fn who_waits_is_told_why_and_what_would_not() {
        let why = |workers: &[Worker]| {
            let one = vec![waiting("x", "u", 3, 0)];
            let plan = plan(one, workers, BTreeMap::new(), BTreeMap::new());
            assert!(plan.placed.is_empty());
            plan.waiting.into_iter().next().unwrap().1
        };
        let drained = Worker {
            up: false,
            drained: true,
            ..worker("a", &["source"], 1, true)
        };
        let others = [
            worker("a", &["slow", "deep"], 1, true),
            worker("b", &["deep"], 1, true),
            worker("c", &["source", "gone"], 1, false),
        ];
        let many: Vec<String> = (0..30).map(|n| format!("m{n:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(
            why(&[]),
            "no worker offers the model `source`; none is there"
        );
        assert_eq!(
            why(&others),
            "no worker offers the model `source`; offered: deep, slow"
        );
        assert_eq!(
            why(&[drained]),
            "each worker that offers the model `source` is drained"
        );
        assert_eq!(
            why(&[worker("a", &["source"], 0, true)]),
            "all workers are busy"
        );
        assert!(why(&[worker("a", &many, 1, true)]).ends_with("m18, m19, …"));
    }

    #[test]
    fn users_take_turns_and_priority_comes_first() {
        let workers = [worker("a", &["source"], 3, true)];
        let all = vec![
            waiting("greedy-1", "greedy", 3, 1),
            waiting("greedy-2", "greedy", 3, 2),
            waiting("late", "modest", 3, 9),
            waiting("urgent", "greedy", 1, 10),
        ];
        let plan = plan(all, &workers, BTreeMap::new(), BTreeMap::new());
        assert_eq!(placed(&plan), ["urgent@a", "late@a", "greedy-1@a"]);
    }

    #[test]
    fn a_worker_that_failed_it_is_the_last_choice() {
        let workers = [
            worker("a", &["source"], 9, true),
            worker("b", &["source"], 1, true),
        ];
        let mut one = waiting("x", "u", 3, 0);
        one.avoid.push(ServerId::from("a"));
        let two = Waiting {
            analyze_id: AnalysisId::from("y"),
            since: Timestamp::from_millis(1),
            ..one.clone()
        };
        let plan = plan(vec![one, two], &workers, BTreeMap::new(), BTreeMap::new());
        assert_eq!(placed(&plan), ["x@b", "y@a"]);
    }

    #[test]
    fn slots_that_the_registry_does_not_know_to_be_taken_count() {
        let workers = [worker("a", &["source"], 2, true)];
        let load = Load { live: 4, unseen: 2 };
        let loads = BTreeMap::from([(ServerId::from("a"), load)]);
        let plan = plan(
            vec![waiting("x", "u", 3, 0)],
            &workers,
            loads,
            BTreeMap::new(),
        );
        assert!(plan.placed.is_empty());
    }
}
