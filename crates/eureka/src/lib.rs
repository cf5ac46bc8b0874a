//! The registry protocol as real clients speak it: types, JSON, what a delta is, and a client.
//!
//! Written from the public behaviour of Netflix Eureka 1.x/2.x and its clients: what is written is exact, what is read
//! is lenient, since servers and clients of many ages are out there. XML is not in this version.

mod absent;
mod client;
mod codec;
mod delta;
mod instance;
mod observe;
mod registration;

pub use client::{BadUrl, Client, ClientError, Renewal};
pub use codec::{
    CodecError, applications_from_json, applications_to_json, instance_from_json, instance_to_json,
};
pub use delta::{apply_delta, hash_code};
pub use instance::{
    Action, Application, Applications, DataCenter, Instance, InstanceStatus, Lease, Port,
};
pub use observe::{Known, observe};
pub use registration::Registration;
