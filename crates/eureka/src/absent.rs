//! Who stays known although a registry does not name it. A registry that was restarted knows nobody until everybody has
//! renewed; taking its word for it would cut off services that are well. Pure: no I/O, the time is given.

use tokio::time::Instant;

use crate::{Applications, Instance};

/// Instances that a registry knew before it was away, and has not named since.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    /// With the application's name and the time at which their leases would have ended.
    waiting: Vec<(String, Instance, Instant)>,
}

impl Absent {
    /// What is known after `fetched`. `known` is what was known before, `away` is true when the registry was out of
    /// reach or restarted meanwhile: whoever it does not name then gets the time of its lease, from now on, to come
    /// back.
    pub(crate) fn fill(
        &mut self,
        known: &Applications,
        mut fetched: Applications,
        away: bool,
        now: Instant,
    ) -> Applications {
        if away {
            self.wait_for_all(known, now);
        }
        self.waiting
            .retain(|(name, instance, until)| now < *until && !is_back(&fetched, name, instance));
        for (name, instance, _) in &self.waiting {
            fetched.add(name, instance.clone());
        }
        fetched
    }

    fn wait_for_all(&mut self, known: &Applications, now: Instant) {
        self.waiting.clear();
        for application in &known.applications {
            for instance in &application.instances {
                let lease = std::time::Duration::from_secs(u64::from(instance.lease.duration_secs));
                let waiting = (application.name.clone(), instance.clone(), now + lease);
                self.waiting.push(waiting);
            }
        }
    }
}

/// True when the registry names the instance again, or another that took its place.
fn is_back(fetched: &Applications, name: &str, instance: &Instance) -> bool {
    let server = instance.metadata.get("serverId");
    fetched.instances(name).iter().any(|other| {
        other.instance_id == instance.instance_id
            || (other.ip_addr == instance.ip_addr && other.port.number == instance.port.number)
            || (server.is_some() && other.metadata.get("serverId") == server)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn registry(instances: &[(&str, &str, u16)]) -> Applications {
        let mut all = Applications::default();
        for (name, id, port) in instances {
            let mut instance = Instance::new(name, id, "10.0.0.3", *port);
            instance.lease.duration_secs = 30;
            all.add(name, instance);
        }
        all
    }

    fn ids(all: &Applications) -> Vec<&str> {
        let instances = all.applications.iter().flat_map(|app| &app.instances);
        let mut ids: Vec<&str> = instances.map(|one| one.instance_id.as_str()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn whoever_a_restarted_registry_does_not_name_yet_stays_for_its_lease() {
        let (mut absent, start) = (Absent::default(), Instant::now());
        let known = registry(&[("HUB", "hub", 1), ("MODEL-SERVER", "a", 2)]);
        let at = |seconds| start + Duration::from_secs(seconds);
        let now = absent.fill(&known, registry(&[("MODEL-SERVER", "a", 2)]), true, start);
        assert_eq!(ids(&now), ["a", "hub"]);
        let now = absent.fill(&now, registry(&[]), false, at(29));
        assert_eq!(
            ids(&now),
            ["hub"],
            "a was named since, and is gone by the registry's word"
        );
        let now = absent.fill(&now, registry(&[]), false, at(30));
        assert!(ids(&now).is_empty());
    }

    #[test]
    fn whoever_is_back_or_replaced_is_not_there_twice() {
        for back in [("HUB", "hub", 9), ("hub", "other", 1)] {
            let (mut absent, start) = (Absent::default(), Instant::now());
            let known = registry(&[("HUB", "hub", 1)]);
            let now = absent.fill(&known, registry(&[back]), true, start);
            assert_eq!(ids(&now), [back.1]);
        }
        let mut known = registry(&[("MODEL-SERVER", "a", 1)]);
        let mut fetched = registry(&[("MODEL-SERVER", "b", 2)]);
        for all in [&mut known, &mut fetched] {
            let instance = &mut all.applications[0].instances[0];
            instance
                .metadata
                .insert("serverId".to_owned(), "143".to_owned());
        }
        let now = Absent::default().fill(&known, fetched, true, Instant::now());
        assert_eq!(ids(&now), ["b"], "a worker that started anew elsewhere");
    }

    #[test]
    fn a_registry_that_was_there_all_the_time_is_believed() {
        let known = registry(&[("HUB", "hub", 1)]);
        let now = Absent::default().fill(&known, registry(&[]), false, Instant::now());
        assert!(ids(&now).is_empty());
    }
}
