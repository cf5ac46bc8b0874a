//! Stage 2: gives up everything that the model must not have, then starts it.

use std::error::Error;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use landlock::RulesetCreated;
use rustix::fs::Mode;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getuid, set_parent_process_death_signal, setrlimit,
    umask, wait,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::processes::open_to_all;
use super::supervise::code_of;
use super::{COULD_NOT, Limits, Spec, filter, paths};

type Failed = Box<dyn Error>;

pub(super) fn run(spec: &OsStr) -> ExitCode {
    match start(spec) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The worker reads the model's lines from here.
            let line = serde_json::json!({"type": "error", "message": format!("sandbox: {error}")});
            drop(writeln!(std::io::stdout(), "{line}"));
            ExitCode::from(COULD_NOT)
        }
    }
}

fn start(spec: &OsStr) -> Result<u8, Failed> {
    let spec = spec.to_str().ok_or("the spec is no text")?;
    let (spec, namespaced): (Spec, bool) = serde_json::from_str(spec)?;
    close_on_start()?;
    umask(Mode::from_raw_mode(0o077));
    std::env::set_current_dir(&spec.temporary)
        .map_err(|error| format!("can't enter {}: {error}", spec.temporary.display()))?;
    // When memory runs out on the machine, the model goes before the worker does.
    drop(std::fs::write("/proc/self/oom_score_adj", "500"));
    limit(&spec.limits, namespaced || spec.user.is_some())?;
    if spec.confined {
        let rules = paths::rules(&spec)?;
        give_up_root(&spec)?;
        // After the change of user, which would undo it.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        confine(&spec, rules, namespaced)?;
    }
    let child = Command::new(&spec.program)
        .args(&spec.arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .env("TMPDIR", &spec.temporary)
        .env("HOME", &spec.temporary)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("can't start {}: {error}", spec.program.display()))?;
    let child = Pid::from_child(&child);
    loop {
        // In a process namespace this is its first process, to which orphans come.
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == child => return Ok(code_of(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Nothing but the three standard descriptors passes on, whoever forgot to say so.
#[expect(
    unsafe_code,
    reason = "there is no safe way to name descriptors that someone else left open"
)]
fn close_on_start() -> Result<(), Failed> {
    // SAFETY: marks descriptors to be closed by exec; none is closed or changes its meaning in this process.
    let failed = unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC.cast_signed(),
        )
    } != 0;
    if failed {
        return Err(format!("close_range: {}", std::io::Error::last_os_error()).into());
    }
    Ok(())
}

fn limit(limits: &Limits, own_count: bool) -> Result<(), Failed> {
    let both = |value: u64| Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    let mut bounds = vec![
        (Resource::Core, both(0)),
        // The tree is watched every 50 ms; this stops one process that is faster. Address space as such is not
        // bounded: runtimes reserve far more than they use.
        (
            Resource::Data,
            both(limits.memory.saturating_mul(2).saturating_add(1 << 30)),
        ),
        (
            Resource::Cpu,
            Rlimit {
                current: Some(limits.cpu),
                maximum: Some(limits.cpu.saturating_add(5)),
            },
        ),
        (Resource::Fsize, both(limits.file)),
        (Resource::Nofile, both(limits.open_files)),
    ];
    if own_count {
        // Counted by user and user namespace: without one of its own it would count the worker's other processes.
        bounds.push((Resource::Nproc, both(limits.processes.saturating_add(2))));
    }
    for (resource, bound) in bounds {
        let bound = below_hard(resource, bound);
        setrlimit(resource, bound).map_err(|error| format!("{resource:?}: {error}"))?;
    }
    Ok(())
}

/// A limit that is already lower stays.
fn below_hard(resource: Resource, bound: Rlimit) -> Rlimit {
    let hard = rustix::process::getrlimit(resource).maximum;
    let least = |value: Option<u64>| match (value, hard) {
        (Some(value), Some(hard)) => Some(value.min(hard)),
        (value, hard) => value.or(hard),
    };
    Rlimit {
        current: least(bound.current),
        maximum: least(bound.maximum),
    }
}

/// From root to the run's own user. One right may stay: to read and search what a folder on the way closes to others
/// (a data folder of mode 0700, a program below /root), which Landlock then bounds.
fn give_up_root(spec: &Spec) -> Result<(), Failed> {
    let Some(user) = spec.user.filter(|_| getuid().is_root()) else {
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    let closed = spec
        .read
        .iter()
        .chain(&spec.write)
        .chain([&spec.program])
        .any(|path| !open_to_all(path));
    let kept = if closed {
        CapabilitySet::DAC_READ_SEARCH
    } else {
        CapabilitySet::empty()
    };
    set_keep_capabilities(closed)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: kept,
        },
    )?;
    if closed {
        configure_capability_in_ambient_set(kept, true)?;
    }
    Ok(())
}

fn confine(spec: &Spec, rules: RulesetCreated, namespaced: bool) -> Result<(), Failed> {
    set_no_new_privs(true)?;
    let status = rules.restrict_self()?;
    paths::enforced(&status, namespaced)?;
    for program in filter::programs(spec)? {
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}
