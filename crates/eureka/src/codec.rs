//! JSON as Netflix' codec writes it. Numbers that Java writes as text are text here too; readers take both.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{Action, Application, Applications, DataCenter, Instance, InstanceStatus, Lease, Port};

/// Why something is no instance, in the words of Netflix' server where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("not JSON: {0}")]
    Json(String),
    #[error("Missing instanceId")]
    InstanceId,
    #[error("Missing hostname")]
    HostName,
    #[error("Missing ip address")]
    Address,
    #[error("Missing appName")]
    App,
    #[error("Missing dataCenterInfo")]
    DataCenter,
    #[error("Missing dataCenterInfo Name")]
    DataCenterName,
    #[error("\"{0}\" is no port")]
    Port(String),
}

/// A lease that never ends would keep a dead instance for ever.
const LEASE_SECS_MAX: u32 = 86_400;

/// Fields that are passed through as they came.
const TEXTS: &[&str] = &[
    "homePageUrl",
    "statusPageUrl",
    "healthCheckUrl",
    "secureHealthCheckUrl",
    "vipAddress",
    "secureVipAddress",
    "appGroupName",
    "asgName",
];

/// Reads `{"instance":{…}}`, or the instance itself.
///
/// # Errors
/// When a field that every instance has is missing.
pub fn instance_from_json(json: &[u8]) -> Result<Instance, CodecError> {
    let value: Value =
        serde_json::from_slice(json).map_err(|error| CodecError::Json(error.to_string()))?;
    read_instance(value.get("instance").unwrap_or(&value))
}

/// Writes `{"instance":{…}}`.
#[must_use]
pub fn instance_to_json(instance: &Instance) -> Value {
    json!({"instance": write_instance(instance)})
}

/// Writes `{"applications":{…}}`.
#[must_use]
pub fn applications_to_json(applications: &Applications) -> Value {
    let list: Vec<Value> = applications
        .applications
        .iter()
        .map(|application| {
            let instances: Vec<Value> = application.instances.iter().map(write_instance).collect();
            json!({"name": application.name, "instance": instances})
        })
        .collect();
    // `application` is always an array: a client that finds none breaks.
    json!({"applications": {
        "versions__delta": applications.version.to_string(),
        "apps__hashcode": applications.hash_code,
        "application": list,
    }})
}

/// Reads `{"applications":{…}}`; an instance that can't be read is left out, as one that can't be used.
///
/// # Errors
/// When it is no JSON.
pub fn applications_from_json(json: &[u8]) -> Result<Applications, CodecError> {
    let value: Value =
        serde_json::from_slice(json).map_err(|error| CodecError::Json(error.to_string()))?;
    let outer = value.get("applications").unwrap_or(&value);
    let applications = one_or_many(outer.get("application"))
        .map(|application| Application {
            name: text(application, "name").unwrap_or_default().to_uppercase(),
            instances: one_or_many(application.get("instance"))
                .filter_map(|instance| read_instance(instance).ok())
                .collect(),
        })
        .collect();
    Ok(Applications {
        version: number(outer.get("versions__delta"))
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
        hash_code: text(outer, "apps__hashcode").unwrap_or_default(),
        applications,
    })
}

fn one_or_many(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    // Old servers write a single element without its array.
    let (many, one) = match value {
        Some(Value::Array(many)) => (many.as_slice(), None),
        Some(Value::Null) | None => (&[][..], None),
        Some(one) => (&[][..], Some(one)),
    };
    many.iter().chain(one)
}

fn text(value: &Value, name: &str) -> Option<String> {
    match value.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn flag(value: Option<&Value>) -> Option<bool> {
    match value? {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => Some(text.eq_ignore_ascii_case("true")),
        _ => None,
    }
}

fn port(value: Option<&Value>, default: Port) -> Result<Port, CodecError> {
    let (written, enabled) = match value {
        Some(object @ Value::Object(_)) => (object.get("$"), flag(object.get("@enabled"))),
        bare => (bare, None),
    };
    let number = match written {
        None | Some(Value::Null) => default.number,
        // Taken for another port, requests would go where nobody meant them to.
        Some(written) => number(Some(written))
            .and_then(|number| u16::try_from(number).ok())
            .ok_or_else(|| CodecError::Port(written.to_string()))?,
    };
    Ok(Port {
        number,
        enabled: enabled.unwrap_or(default.enabled),
    })
}

/// A status that no version of the protocol knows reads as `UNKNOWN`, as in Netflix' servers.
fn status(value: &Value, names: &[&str]) -> Option<InstanceStatus> {
    let written = names.iter().find_map(|name| text(value, name))?;
    Some(InstanceStatus::parse(&written).unwrap_or_default())
}

fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(entries)) = value else {
        return BTreeMap::new();
    };
    // How Java says "an empty map": a class, and nothing else.
    let class_only =
        entries.len() == 1 && entries.keys().all(|key| key == "@class" || key == "class");
    if class_only {
        return BTreeMap::new();
    }
    entries
        .keys()
        .filter_map(|key| Some((key.clone(), text(value?, key)?)))
        .collect()
}

fn read_instance(value: &Value) -> Result<Instance, CodecError> {
    let filled = |name: &str| text(value, name).filter(|text| !text.trim().is_empty());
    let metadata = texts(value.get("metadata"));
    let host_name = filled("hostName").ok_or(CodecError::HostName)?;
    let app = filled("app").ok_or(CodecError::App)?.to_uppercase();
    let data_center = data_center(value.get("dataCenterInfo").ok_or(CodecError::DataCenter)?)?;
    let instance_id = filled("instanceId")
        .or_else(|| data_center.metadata.get("instance-id").cloned())
        .or_else(|| {
            metadata
                .get("instanceId")
                .map(|id| format!("{host_name}:{id}"))
        })
        .unwrap_or_else(|| host_name.clone());
    Ok(Instance {
        instance_id,
        app,
        ip_addr: filled("ipAddr").ok_or(CodecError::Address)?,
        status: status(value, &["status"]).unwrap_or(InstanceStatus::Up),
        overridden_status: status(value, &["overriddenstatus", "overriddenStatus"])
            .unwrap_or_default(),
        port: port(
            value.get("port"),
            Port {
                number: 7001,
                enabled: true,
            },
        )?,
        secure_port: port(
            value.get("securePort"),
            Port {
                number: 7002,
                enabled: false,
            },
        )?,
        country_id: number(value.get("countryId")).unwrap_or(1),
        data_center,
        lease: lease(value.get("leaseInfo").unwrap_or(&Value::Null)),
        metadata,
        texts: TEXTS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), text(value, name)?)))
            .collect(),
        is_coordinating: flag(value.get("isCoordinatingDiscoveryServer")).unwrap_or(false),
        last_updated_timestamp: number(value.get("lastUpdatedTimestamp")).unwrap_or(0),
        last_dirty_timestamp: number(value.get("lastDirtyTimestamp")).unwrap_or(0),
        action: text(value, "actionType").and_then(|written| Action::parse(&written)),
        host_name,
    })
}

fn data_center(value: &Value) -> Result<DataCenter, CodecError> {
    let name = text(value, "name").ok_or(CodecError::DataCenterName)?;
    let class = text(value, "@class").or_else(|| text(value, "class"));
    Ok(DataCenter {
        class: class.unwrap_or_else(|| DataCenter::default().class),
        name,
        metadata: texts(value.get("metadata")),
    })
}

fn lease(value: &Value) -> Lease {
    let default = Lease::default();
    let moment = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| number(value.get(*name)))
            .unwrap_or(0)
    };
    let seconds = |name: &str, default: u32| {
        number(value.get(name))
            .and_then(|seconds| u32::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map_or(default, |seconds| seconds.min(LEASE_SECS_MAX))
    };
    Lease {
        renewal_interval_secs: seconds("renewalIntervalInSecs", default.renewal_interval_secs),
        duration_secs: seconds("durationInSecs", default.duration_secs),
        registration_timestamp: moment(&["registrationTimestamp"]),
        last_renewal_timestamp: moment(&["lastRenewalTimestamp", "renewalTimestamp"]),
        eviction_timestamp: moment(&["evictionTimestamp"]),
        service_up_timestamp: moment(&["serviceUpTimestamp"]),
    }
}

fn write_instance(instance: &Instance) -> Value {
    let port = |port: Port| json!({"$": port.number, "@enabled": port.enabled.to_string()});
    let mut center =
        json!({"@class": instance.data_center.class, "name": instance.data_center.name});
    if let (false, Some(center)) = (
        instance.data_center.metadata.is_empty(),
        center.as_object_mut(),
    ) {
        center.insert("metadata".to_owned(), json!(instance.data_center.metadata));
    }
    let metadata = if instance.metadata.is_empty() {
        json!({"@class": "java.util.Collections$EmptyMap"})
    } else {
        json!(instance.metadata)
    };
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("instanceId", json!(instance.instance_id));
    put("hostName", json!(instance.host_name));
    put("app", json!(instance.app));
    put("ipAddr", json!(instance.ip_addr));
    put("status", json!(instance.status.as_str()));
    put(
        "overriddenstatus",
        json!(instance.overridden_status.as_str()),
    );
    put("port", port(instance.port));
    put("securePort", port(instance.secure_port));
    put("countryId", json!(instance.country_id));
    put("dataCenterInfo", center);
    put("leaseInfo", write_lease(instance.lease));
    put("metadata", metadata);
    for (name, text) in &instance.texts {
        put(name, json!(text));
    }
    put(
        "isCoordinatingDiscoveryServer",
        json!(instance.is_coordinating.to_string()),
    );
    put(
        "lastUpdatedTimestamp",
        json!(instance.last_updated_timestamp.to_string()),
    );
    put(
        "lastDirtyTimestamp",
        json!(instance.last_dirty_timestamp.to_string()),
    );
    if let Some(action) = instance.action {
        put("actionType", json!(action.as_str()));
    }
    Value::Object(fields)
}

fn write_lease(lease: Lease) -> Value {
    json!({
        "renewalIntervalInSecs": lease.renewal_interval_secs,
        "durationInSecs": lease.duration_secs,
        "registrationTimestamp": lease.registration_timestamp,
        "lastRenewalTimestamp": lease.last_renewal_timestamp,
        "evictionTimestamp": lease.eviction_timestamp,
        "serviceUpTimestamp": lease.service_up_timestamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Value {
        json!({"instance": {
            "hostName": "m143", "app": "model-server", "ipAddr": "10.0.0.3",
            "dataCenterInfo": {"name": "MyOwn"},
        }})
    }

    fn read(value: &Value) -> Result<Instance, CodecError> {
        instance_from_json(value.to_string().as_bytes())
    }

    #[test]
    fn an_instance_is_written_as_java_does() {
        let mut instance = Instance::new("model-server", "m143:8000", "10.0.0.3", 8000);
        instance
            .metadata
            .insert("serverId".to_owned(), "143".to_owned());
        let value = instance_to_json(&instance);
        let value = &value["instance"];
        assert_eq!(value["app"], "MODEL-SERVER");
        assert_eq!(value["port"], json!({"$": 8000, "@enabled": "true"}));
        assert_eq!(value["lastDirtyTimestamp"], json!("0"));
        assert_eq!(value["isCoordinatingDiscoveryServer"], json!("false"));
        assert_eq!(value["leaseInfo"]["durationInSecs"], json!(90));
        assert_eq!(value["metadata"], json!({"serverId": "143"}));
        assert_eq!(read(&json!({"instance": value})).unwrap(), instance);
    }

    #[test]
    fn what_older_clients_send_is_read() {
        let mut value = minimal();
        value["instance"]["port"] = json!(8080);
        value["instance"]["securePort"] = json!({"$": "8443", "@enabled": true});
        value["instance"]["metadata"] = json!({"@class": "java.util.Collections$EmptyMap"});
        value["instance"]["lastDirtyTimestamp"] = json!(1_700_000_000_000_i64);
        value["instance"]["overriddenStatus"] = json!("OUT_OF_SERVICE");
        value["instance"]["leaseInfo"] = json!({"renewalTimestamp": "5", "durationInSecs": "7"});
        let instance = read(&value).unwrap();
        assert_eq!(instance.instance_id, "m143");
        assert_eq!((instance.port.number, instance.port.enabled), (8080, true));
        assert_eq!(
            (instance.secure_port.number, instance.secure_port.enabled),
            (8443, true)
        );
        assert!(instance.metadata.is_empty());
        assert_eq!(instance.last_dirty_timestamp, 1_700_000_000_000);
        assert_eq!(instance.overridden_status, InstanceStatus::OutOfService);
        assert_eq!(
            (
                instance.lease.last_renewal_timestamp,
                instance.lease.duration_secs
            ),
            (5, 7)
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (field, expected) in [
            ("hostName", CodecError::HostName),
            ("app", CodecError::App),
            ("ipAddr", CodecError::Address),
            ("dataCenterInfo", CodecError::DataCenter),
        ] {
            let mut value = minimal();
            value["instance"].as_object_mut().unwrap().remove(field);
            assert_eq!(read(&value).unwrap_err(), expected);
        }
        let mut value = minimal();
        value["instance"]["dataCenterInfo"] = json!({});
        assert_eq!(read(&value).unwrap_err(), CodecError::DataCenterName);
        value = minimal();
        value["instance"]["status"] = json!("FINE");
        assert_eq!(read(&value).unwrap().status, InstanceStatus::Unknown);
        value["instance"]["port"] = json!({"$": 70_000});
        assert_eq!(
            read(&value).unwrap_err(),
            CodecError::Port("70000".to_owned())
        );
        assert!(instance_from_json(b"{").is_err());
    }

    #[test]
    fn applications_are_read_as_written_and_from_single_elements() {
        let all = Applications {
            version: 7,
            hash_code: "UP_1_".to_owned(),
            applications: vec![Application {
                name: "APP".to_owned(),
                instances: vec![Instance::new("APP", "a", "10.0.0.1", 80)],
            }],
        };
        let value = applications_to_json(&all);
        assert_eq!(value["applications"]["versions__delta"], json!("7"));
        assert_eq!(
            applications_from_json(value.to_string().as_bytes()).unwrap(),
            all
        );
        let single = json!({"applications": {"application": {
            "name": "app", "instance": minimal()["instance"],
        }}});
        let read = applications_from_json(single.to_string().as_bytes()).unwrap();
        assert_eq!(read.instances("APP").len(), 1);
        let none = applications_to_json(&Applications::default());
        assert_eq!(none["applications"]["application"], json!([]));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(instance_from_json(&bytes));
            drop(applications_from_json(&bytes));
        }

        #[test]
        fn metadata_comes_back(entries in proptest::collection::btree_map("[a-zA-Z.-]{1,8}", ".{0,8}", 2..5)) {
            let mut instance = Instance::new("APP", "a", "10.0.0.1", 80);
            instance.metadata = entries;
            proptest::prop_assert_eq!(read(&instance_to_json(&instance)).unwrap(), instance);
        }
    }
}
