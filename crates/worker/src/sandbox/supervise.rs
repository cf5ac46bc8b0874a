//! Stage 1: watches the tree from outside and ends it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getgid, getpid, getuid, kill_process,
    pidfd_open, set_child_subreaper, wait, waitpid,
};
use rustix::thread::UnshareFlags;

use super::processes::{Tree, disk_used};
use super::{CONFINE, COULD_NOT, Ended, SPEC_BYTES_MAX, SUBCOMMAND, Spec, scopes_supported};

/// How often memory and processes are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Files are looked at every so many ticks.
const TICKS_PER_DISK_CHECK: u32 = 10;
/// Passed on to the model at once.
const RELAY_BYTES: usize = 16 * 1024;
/// How long the tree may take to be gone after it was killed.
const END_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run() -> ExitCode {
    let Ok(channel) = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
    else {
        return ExitCode::from(COULD_NOT);
    };
    let ended = match supervise(&channel) {
        Ok(ended) => ended,
        Err(error) => Ended::NotStarted {
            why: error.to_string(),
        },
    };
    let Ok(mut verdict) = serde_json::to_vec(&ended) else {
        return ExitCode::from(COULD_NOT);
    };
    verdict.push(b'\n');
    // Nobody listens when the worker is gone.
    match (&channel).write_all(&verdict) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(COULD_NOT),
    }
}

fn supervise(channel: &UnixStream) -> io::Result<Ended> {
    let mut input = BufReader::new(channel.try_clone()?);
    let spec = read_spec(&mut input)?;
    // What detaches itself from the model becomes our child, and can be ended.
    set_child_subreaper(Some(getpid()))?;
    let namespaced = spec.confined && take_namespaces(spec.network)?;
    let (reader, writer) = io::pipe()?;
    let child = Command::new("/proc/self/exe")
        .args([SUBCOMMAND, CONFINE])
        .arg(serde_json::to_string(&(&spec, namespaced))?)
        .env_clear()
        .stdin(Stdio::from(reader))
        .spawn()?;
    let child = Pid::from_child(&child);
    let relay = Relay::new(input.buffer().to_vec(), writer)?;
    let watched = watch(&spec, child, channel, relay);
    end_tree(child)?;
    watched
}

fn read_spec(input: &mut impl BufRead) -> io::Result<Spec> {
    let mut line = Vec::new();
    let limit = u64::try_from(SPEC_BYTES_MAX).unwrap_or(u64::MAX);
    input.by_ref().take(limit).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Passes on what the worker writes for the model. By hand, not in a thread: after the step into a process namespace
/// the kernel starts none. A model that does not read stops it, and nothing else.
#[derive(Debug)]
struct Relay {
    waiting: Vec<u8>,
    /// Gone once the model no longer reads: the rest is dropped.
    writer: Option<io::PipeWriter>,
}

impl Relay {
    fn new(waiting: Vec<u8>, writer: io::PipeWriter) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&writer, true)?;
        Ok(Self {
            waiting,
            writer: Some(writer),
        })
    }

    /// What of the channel to wait for.
    fn interest(&self) -> PollFlags {
        if self.waiting.is_empty() {
            PollFlags::IN | PollFlags::RDHUP
        } else {
            PollFlags::RDHUP
        }
    }

    fn read(&mut self, mut channel: &UnixStream) -> io::Result<()> {
        let mut buffer = [0; RELAY_BYTES];
        match channel.read(&mut buffer) {
            Ok(read) => self
                .waiting
                .extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) if would_block(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn write(&mut self) {
        let Some(writer) = &mut self.writer else {
            return self.waiting.clear();
        };
        match writer.write(&self.waiting) {
            Ok(written) => drop(self.waiting.drain(..written)),
            Err(error) if would_block(&error) => {}
            Err(_) => self.writer = None,
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// New namespaces for what is started from here: processes, shared memory, and an empty network unless `network`.
/// Returns false where the kernel gives none to this user and Landlock alone keeps signals inside.
fn take_namespaces(network: bool) -> io::Result<bool> {
    let mut flags = UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
    if !network {
        flags |= UnshareFlags::NEWNET;
    }
    let (user, group) = (getuid(), getgid());
    let taken = if user.is_root() {
        unshare(flags)
    } else {
        unshare(flags | UnshareFlags::NEWUSER).and_then(|()| {
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
            std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
        })
    };
    match taken {
        Ok(()) => Ok(true),
        Err(_) if scopes_supported() => Ok(false),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "neither an own process namespace ({error}) nor Landlock's scopes (Linux 6.12) can be had here"
            ),
        )),
    }
}

#[expect(
    unsafe_code,
    reason = "unshare is unsafe for shared file tables only, which are never named here"
)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: without UnshareFlags::FILES no descriptor table changes hands.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Returns when the child has ended, a limit is passed, or the worker let go.
fn watch(spec: &Spec, child: Pid, channel: &UnixStream, mut relay: Relay) -> io::Result<Ended> {
    let ended = pidfd_open(child, PidfdFlags::empty())?;
    channel.set_nonblocking(true)?;
    let mut tick = 0_u32;
    let mut looked = Instant::now();
    loop {
        relay.write();
        let (happened, told) = {
            let mut descriptors = [
                PollFd::new(&ended, PollFlags::IN),
                PollFd::new(channel, relay.interest()),
            ];
            pause(&mut descriptors, TICK)?;
            let [child_fd, channel_fd] = &descriptors;
            (!child_fd.revents().is_empty(), channel_fd.revents())
        };
        if happened {
            return exit_of(child);
        }
        // The worker closed its side, or is gone.
        if told.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
            return Ok(Ended::Stopped);
        }
        if told.contains(PollFlags::IN) {
            relay.read(channel)?;
        }
        if looked.elapsed() >= TICK {
            if let Some(passed) = limit_passed(spec, tick.is_multiple_of(TICKS_PER_DISK_CHECK)) {
                return Ok(passed);
            }
            tick = tick.wrapping_add(1);
            looked = Instant::now();
        }
    }
}

fn limit_passed(spec: &Spec, with_disk: bool) -> Option<Ended> {
    let tree = Tree::below(getpid());
    let count = tree.threads();
    if count > spec.limits.processes.saturating_add(2) {
        return Some(Ended::Processes { count });
    }
    let bytes = tree.memory(spec.limits.memory);
    if bytes > spec.limits.memory {
        return Some(Ended::Memory { bytes });
    }
    if with_disk {
        let bytes = disk_used(&spec.write, spec.limits.disk);
        if bytes > spec.limits.disk {
            return Some(Ended::Disk { bytes });
        }
    }
    None
}

fn exit_of(child: Pid) -> io::Result<Ended> {
    let code = match waitpid(Some(child), WaitOptions::empty())? {
        Some((_, status)) => code_of(status),
        None => COULD_NOT,
    };
    Ok(Ended::Exit { code })
}

/// By the convention of shells: 128 + n for signal n.
pub(super) fn code_of(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => signal.saturating_add(128),
        (None, None) => i32::from(COULD_NOT),
    };
    u8::try_from(code).unwrap_or(COULD_NOT)
}

/// Kills everything below this process until nothing is left. In a process namespace the first kill ends it all.
fn end_tree(child: Pid) -> io::Result<()> {
    kill(child);
    let start = Instant::now();
    loop {
        for process in Tree::below(getpid()).processes() {
            kill(*process);
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        if start.elapsed() > END_PATIENCE {
            return Err(io::Error::other("a process of the model can't be ended"));
        }
        pause(&mut [], Duration::from_millis(2))?;
    }
}

fn kill(process: Pid) {
    match kill_process(process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => drop(writeln!(io::stderr(), "a process can't be killed: {error}")),
    }
}

/// Waits until something happens to `descriptors`, or `time` is over.
fn pause(descriptors: &mut [PollFd<'_>], time: Duration) -> io::Result<()> {
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    match poll(descriptors, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
