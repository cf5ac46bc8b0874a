//! Which system calls a confined model may make: the seccomp filters.
//!
//! What is not named is allowed, because any program may be a model; what reaches other processes, the kernel or the
//! network is named. Calls newer than this list do not exist for the model.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::Spec;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Always refused with `EPERM`.
const REFUSED: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Mounts, namespaces, roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Files without their path: Landlock judges paths.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // The kernel's keys, programs, modules, events, clock and power.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_vhangup,
    // Memory and messages that no process owns: the watch on memory would not see them.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];

/// Do not exist (`ENOSYS`), so that a program falls back: `clone3` hides its flags from a filter, `memfd` its pages
/// from the watch on memory.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
];

/// With no network: refused as far as they name an address, or make a socket that could reach one.
const ADDRESSES: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// Change a file's owner, mode or times by its path or descriptor, which Landlock does not judge. Done for show only
/// where the model has the worker's own user.
const ATTRIBUTES: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The newest call that this list was judged against (`mseal`).
const NEWEST_CALL: u32 = 462;
/// Set in the numbers of the x32 ABI.
const X32: u32 = 0x4000_0000;

/// The programs to install, one after another: the strictest answer of all counts.
pub(super) fn programs(spec: &Spec) -> Result<Vec<BpfProgram>, BackendError> {
    let errno = |number: libc::c_int| SeccompAction::Errno(number.unsigned_abs());
    let mut programs = vec![
        known_calls(),
        compile(whole(ABSENT), errno(libc::ENOSYS))?,
        compile(refused(spec.network)?, errno(libc::EPERM))?,
        compile(sockets(spec.network)?, errno(libc::EACCES))?,
    ];
    if spec.user.is_none() {
        programs.push(compile(whole(ATTRIBUTES), errno(0))?);
    }
    Ok(programs)
}

fn compile(rules: Rules, action: SeccompAction) -> Result<BpfProgram, BackendError> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    // A call of another ABI ends the process: the crate begins each program with that check.
    SeccompFilter::new(rules, SeccompAction::Allow, action, machine)?.try_into()
}

fn whole(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn word(
    argument: u8,
    compare: SeccompCmpOp,
    value: libc::c_int,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        compare,
        u64::from(value.unsigned_abs()),
    )
}

fn masked(mask: libc::c_int) -> SeccompCmpOp {
    SeccompCmpOp::MaskedEq(u64::from(mask.unsigned_abs()))
}

fn refused(network: bool) -> Result<Rules, BackendError> {
    let mut rules = whole(REFUSED);
    let mut clone = Vec::new();
    for flag in NAMESPACE_FLAGS {
        clone.push(SeccompRule::new(vec![word(0, masked(flag), flag)?])?);
    }
    rules.insert(libc::SYS_clone, clone);
    // Typing into the terminal that the worker was started from.
    let mut ioctl = Vec::new();
    for request in [0x5412, 0x541c] {
        ioctl.push(SeccompRule::new(vec![word(1, SeccompCmpOp::Eq, request)?])?);
    }
    rules.insert(libc::SYS_ioctl, ioctl);
    let personality = vec![
        word(0, SeccompCmpOp::Ne, 0)?,
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0xffff_ffff)?,
    ];
    rules.insert(libc::SYS_personality, vec![SeccompRule::new(personality)?]);
    if !network {
        rules.extend(whole(ADDRESSES));
    }
    Ok(rules)
}

/// Sockets: a stream pair of its own always; internet sockets with `network`. A datagram pair could be sent to any
/// other socket's address, so there is none.
fn sockets(network: bool) -> Result<Rules, BackendError> {
    let kind = 0xf;
    let mut rules = Rules::new();
    rules.insert(
        libc::SYS_socketpair,
        vec![
            SeccompRule::new(vec![word(0, SeccompCmpOp::Ne, libc::AF_UNIX)?])?,
            SeccompRule::new(vec![word(1, masked(kind), libc::SOCK_DGRAM)?])?,
            SeccompRule::new(vec![word(1, masked(kind), libc::SOCK_RAW)?])?,
        ],
    );
    if network {
        let mut other = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
            other.push(word(0, SeccompCmpOp::Ne, family)?);
        }
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(other)?]);
    }
    Ok(rules)
}

/// Calls newer than the list do not exist; those of the x32 ABI, which would pass every number above, end the process.
fn known_calls() -> BpfProgram {
    let statement = |code: u32, k: u32| instruction(code, 0, 0, k);
    let jump = |k: u32, jt: u8, jf: u8| {
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, jt, jf, k)
    };
    let answer = libc::BPF_RET | libc::BPF_K;
    vec![
        // The number is the first word of what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        jump(X32, 3, 0),
        jump(NEWEST_CALL + 1, 0, 1),
        statement(
            answer,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
        ),
        statement(answer, libc::SECCOMP_RET_ALLOW),
        statement(answer, libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    let code = u16::try_from(code).unwrap_or_default();
    sock_filter { code, jt, jf, k }
}
