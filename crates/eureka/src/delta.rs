use std::collections::BTreeMap;

use crate::{Action, Applications, Instance};

/// The hash code of a set of instances: for each status, alphabetically, `STATUS_count_`; empty for none.
#[must_use]
pub fn hash_code<'i>(instances: impl Iterator<Item = &'i Instance>) -> String {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for instance in instances {
        *counts.entry(instance.status.as_str()).or_default() += 1;
    }
    counts
        .iter()
        .map(|(status, count)| format!("{status}_{count}_"))
        .collect()
}

/// Applies a delta to a copy of the registry; true when the copy has the hash code that the delta names. When it has
/// not, something was missed, and the whole registry is to be fetched.
pub fn apply_delta(all: &mut Applications, delta: &Applications) -> bool {
    for changed in &delta.applications {
        for instance in &changed.instances {
            all.remove(&changed.name, &instance.instance_id);
            if instance.action != Some(Action::Deleted) {
                let instance = Instance {
                    action: None,
                    ..instance.clone()
                };
                all.add(&changed.name, instance);
            }
        }
    }
    all.applications
        .retain(|application| !application.instances.is_empty());
    all.version = delta.version;
    all.hash_code = hash_code(all.applications.iter().flat_map(|app| &app.instances));
    all.hash_code == delta.hash_code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Application, InstanceStatus};

    fn instance(id: &str, status: InstanceStatus, action: Option<Action>) -> Instance {
        Instance {
            status,
            action,
            ..Instance::new("APP", id, "10.0.0.1", 80)
        }
    }

    fn applications(instances: Vec<Instance>, hash: &str) -> Applications {
        Applications {
            version: 1,
            hash_code: hash.to_owned(),
            applications: vec![Application {
                name: "APP".to_owned(),
                instances,
            }],
        }
    }

    #[test]
    fn a_hash_code_counts_statuses_alphabetically() {
        let all = [
            instance("a", InstanceStatus::Up, None),
            instance("b", InstanceStatus::Down, None),
            instance("c", InstanceStatus::Up, None),
        ];
        assert_eq!(hash_code(all.iter()), "DOWN_1_UP_2_");
        assert_eq!(hash_code([].iter()), "");
    }

    #[test]
    fn a_delta_adds_modifies_and_deletes() {
        use InstanceStatus::{Down, Up};
        let mut all = applications(
            vec![instance("a", Up, None), instance("b", Up, None)],
            "UP_2_",
        );
        let delta = applications(
            vec![
                instance("a", Up, Some(Action::Deleted)),
                instance("b", Down, Some(Action::Modified)),
                instance("c", Up, Some(Action::Added)),
            ],
            "DOWN_1_UP_1_",
        );
        assert!(apply_delta(&mut all, &delta));
        let left: Vec<_> = all
            .instances("app")
            .iter()
            .map(|i| (i.instance_id.as_str(), i.status))
            .collect();
        assert_eq!(left, [("b", Down), ("c", Up)]);
        assert!(all.instances("APP").iter().all(|i| i.action.is_none()));
        let wrong = applications(vec![], "UP_9_");
        assert!(!apply_delta(&mut all, &wrong));
    }

    #[test]
    fn an_application_without_instances_goes() {
        let mut all = applications(vec![instance("a", InstanceStatus::Up, None)], "UP_1_");
        let delta = applications(
            vec![instance("a", InstanceStatus::Up, Some(Action::Deleted))],
            "",
        );
        assert!(apply_delta(&mut all, &delta));
        assert!(all.applications.is_empty());
    }
}
