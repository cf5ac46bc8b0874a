use std::collections::BTreeMap;
use std::fmt;

/// What an instance says of itself. `UP` alone takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum InstanceStatus {
    Up,
    Down,
    Starting,
    OutOfService,
    #[default]
    Unknown,
}

impl InstanceStatus {
    /// As it is written: `OUT_OF_SERVICE`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Starting => "STARTING",
            Self::OutOfService => "OUT_OF_SERVICE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Reads what [`InstanceStatus::as_str`] writes, in any case.
    #[must_use]
    pub fn parse(written: &str) -> Option<Self> {
        [
            Self::Up,
            Self::Down,
            Self::Starting,
            Self::OutOfService,
            Self::Unknown,
        ]
        .into_iter()
        .find(|status| status.as_str().eq_ignore_ascii_case(written.trim()))
    }
}

impl fmt::Display for InstanceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a delta says happened to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Added,
    Modified,
    Deleted,
}

impl Action {
    /// As it is written: `ADDED`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    /// Reads what [`Action::as_str`] writes.
    #[must_use]
    pub fn parse(written: &str) -> Option<Self> {
        [Self::Added, Self::Modified, Self::Deleted]
            .into_iter()
            .find(|action| action.as_str() == written)
    }
}

/// A port and whether it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    pub enabled: bool,
}

/// Where an instance runs. `name` is `MyOwn` or `Amazon`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataCenter {
    /// The Java class that Netflix' clients need to read it.
    pub class: String,
    pub name: String,
    pub metadata: BTreeMap<String, String>,
}

impl Default for DataCenter {
    fn default() -> Self {
        Self {
            class: "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo".to_owned(),
            name: "MyOwn".to_owned(),
            metadata: BTreeMap::new(),
        }
    }
}

/// Times of a lease: seconds for lengths, milliseconds since 1970 for moments, 0 for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub renewal_interval_secs: u32,
    /// The lease ends so long after the last renewal.
    pub duration_secs: u32,
    pub registration_timestamp: i64,
    pub last_renewal_timestamp: i64,
    pub eviction_timestamp: i64,
    pub service_up_timestamp: i64,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            renewal_interval_secs: 30,
            duration_secs: 90,
            registration_timestamp: 0,
            last_renewal_timestamp: 0,
            eviction_timestamp: 0,
            service_up_timestamp: 0,
        }
    }
}

/// One instance of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Unique in its application.
    pub instance_id: String,
    pub host_name: String,
    /// The application's name, upper case.
    pub app: String,
    pub ip_addr: String,
    /// What it says, or what an operator set.
    pub status: InstanceStatus,
    /// What an operator set; `UNKNOWN` for nothing.
    pub overridden_status: InstanceStatus,
    pub port: Port,
    pub secure_port: Port,
    pub country_id: i64,
    pub data_center: DataCenter,
    pub lease: Lease,
    pub metadata: BTreeMap<String, String>,
    /// `homePageUrl`, `statusPageUrl`, `healthCheckUrl`, `secureHealthCheckUrl`, `vipAddress`, `secureVipAddress`,
    /// `appGroupName`, `asgName`: those that were given, as they were given.
    pub texts: BTreeMap<String, String>,
    pub is_coordinating: bool,
    /// Milliseconds since 1970.
    pub last_updated_timestamp: i64,
    /// Milliseconds since 1970: a copy with a higher one is newer.
    pub last_dirty_timestamp: i64,
    /// Only in a delta.
    pub action: Option<Action>,
}

impl Instance {
    /// An instance that is `UP` and listens on `port` of `address`, under the virtual address of its own name.
    #[must_use]
    pub fn new(app: &str, instance_id: &str, address: &str, port: u16) -> Self {
        let app = app.to_uppercase();
        let mut texts = BTreeMap::new();
        texts.insert("vipAddress".to_owned(), app.clone());
        texts.insert(
            "homePageUrl".to_owned(),
            format!("http://{address}:{port}/"),
        );
        Self {
            instance_id: instance_id.to_owned(),
            host_name: address.to_owned(),
            app,
            ip_addr: address.to_owned(),
            status: InstanceStatus::Up,
            overridden_status: InstanceStatus::Unknown,
            port: Port {
                number: port,
                enabled: true,
            },
            secure_port: Port {
                number: 443,
                enabled: false,
            },
            country_id: 1,
            data_center: DataCenter::default(),
            lease: Lease::default(),
            metadata: BTreeMap::new(),
            texts,
            is_coordinating: false,
            last_updated_timestamp: 0,
            last_dirty_timestamp: 0,
            action: None,
        }
    }

    /// All that can be compared of it but its lease and when the registry last heard of it.
    pub(crate) fn said(&self) -> impl PartialEq {
        // Named one by one: a field that is added must be looked at here.
        let Self {
            instance_id,
            host_name,
            app,
            ip_addr,
            status,
            overridden_status,
            port,
            secure_port,
            country_id,
            data_center,
            lease: _,
            metadata,
            texts,
            is_coordinating,
            last_updated_timestamp: _,
            last_dirty_timestamp,
            action,
        } = self;
        (
            (instance_id, host_name, app, ip_addr, port, secure_port),
            (status, overridden_status, action, last_dirty_timestamp),
            (country_id, data_center, metadata, texts, is_coordinating),
        )
    }

    /// The virtual addresses it answers to; several are separated by commas.
    pub fn vip_addresses(&self) -> impl Iterator<Item = &str> {
        split(self.texts.get("vipAddress"))
    }

    /// The virtual addresses of its secure port.
    pub fn secure_vip_addresses(&self) -> impl Iterator<Item = &str> {
        split(self.texts.get("secureVipAddress"))
    }
}

fn split(list: Option<&String>) -> impl Iterator<Item = &str> {
    list.map_or("", String::as_str)
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// The instances of one application.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Application {
    /// Upper case.
    pub name: String,
    pub instances: Vec<Instance>,
}

/// A registry's answer: all applications, or those of a delta.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applications {
    pub version: u64,
    /// Of the whole registry, also in a delta: `UP_2_`.
    pub hash_code: String,
    pub applications: Vec<Application>,
}

impl Applications {
    /// The instances of `name`, whatever the case.
    #[must_use]
    pub fn instances(&self, name: &str) -> &[Instance] {
        self.applications
            .iter()
            .find(|application| application.name.eq_ignore_ascii_case(name))
            .map_or(&[], |application| application.instances.as_slice())
    }

    /// Adds an instance to the application `name`, whatever the case, which may be new.
    pub(crate) fn add(&mut self, name: &str, instance: Instance) {
        match self.application(name) {
            Some(application) => application.instances.push(instance),
            None => self.applications.push(Application {
                name: name.to_owned(),
                instances: vec![instance],
            }),
        }
    }

    /// Takes an instance out. Its application stays, with or without others.
    pub(crate) fn remove(&mut self, name: &str, instance_id: &str) {
        if let Some(application) = self.application(name) {
            let others = |known: &Instance| known.instance_id != instance_id;
            application.instances.retain(others);
        }
    }

    fn application(&mut self, name: &str) -> Option<&mut Application> {
        self.applications
            .iter_mut()
            .find(|application| application.name.eq_ignore_ascii_case(name))
    }
}
