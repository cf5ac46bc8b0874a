//! SIGUSR2: another process takes the place of this one, on the same sockets.
//!
//! The new process is the file of the running binary, started with the same arguments. Its standard input is a socket
//! on which both talk, one JSON object each time, behind its length:
//!
//! ```text
//! old → new   the listening sockets, by what they are for (descriptors over SCM_RIGHTS)
//! new → old   ready: its settings are good
//! old → new   released: hub, registry and workers of the old one have ended, their data is free; what it kept in memory
//! new → old   serving: everything runs
//! ```
//!
//! Whatever goes wrong before the last word, the old one serves on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use munjigi_eureka::{
    Application, Applications, Instance, applications_from_json, applications_to_json,
};
use munjigi_foundation::listen::Sockets;
use munjigi_foundation::settings::Secret;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::outcome::Failure;

/// Tells a process that its standard input is the socket to the process that it takes over from.
pub(crate) const MARK: &str = "MUNJIGI_HANDOVER";
/// How long the new process may take to read its settings.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long the new process may take from then on until it serves; and the old one to release its data.
const SERVING_WITHIN: Duration = Duration::from_secs(60);
/// Largest message: the instances of a registry.
const MESSAGE_MAX: usize = 256 << 20;
/// Descriptors in one message; the kernel takes 253.
const DESCRIPTORS: usize = 64;

/// Without `Debug`: it may hold a secret.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Said {
    /// How many sockets follow for each label, in this order.
    Sockets(Vec<(String, usize)>),
    Ready,
    Released(Released),
    Serving,
}

/// What the old process knew and kept in memory alone.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Released {
    /// The instances of its registry.
    instances: serde_json::Value,
    /// The key of its gate's sticky cookies.
    sticky_key: Option<String>,
}

/// How to start this process again.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Own {
    /// As this process was started. To be asked at its start: later the file may have been replaced by a newer one,
    /// which is then the one to start.
    pub(crate) fn at_start() -> Result<Self, Failure> {
        Ok(Self {
            program: std::env::current_exe().map_err(Failure::could_not)?,
            arguments: std::env::args_os().skip(1).collect(),
        })
    }
}

/// Seen from the old process: the new one.
#[derive(Debug)]
pub(crate) struct Successor {
    child: tokio::process::Child,
    stream: tokio::net::UnixStream,
}

impl Successor {
    /// Starts it, gives it the sockets, and waits until it has read its settings.
    pub(crate) async fn start(own: &Own, sockets: &Sockets) -> io::Result<Self> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let child = tokio::process::Command::new(&own.program)
            .args(&own.arguments)
            .env(MARK, "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let mut successor = {
            let sent = send_sockets(&mut ours, sockets).and_then(|()| ours.set_nonblocking(true));
            let stream = sent.and_then(|()| tokio::net::UnixStream::from_std(ours));
            match stream {
                Ok(stream) => Self { child, stream },
                Err(error) => {
                    give_up(child).await;
                    return Err(error);
                }
            }
        };
        match successor.hear(READY_WITHIN).await {
            Ok(Said::Ready) => Ok(successor),
            Ok(_) => Err(successor.give_up(out_of_turn()).await),
            Err(error) => Err(successor.give_up(error).await),
        }
    }

    /// Says that the data is free and waits until the new process serves.
    ///
    /// # Errors
    /// When it does not; it has ended then.
    pub(crate) async fn take_over(
        mut self,
        instances: Vec<Instance>,
        sticky_key: Option<Secret>,
    ) -> io::Result<u32> {
        let served = async {
            let released = to_bytes(&Said::Released(Released {
                instances: pack(instances),
                sticky_key: sticky_key.map(|key| key.expose().to_owned()),
            }))?;
            self.stream.write_all(&released).await?;
            match self.hear(SERVING_WITHIN).await? {
                Said::Serving => Ok(()),
                _ => Err(out_of_turn()),
            }
        };
        match served.await {
            Ok(()) => Ok(self.child.id().unwrap_or_default()),
            Err(error) => Err(self.give_up(error).await),
        }
    }

    async fn hear(&mut self, within: Duration) -> io::Result<Said> {
        let heard = async {
            let mut length = [0; 4];
            self.stream.read_exact(&mut length).await?;
            let mut text = vec![0; length_of(length)?];
            self.stream.read_exact(&mut text).await?;
            Ok(serde_json::from_slice(&text)?)
        };
        tokio::time::timeout(within, heard)
            .await
            .unwrap_or_else(|_| Err(io::Error::other("it said nothing in time")))
    }

    /// Ends it; gives the reason with what is known of its end.
    async fn give_up(self, error: io::Error) -> io::Error {
        let gone = error.kind() == io::ErrorKind::UnexpectedEof;
        match (gone, give_up(self.child).await) {
            (true, Some(status)) => io::Error::other(format!("it ended with {status}")),
            _ => error,
        }
    }
}

/// Its own end first, for a moment; then it is ended.
async fn give_up(mut child: tokio::process::Child) -> Option<std::process::ExitStatus> {
    let ended = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
    if let Ok(status) = ended {
        return status.ok();
    }
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "the new process can't be ended");
    }
    None
}

/// Seen from the new process: the old one, whose place it takes.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
    pub(crate) sockets: Sockets,
    /// What its registry knew, once it has released its data.
    pub(crate) instances: Vec<Instance>,
    /// The key of its gate's sticky cookies.
    pub(crate) sticky_key: Option<Secret>,
}

impl Predecessor {
    /// The process that started this one to be its successor, if one did.
    pub(crate) fn find() -> Result<Option<Self>, Failure> {
        if !crate::settings::environment().contains_key(MARK) {
            return Ok(None);
        }
        Self::receive().map(Some).map_err(|error| {
            Failure::could_not(format!("the process before hands nothing over: {error}"))
        })
    }

    fn receive() -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let mut stream = UnixStream::from(stdin);
        stream.set_read_timeout(Some(READY_WITHIN))?;
        let Said::Sockets(wanted) = hear(&mut stream)? else {
            return Err(out_of_turn());
        };
        let mut all = Vec::new();
        for (label, count) in wanted {
            let mut sockets = Vec::new();
            while sockets.len() < count {
                let more = receive_descriptors(&stream)?;
                if more.is_empty() {
                    return Err(io::Error::other("a message without sockets"));
                }
                sockets.extend(more);
            }
            all.push((label, sockets));
        }
        Ok(Self {
            stream,
            sockets: Sockets::handed_over(all),
            instances: Vec::new(),
            sticky_key: None,
        })
    }

    /// Our settings are good: waits until hub, registry and workers of the old process have ended.
    pub(crate) fn wait_for_release(&mut self) -> Result<(), Failure> {
        let mut released = || {
            self.stream.write_all(&to_bytes(&Said::Ready)?)?;
            self.stream.set_read_timeout(Some(SERVING_WITHIN))?;
            match hear(&mut self.stream)? {
                Said::Released(released) => Ok((unpack(&released.instances)?, released.sticky_key)),
                _ => Err(out_of_turn()),
            }
        };
        let (instances, key) = released().map_err(|error| {
            Failure::could_not(format!("the process before did not let go: {error}"))
        })?;
        self.instances = instances;
        self.sticky_key = key.map(|key| Secret::new(&key));
        Ok(())
    }

    /// Everything runs: the old process may go.
    pub(crate) fn serving(&mut self) -> Result<(), Failure> {
        self.sockets.forget_unclaimed();
        to_bytes(&Said::Serving)
            .and_then(|said| self.stream.write_all(&said))
            .map_err(|error| Failure::could_not(format!("the process before is gone: {error}")))
    }
}

fn out_of_turn() -> io::Error {
    io::Error::other("it spoke out of turn")
}

fn length_of(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(bytes) as usize;
    if length > MESSAGE_MAX {
        return Err(io::Error::other("a message that is too long"));
    }
    Ok(length)
}

fn to_bytes(said: &Said) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(said)?;
    let length = u32::try_from(text.len())
        .ok()
        .filter(|length| *length as usize <= MESSAGE_MAX)
        .ok_or_else(|| io::Error::other("a message that is too long"))?;
    Ok([length.to_be_bytes().as_slice(), &text].concat())
}

fn hear(stream: &mut UnixStream) -> io::Result<Said> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut text = vec![0; length_of(length)?];
    stream.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn send_sockets(stream: &mut UnixStream, sockets: &Sockets) -> io::Result<()> {
    let all = sockets.all()?;
    let counts = all
        .iter()
        .map(|(label, sockets)| (label.clone(), sockets.len()));
    stream.write_all(&to_bytes(&Said::Sockets(counts.collect()))?)?;
    for (_, sockets) in &all {
        for part in sockets.chunks(DESCRIPTORS) {
            let part: Vec<_> = part.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&part)) {
                return Err(io::Error::other("too many sockets for one message"));
            }
            sendmsg(
                &stream,
                &[IoSlice::new(&[0])],
                &mut control,
                SendFlags::empty(),
            )?;
        }
    }
    Ok(())
}

fn receive_descriptors(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    // Close on exec: models that a worker starts must not hold our sockets.
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        flags,
    )?;
    let messages = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(messages.flatten().collect())
}

/// Instances as the registry's protocol writes them.
fn pack(instances: Vec<Instance>) -> serde_json::Value {
    let mut by_name: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    for instance in instances {
        by_name
            .entry(instance.app.clone())
            .or_default()
            .push(instance);
    }
    let applications = by_name
        .into_iter()
        .map(|(name, instances)| Application { name, instances });
    applications_to_json(&Applications {
        applications: applications.collect(),
        ..Applications::default()
    })
}

fn unpack(packed: &serde_json::Value) -> io::Result<Vec<Instance>> {
    let applications =
        applications_from_json(packed.to_string().as_bytes()).map_err(io::Error::other)?;
    Ok(applications
        .applications
        .into_iter()
        .flat_map(|application| application.instances)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_instances_arrive_as_they_were_sent() {
        let (mut old, mut new) = UnixStream::pair().unwrap();
        let sockets = Sockets::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let first = sockets.listen("hub", any).unwrap();
        let many: Vec<_> = (0..100).map(|_| first.try_clone().unwrap()).collect();
        sockets.keep("gate", &many).unwrap();
        send_sockets(&mut old, &sockets).unwrap();
        let Said::Sockets(wanted) = hear(&mut new).unwrap() else {
            panic!("no sockets");
        };
        assert_eq!(wanted, [("gate".to_owned(), 100), ("hub".to_owned(), 1)]);
        let mut got = Vec::new();
        while got.len() < 101 {
            got.extend(receive_descriptors(&new).unwrap());
        }
        let last = std::net::TcpListener::from(got.pop().unwrap());
        assert_eq!(last.local_addr().unwrap(), first.local_addr().unwrap());

        let mut instance = Instance::new("HUB", "a", "10.0.0.1", 8000);
        instance
            .metadata
            .insert("serverId".to_owned(), "143".to_owned());
        let back = unpack(&pack(vec![instance.clone()])).unwrap();
        assert_eq!(back[0].metadata, instance.metadata);
        assert_eq!((back[0].port, &back[0].app), (instance.port, &instance.app));
        assert!(unpack(&pack(Vec::new())).unwrap().is_empty());
    }
}
