//! Leases: who is registered, until when. No I/O, no clock: the time is given.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use munjigi_eureka::{Action, Application, Applications, Instance, InstanceStatus, hash_code};
use munjigi_foundation::clock::Timestamp;

/// How long a change stays in deltas. Clients ask every 30 s.
const DELTA: Duration = Duration::from_secs(180);
/// Changes kept for deltas at the most; with more, a client's hash code won't match and it fetches all.
const CHANGES_MAX: usize = 20_000;

/// What is held at the most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub instances: usize,
    /// Entries of one instance's metadata.
    pub metadata: usize,
    /// Bytes of one instance's metadata, names and values.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instances: 100_000,
            metadata: 128,
            metadata_bytes: 32 << 10,
        }
    }
}

/// Why an instance is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the registry holds {0} instances, no more fit")]
    Full(usize),
    #[error("an instance has at most {0} metadata entries")]
    Metadata(usize),
    #[error("the metadata of an instance has at most {0} bytes")]
    MetadataBytes(u64),
}

impl Limits {
    fn judge(&self, metadata: &BTreeMap<String, String>) -> Result<(), Refusal> {
        if metadata.len() > self.metadata {
            return Err(Refusal::Metadata(self.metadata));
        }
        let parts = metadata.iter().flat_map(|(name, value)| [name, value]);
        let bytes: usize = parts.map(String::len).sum();
        if u64::try_from(bytes).is_ok_and(|bytes| bytes <= self.metadata_bytes) {
            Ok(())
        } else {
            Err(Refusal::MetadataBytes(self.metadata_bytes))
        }
    }
}

/// Which state of the leases an answer is of: it differs when an answer would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revision {
    version: u64,
    /// Changes kept for deltas: they go with time, not with the version.
    changes: usize,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.version, self.changes)
    }
}

/// What a renewal finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    Yes,
    /// Not known, or known in an older state: the instance must register.
    Unknown,
}

#[derive(Debug)]
struct Entry {
    instance: Instance,
    renewed: Timestamp,
}

impl Entry {
    fn ends(&self) -> Timestamp {
        self.renewed.plus(Duration::from_secs(u64::from(
            self.instance.lease.duration_secs,
        )))
    }
}

#[derive(Debug)]
struct Change {
    at: Timestamp,
    instance: Instance,
}

/// Everything that is registered.
#[derive(Debug)]
pub struct Leases {
    limits: Limits,
    applications: BTreeMap<String, BTreeMap<String, Entry>>,
    /// What operators set, by application and instance; it outlives a registration anew, not the lease.
    overrides: BTreeMap<(String, String), InstanceStatus>,
    changes: VecDeque<Change>,
    version: u64,
    count: usize,
}

impl Leases {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            applications: BTreeMap::new(),
            overrides: BTreeMap::new(),
            changes: VecDeque::new(),
            version: 1,
            count: 0,
        }
    }

    /// Grows with each change that someone could see.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the answers of now are answers of.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision {
            version: self.version,
            changes: self.changes.len(),
        }
    }

    /// Registers an instance, or registers it anew.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn register(&mut self, mut instance: Instance, now: Timestamp) -> Result<(), Refusal> {
        self.limits.judge(&instance.metadata)?;
        let known = self.entry(&instance.app, &instance.instance_id);
        if known.is_none() && self.count >= self.limits.instances {
            return Err(Refusal::Full(self.limits.instances));
        }
        if let Some(known) = known
            && known.instance.last_dirty_timestamp > instance.last_dirty_timestamp
        {
            // An older copy that was long on its way renews the lease, and changes nothing.
            let duration_secs = instance.lease.duration_secs;
            instance = known.instance.clone();
            instance.lease.duration_secs = duration_secs;
        }
        let key = (instance.app.clone(), instance.instance_id.clone());
        let before = known.map(|entry| entry.instance.lease);
        let overridden = self.overrides.get(&key).copied().unwrap_or_default();
        instance.overridden_status = overridden;
        let silent = matches!(
            instance.status,
            InstanceStatus::Down | InstanceStatus::Starting
        );
        if overridden != InstanceStatus::Unknown && !silent {
            instance.status = overridden;
        }
        instance.lease.registration_timestamp =
            before.map_or(now.millis(), |lease| lease.registration_timestamp);
        instance.lease.last_renewal_timestamp = now.millis();
        instance.lease.service_up_timestamp = match before {
            Some(lease) if lease.service_up_timestamp > 0 => lease.service_up_timestamp,
            _ if instance.status == InstanceStatus::Up => now.millis(),
            _ => 0,
        };
        instance.last_updated_timestamp = now.millis();
        instance.action = None;
        let action = if before.is_some() {
            Action::Modified
        } else {
            Action::Added
        };
        self.changed(&instance, action, now);
        let replaced = self.applications.entry(key.0).or_default().insert(
            key.1,
            Entry {
                instance,
                renewed: now,
            },
        );
        self.count += usize::from(replaced.is_none());
        Ok(())
    }

    /// Renews a lease. `dirty` is the instance's own `lastDirtyTimestamp`, `status` what it says of itself now.
    pub fn renew(
        &mut self,
        application: &str,
        id: &str,
        dirty: Option<i64>,
        status: Option<InstanceStatus>,
        now: Timestamp,
    ) -> Renewed {
        let Some(entry) = self.entry_mut(application, id) else {
            return Renewed::Unknown;
        };
        let newer = dirty.is_some_and(|dirty| dirty > entry.instance.last_dirty_timestamp);
        if newer || entry.instance.status == InstanceStatus::Unknown {
            return Renewed::Unknown;
        }
        entry.renewed = now;
        entry.instance.lease.last_renewal_timestamp = now.millis();
        let overridden = entry.instance.overridden_status;
        if let Some(status) = status
            && status != entry.instance.status
            && overridden == InstanceStatus::Unknown
        {
            entry.instance.status = status;
            let instance = entry.instance.clone();
            self.changed(&instance, Action::Modified, now);
        }
        Renewed::Yes
    }

    /// Takes an instance out; true when it was there.
    pub fn cancel(&mut self, application: &str, id: &str, now: Timestamp) -> bool {
        self.remove(application, id, now).is_some()
    }

    /// Takes out those whose leases have ended.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Instance> {
        let ended: Vec<(String, String)> = self
            .entries()
            .filter(|entry| entry.ends() < now)
            .map(|entry| {
                (
                    entry.instance.app.clone(),
                    entry.instance.instance_id.clone(),
                )
            })
            .collect();
        let gone = ended
            .iter()
            .filter_map(|(application, id)| self.remove(application, id, now))
            .collect();
        while self
            .changes
            .front()
            .is_some_and(|change| change.at.plus(DELTA) < now)
        {
            self.changes.pop_front();
        }
        gone
    }

    /// Sets what an operator wants an instance's status to be, and renews it; false when it is not known.
    pub fn set_status(
        &mut self,
        application: &str,
        id: &str,
        status: InstanceStatus,
        now: Timestamp,
    ) -> bool {
        let Some(entry) = self.entry_mut(application, id) else {
            return false;
        };
        entry.instance.status = status;
        entry.instance.overridden_status = status;
        entry.renewed = now;
        let instance = entry.instance.clone();
        self.overrides.insert(key(application, id), status);
        self.changed(&instance, Action::Modified, now);
        true
    }

    /// Drops what an operator set. The instance is `status` from now on; when that is unknown, its next renewal is
    /// told to register. False when it is not known.
    pub fn drop_status(
        &mut self,
        application: &str,
        id: &str,
        status: InstanceStatus,
        now: Timestamp,
    ) -> bool {
        let Some(entry) = self.entry_mut(application, id) else {
            return false;
        };
        entry.instance.status = status;
        entry.instance.overridden_status = InstanceStatus::Unknown;
        let instance = entry.instance.clone();
        self.overrides.remove(&key(application, id));
        self.changed(&instance, Action::Modified, now);
        true
    }

    /// Adds to an instance's metadata; false when it is not known.
    ///
    /// # Errors
    /// When there would be too many entries, or bytes.
    pub fn add_metadata(
        &mut self,
        application: &str,
        id: &str,
        entries: impl Iterator<Item = (String, String)>,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        let limits = self.limits;
        let Some(entry) = self.entry_mut(application, id) else {
            return Ok(false);
        };
        let mut metadata = entry.instance.metadata.clone();
        metadata.extend(entries);
        limits.judge(&metadata)?;
        entry.instance.metadata = metadata;
        entry.instance.last_updated_timestamp = now.millis();
        let instance = entry.instance.clone();
        self.changed(&instance, Action::Modified, now);
        Ok(true)
    }

    /// Everything.
    #[must_use]
    pub fn all(&self) -> Applications {
        self.answer(|_| true)
    }

    /// The instances that `wanted` picks.
    #[must_use]
    pub fn answer(&self, wanted: impl Fn(&Instance) -> bool) -> Applications {
        let applications = self.applications.iter().filter_map(|(name, entries)| {
            let instances: Vec<Instance> = entries
                .values()
                .map(|entry| &entry.instance)
                .filter(|instance| wanted(instance))
                .cloned()
                .collect();
            (!instances.is_empty()).then(|| Application {
                name: name.clone(),
                instances,
            })
        });
        let applications: Vec<Application> = applications.collect();
        Applications {
            version: self.version,
            hash_code: hash_code(applications.iter().flat_map(|app| &app.instances)),
            applications,
        }
    }

    /// What changed within the last three minutes, each instance once, with the hash code of everything.
    #[must_use]
    pub fn delta(&self) -> Applications {
        let mut newest: BTreeMap<(&str, &str), &Instance> = BTreeMap::new();
        for change in &self.changes {
            let instance = &change.instance;
            newest.insert((&instance.app, &instance.instance_id), instance);
        }
        let mut applications: BTreeMap<&str, Vec<Instance>> = BTreeMap::new();
        for ((application, _), instance) in newest {
            applications
                .entry(application)
                .or_default()
                .push(instance.clone());
        }
        Applications {
            version: self.version,
            hash_code: hash_code(self.entries().map(|entry| &entry.instance)),
            applications: applications
                .into_iter()
                .map(|(name, instances)| Application {
                    name: name.to_owned(),
                    instances,
                })
                .collect(),
        }
    }

    /// The instances of one application.
    #[must_use]
    pub fn instances(&self, application: &str) -> Vec<Instance> {
        self.applications
            .get(&application.to_uppercase())
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(|entry| entry.instance.clone())
            .collect()
    }

    /// One instance.
    #[must_use]
    pub fn instance(&self, application: &str, id: &str) -> Option<Instance> {
        self.entry(application, id)
            .map(|entry| entry.instance.clone())
    }

    /// How many instances are registered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.applications.values().flat_map(BTreeMap::values)
    }

    fn entry(&self, application: &str, id: &str) -> Option<&Entry> {
        self.applications.get(&application.to_uppercase())?.get(id)
    }

    fn entry_mut(&mut self, application: &str, id: &str) -> Option<&mut Entry> {
        self.applications
            .get_mut(&application.to_uppercase())?
            .get_mut(id)
    }

    fn remove(&mut self, application: &str, id: &str, now: Timestamp) -> Option<Instance> {
        let name = application.to_uppercase();
        self.overrides.remove(&(name.clone(), id.to_owned()));
        let entries = self.applications.get_mut(&name)?;
        let mut instance = entries.remove(id)?.instance;
        if entries.is_empty() {
            self.applications.remove(&name);
        }
        self.count -= 1;
        instance.lease.eviction_timestamp = now.millis();
        self.changed(&instance, Action::Deleted, now);
        Some(instance)
    }

    fn changed(&mut self, instance: &Instance, action: Action, now: Timestamp) {
        self.version += 1;
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Change {
            at: now,
            instance: Instance {
                action: Some(action),
                ..instance.clone()
            },
        });
    }
}

fn key(application: &str, id: &str) -> (String, String) {
    (application.to_uppercase(), id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use munjigi_eureka::apply_delta;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn instance(id: &str, dirty: i64) -> Instance {
        let mut instance = Instance::new("app", id, "10.0.0.1", 80);
        instance.last_dirty_timestamp = dirty;
        instance.lease.duration_secs = 10;
        instance
    }

    fn leases() -> Leases {
        Leases::new(Limits {
            instances: 3,
            metadata: 2,
            metadata_bytes: 20,
        })
    }

    #[test]
    fn a_lease_ends_so_long_after_its_last_renewal() {
        let mut leases = leases();
        leases.register(instance("a", 1), at(0)).unwrap();
        assert!(leases.expire(at(10)).is_empty());
        assert_eq!(leases.renew("APP", "a", Some(1), None, at(9)), Renewed::Yes);
        assert!(leases.expire(at(19)).is_empty());
        assert_eq!(leases.expire(at(20)).len(), 1);
        assert_eq!(
            leases.renew("APP", "a", Some(1), None, at(20)),
            Renewed::Unknown
        );
        assert_eq!(leases.count(), 0);
    }

    #[test]
    fn a_newer_state_must_be_registered_and_an_older_one_changes_nothing() {
        let mut leases = leases();
        leases.register(instance("a", 5), at(0)).unwrap();
        assert_eq!(
            leases.renew("APP", "a", Some(6), None, at(1)),
            Renewed::Unknown
        );
        let mut older = instance("a", 4);
        older.metadata.insert("k".to_owned(), "old".to_owned());
        leases.register(older, at(2)).unwrap();
        assert!(leases.instance("APP", "a").unwrap().metadata.is_empty());
        assert!(leases.expire(at(12)).is_empty(), "it renewed the lease");
    }

    #[test]
    fn what_an_operator_sets_stays() {
        use InstanceStatus::{Down, OutOfService, Unknown, Up};
        let mut leases = leases();
        leases.register(instance("a", 1), at(0)).unwrap();
        assert!(leases.set_status("app", "a", OutOfService, at(1)));
        leases.renew("APP", "a", Some(1), Some(Up), at(2));
        assert_eq!(leases.instance("APP", "a").unwrap().status, OutOfService);
        leases.register(instance("a", 2), at(3)).unwrap();
        assert_eq!(leases.instance("APP", "a").unwrap().status, OutOfService);
        let mut down = instance("a", 3);
        down.status = Down;
        leases.register(down, at(4)).unwrap();
        assert_eq!(leases.instance("APP", "a").unwrap().status, Down);
        assert!(leases.drop_status("APP", "a", Unknown, at(5)));
        assert_eq!(
            leases.renew("APP", "a", Some(3), None, at(6)),
            Renewed::Unknown
        );
        assert!(!leases.set_status("APP", "b", Up, at(7)));
    }

    #[test]
    fn limits_hold() {
        let mut leases = leases();
        for id in ["a", "b", "c"] {
            leases.register(instance(id, 1), at(0)).unwrap();
        }
        assert_eq!(
            leases.register(instance("d", 1), at(0)),
            Err(Refusal::Full(3))
        );
        leases.register(instance("a", 2), at(0)).unwrap();
        let entries = |n: usize| (0..n).map(|i| (i.to_string(), "v".to_owned()));
        assert_eq!(leases.add_metadata("APP", "a", entries(2), at(1)), Ok(true));
        assert_eq!(
            leases.add_metadata("APP", "a", entries(3), at(1)),
            Err(Refusal::Metadata(2))
        );
        assert_eq!(
            leases.add_metadata("APP", "x", entries(1), at(1)),
            Ok(false)
        );
        let long = || [("name".to_owned(), "x".repeat(17))].into_iter();
        assert_eq!(
            leases.add_metadata("APP", "b", long(), at(1)),
            Err(Refusal::MetadataBytes(20))
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Register(u8, i64),
        Renew(u8),
        Cancel(u8),
        Wait(i64),
        Status(u8, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..5_u8, 0..9_i64).prop_map(|(id, dirty)| Step::Register(id, dirty)),
            (0..5_u8).prop_map(Step::Renew),
            (0..5_u8).prop_map(Step::Cancel),
            (0..8_i64).prop_map(Step::Wait),
            (0..5_u8, any::<bool>()).prop_map(|(id, up)| Step::Status(id, up)),
        ]
    }

    fn check_invariants(leases: &Leases, now: Timestamp) {
        let all = leases.all();
        let count: usize = all.applications.iter().map(|app| app.instances.len()).sum();
        assert_eq!(count, leases.count());
        assert!(count <= 3);
        assert!(all.applications.iter().all(|app| !app.instances.is_empty()));
        for instance in leases.instances("APP") {
            let renewed = Timestamp::from_millis(instance.lease.last_renewal_timestamp);
            assert!(renewed <= now && instance.action.is_none());
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_a_client_that_applies_deltas_sees_what_is_there(steps in prop::collection::vec(step(), 0..60)) {
            let mut leases = leases();
            let mut now = at(1_000);
            let mut seen = leases.all();
            for step in steps {
                let before = leases.version();
                match step {
                    Step::Register(id, dirty) => drop(leases.register(instance(&id.to_string(), dirty), now)),
                    Step::Renew(id) => drop(leases.renew("APP", &id.to_string(), None, None, now)),
                    Step::Cancel(id) => drop(leases.cancel("APP", &id.to_string(), now)),
                    Step::Wait(seconds) => {
                        now = now.plus(Duration::from_secs(seconds.unsigned_abs()));
                        for gone in leases.expire(now) {
                            prop_assert!(leases.instance("APP", &gone.instance_id).is_none());
                        }
                    }
                    Step::Status(id, up) => {
                        let status = if up { InstanceStatus::Up } else { InstanceStatus::OutOfService };
                        leases.set_status("APP", &id.to_string(), status, now);
                    }
                }
                prop_assert!(leases.version() >= before);
                check_invariants(&leases, now);
                prop_assert!(apply_delta(&mut seen, &leases.delta()));
                let shown = |all: &Applications| -> BTreeMap<String, InstanceStatus> {
                    all.instances("APP").iter().map(|i| (i.instance_id.clone(), i.status)).collect()
                };
                prop_assert_eq!(shown(&seen), shown(&leases.all()));
            }
        }
    }
}
