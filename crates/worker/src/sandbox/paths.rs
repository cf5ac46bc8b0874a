//! Which files a confined model may reach: the Landlock rules.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

use super::Spec;

/// The newest rights asked for; an older kernel gives what it knows.
const NEWEST: ABI = ABI::V9;

/// The system's programs and libraries, and what a runtime asks of a machine.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/alternatives",
    "/etc/localtime",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
];

/// What names and certificates need beside, where the network is open.
const NETWORK: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/ca-certificates",
    "/run/systemd/resolve",
];

/// Builds the rules for `spec`. Opens every path, so it must run before rights are given up.
///
/// # Errors
/// When the kernel refuses a rule.
pub(super) fn rules(spec: &Spec) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if !spec.network {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let read = AccessFs::from_read(NEWEST);
    let network: &[&str] = if spec.network { NETWORK } else { &[] };
    ruleset
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(network, read))?
        .add_rules(path_beneath_rules(&spec.read, read))?
        .add_rules(path_beneath_rules([PathBuf::from("/dev/null")], null()))?
        .add_rules(path_beneath_rules(&spec.write, write()))
}

/// Everything but devices, sockets, pipes, links and programs of its own making.
fn write() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

fn null() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
}

/// Whether what was promised is enforced. `namespaced`: an own process namespace keeps signals inside where Landlock
/// can't.
pub(super) fn enforced(status: &RestrictionStatus, namespaced: bool) -> Result<(), &'static str> {
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("Landlock enforces nothing here");
    }
    let scopes = matches!(
        status.landlock,
        LandlockStatus::Available { effective_abi, .. } if effective_abi >= ABI::V6
    );
    if scopes || namespaced {
        return Ok(());
    }
    Err(
        "signals can't be kept inside: Landlock is older than ABI 6 and there is no process namespace",
    )
}
