//! A hostile model gets nothing. Each attempt is made twice: without the sandbox it succeeds, within it is denied, so
//! that a test that can't fail shows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use munjigi_worker::sandbox::{Ended, Limits, Spec, start};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Attempts in Python: `attempt(name, function)` prints whether it succeeded.
const PRELUDE: &str = r#"
import ctypes, errno, json, os, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
secret = sys.argv[1]
outside = sys.argv[2]
output = sys.argv[3]
def attempt(name, function):
    try:
        function()
        print(json.dumps({name: "done"}), flush=True)
    except BaseException as error:
        print(json.dumps({name: str(error)}), flush=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"#;

struct Room {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl Room {
    /// A worker's data folder as a model might find it: its own folders, another analysis, the cluster's secret.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        for name in ["output", "tmp", "other/input"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::write(root.join("cluster.secret"), "s3cret").unwrap();
        std::fs::write(root.join("other/input/file"), "another user's").unwrap();
        Self {
            _folder: folder,
            root,
        }
    }

    fn spec(&self, script: &str, confined: bool) -> Spec {
        let root = rustix::process::geteuid().is_root();
        let user = (confined && root).then_some(64_000);
        let write = vec![self.root.join("output"), self.root.join("tmp")];
        for folder in &write {
            std::os::unix::fs::chown(folder, user, user).unwrap();
        }
        let path = |name: &str| self.root.join(name).display().to_string();
        Spec {
            program: PathBuf::from("/usr/bin/env"),
            arguments: [
                "python3".to_owned(),
                "-c".to_owned(),
                format!("{PRELUDE}\n{script}"),
                path("cluster.secret"),
                path("other"),
                path("output"),
            ]
            .into(),
            read: Vec::new(),
            write,
            temporary: self.root.join("tmp"),
            network: false,
            confined,
            user,
            limits: Limits {
                memory: 256 << 20,
                cpu: 60,
                file: 64 << 20,
                disk: 96 << 20,
                processes: 64,
                open_files: 256,
            },
        }
    }
}

/// What a run printed, how it ended, and how long it took. `patience`: then it is let go of.
async fn run(spec: &Spec, patience: Duration) -> (String, Ended, Duration) {
    let begun = Instant::now();
    let child = Path::new(env!("CARGO_BIN_EXE_munjigi-worker-child"));
    let (mut channel, mut stdout, mut stderr, mut supervisor) =
        start(child, spec).unwrap().into_parts();
    let mut out = String::new();
    let mut errors = String::new();
    let mut verdict = String::new();
    let listening = async {
        let (read, errors) = tokio::join!(
            stdout.read_to_string(&mut out),
            stderr.read_to_string(&mut errors)
        );
        read.unwrap();
        errors.unwrap();
    };
    let in_time = tokio::time::timeout(patience, listening).await.is_ok();
    if !in_time {
        channel.shutdown().await.unwrap();
    }
    channel.read_to_string(&mut verdict).await.unwrap();
    supervisor.wait().await.unwrap();
    // Shown with the output where a test fails.
    out.push_str(&errors);
    (
        out,
        serde_json::from_str(&verdict).unwrap(),
        begun.elapsed(),
    )
}

const PATIENT: Duration = Duration::from_secs(60);

/// What each attempt in `script` came to.
async fn attempts(script: &str, confined: bool) -> BTreeMap<String, String> {
    let room = Room::new();
    let (out, ended, _) = run(&room.spec(script, confined), PATIENT).await;
    assert_eq!(ended, Ended::Exit { code: 0 }, "{out}");
    out.lines()
        .filter(|line| line.starts_with('{'))
        .flat_map(|line| serde_json::from_str::<BTreeMap<String, Value>>(line).unwrap())
        .map(|(name, came)| (name, came.as_str().unwrap().to_owned()))
        .collect()
}

async fn denied_only_within(script: &str) {
    let free = attempts(script, false).await;
    let confined = attempts(script, true).await;
    assert_eq!(free.len(), confined.len());
    assert!(!free.is_empty());
    for (name, came) in &free {
        assert_eq!(came, "done", "{name} fails even without the sandbox");
        assert_ne!(confined[name], "done", "{name} succeeds within the sandbox");
    }
}

#[tokio::test]
async fn it_reads_no_foreign_file() {
    denied_only_within(
        r#"
def environment_of(process):
    open(f"/proc/{process}/environ", "rb").read()
attempt("passwd", lambda: open("/etc/passwd").read())
attempt("secret", lambda: open(secret).read())
attempt("another analysis", lambda: open(outside + "/input/file").read())
attempt("listing", lambda: os.listdir(outside))
attempt("root", lambda: os.listdir("/"))
attempt("parent's environment", lambda: environment_of(os.getppid() or 1))
attempt("own environment", lambda: environment_of("self"))
attempt("processes", lambda: os.listdir("/proc"))
attempt("through a folder's descriptor", lambda: os.open("input/file", os.O_RDONLY, dir_fd=os.open(outside, os.O_PATH)))
"#,
    )
    .await;
}

#[tokio::test]
async fn it_writes_and_links_nothing_outside() {
    denied_only_within(
        r##"
attempt("write", lambda: open(outside + "/new", "w").write("x"))
attempt("append", lambda: open(secret, "a").write("x"))
attempt("truncate", lambda: os.truncate(outside + "/input/file", 1))
attempt("folder", lambda: os.mkdir(outside + "/folder"))
attempt("rename away", lambda: os.rename(secret, output + "/stolen") or os.rename(output + "/stolen", secret))
attempt("hard link in", lambda: os.link(secret, output + "/hard"))
attempt("symlink in", lambda: os.symlink(secret, output + "/soft"))
attempt("symlink out", lambda: os.symlink("/etc", outside + "/soft"))
attempt("pipe", lambda: os.mkfifo(output + "/pipe"))
attempt("remove", lambda: os.remove(outside + "/input/file"))
attempt("temporary", lambda: open("/tmp/munjigi-hostile-%d" % os.getpid(), "w").close() or os.remove("/tmp/munjigi-hostile-%d" % os.getpid()))
def execute_own():
    path = output + "/program"
    open(path, "w").write("#!/bin/sh\nexit 0\n")
    os.chmod(path, 0o755)
    subprocess.run([path], check=True)
attempt("run what it wrote", execute_own)
"##,
    )
    .await;
}

#[tokio::test]
async fn it_opens_no_socket() {
    denied_only_within(
        r#"
def abstract():
    s = socket.socket(socket.AF_UNIX)
    s.bind("\0munjigi-hostile-%d" % os.getpid())
attempt("tcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("udp", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
attempt("unix", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
attempt("abstract", abstract)
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("datagram pair", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
"#,
    )
    .await;
}

#[tokio::test]
async fn it_reaches_no_other_process_and_no_kernel_door() {
    // Numbers of x86-64; names in the attempts.
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    denied_only_within(
        r#"
victim = subprocess.Popen(["sleep", "5"])
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
attempt("memfd", lambda: call(319, b"x", 0))
attempt("shared memory", lambda: call(29, 0, 4096, 0o1600))
attempt("new user namespace by fork", lambda: subprocess.run(["unshare", "-U", "true"], check=True))
attempt("keyring", lambda: call(250, 0, -3, 0))
attempt("ptrace", lambda: call(101, 16, victim.pid, 0, 0))
attempt("handle", lambda: call(303, -100, b"/usr", ctypes.create_string_buffer(b"\x80\0\0\0\0\0\0\0" + b"\0" * 200), ctypes.byref(ctypes.c_int()), 0))
victim.kill()
"#,
    )
    .await;
}

#[tokio::test]
async fn what_any_program_needs_still_works() {
    let came = attempts(
        r#"
import hashlib, tempfile, sqlite3, multiprocessing
def threads():
    done = []
    all = [threading.Thread(target=lambda: done.append(1)) for _ in range(8)]
    [t.start() for t in all]; [t.join() for t in all]
    assert len(done) == 8
def files():
    os.makedirs(output + "/a/b"); open(output + "/a/b/c", "w").write("x")
    os.rename(output + "/a/b/c", output + "/moved"); os.remove(output + "/moved")
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == os.getcwd()
    import shutil
    open(output + "/one", "w").write("x"); shutil.copy(output + "/one", output + "/two")
def pair():
    a, b = socket.socketpair()
    a.sendall(b"x"); assert b.recv(1) == b"x"
attempt("threads", threads)
attempt("files", files)
attempt("pair", pair)
attempt("programs", lambda: subprocess.run(["sh", "-c", "ls /usr/bin | wc -l"], check=True, stdout=subprocess.DEVNULL))
attempt("random", lambda: os.urandom(10) and open("/dev/urandom", "rb").read(1))
attempt("null", lambda: open("/dev/null", "w").write("x"))
attempt("environment", lambda: (_ for _ in ()).throw(Exception(str(os.environ))) if set(os.environ) - {"PATH", "LANG", "TMPDIR", "HOME", "LC_CTYPE"} else None)
attempt("no descriptors", lambda: (_ for _ in ()).throw(Exception("open")) if any(os.path.exists("x") or not _closed(d) for d in range(3, 64)) else None)
"#
        .replace(
            "import hashlib",
            "def _closed(d):\n    try:\n        os.fstat(d)\n        return False\n    except OSError:\n        return True\nimport hashlib",
        )
        .as_str(),
        true,
    )
    .await;
    for (name, came) in &came {
        assert_eq!(came, "done", "{name}");
    }
    assert_eq!(came.len(), 8);
}

#[tokio::test]
async fn as_root_it_is_somebody_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let room = Room::new();
    let script = "print(os.getuid(), os.getgid(), os.getgroups(), os.getpid() < 10)";
    let (out, ended, _) = run(&room.spec(script, true), PATIENT).await;
    assert_eq!(ended, Ended::Exit { code: 0 });
    assert_eq!(out.trim(), "64000 64000 [] True");
}

#[tokio::test]
async fn a_tree_that_detaches_itself_is_ended_with_it() {
    for confined in [true, false] {
        let room = Room::new();
        let file = room.root.join("output/alive");
        let script = r#"
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(0); os.close(1); os.close(2)
            while True:
                open(output + "/alive", "w").write(str(time.time()))
                time.sleep(0.01)
        os._exit(0)
while not os.path.exists(output + "/alive"): time.sleep(0.01)
"#;
        let (_, ended, _) = run(&room.spec(script, confined), PATIENT).await;
        assert_eq!(ended, Ended::Exit { code: 0 });
        // With the verdict nothing of it is left: what was written last stays.
        let written = std::fs::metadata(&file).unwrap().modified().unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(
            std::fs::metadata(&file).unwrap().modified().unwrap(),
            written
        );
    }
}

#[tokio::test]
async fn it_is_ended_when_it_is_let_go_of() {
    let room = Room::new();
    let script =
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)";
    let (_, ended, took) = run(&room.spec(script, true), Duration::from_millis(300)).await;
    assert_eq!(ended, Ended::Stopped);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn its_memory_is_bounded_whoever_holds_it() {
    for script in [
        // At once, in small steps, in children, and shared.
        "x = bytearray(900 << 20); time.sleep(60)",
        "x = []\nwhile True: x.append(bytearray(1 << 20)); time.sleep(0.001)",
        "for _ in range(8):\n  if os.fork() == 0:\n    x = bytearray(100 << 20); time.sleep(60)\ntime.sleep(60)",
        "import mmap\nx = mmap.mmap(-1, 900 << 20)\nx.write(b'x' * (900 << 20)); time.sleep(60)",
    ] {
        let room = Room::new();
        let (_, ended, took) = run(&room.spec(script, true), PATIENT).await;
        assert!(
            matches!(ended, Ended::Memory { bytes } if bytes > 256 << 20),
            "{ended:?}: {script}"
        );
        assert!(took < Duration::from_secs(30), "{took:?}");
    }
}

#[tokio::test]
async fn what_a_fork_shares_counts_once() {
    let room = Room::new();
    let script = r#"
x = bytearray(150 << 20)
children = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        time.sleep(1); os._exit(0)
    children.append(child)
for child in children: os.waitpid(child, 0)
"#;
    let (_, ended, _) = run(&room.spec(script, true), PATIENT).await;
    assert_eq!(ended, Ended::Exit { code: 0 });
}

#[tokio::test]
async fn its_processes_are_bounded() {
    let room = Room::new();
    let script = r#"
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        count += 1
except OSError as error:
    print(count, errno.errorcode[error.errno])
"#;
    let (out, ended, took) = run(&room.spec(script, true), PATIENT).await;
    assert!(took < Duration::from_secs(30), "{took:?}");
    match ended {
        // The kernel refused the next one, or the watch saw too many.
        Ended::Exit { code: 0 } => {
            let count: u64 = out.split_whitespace().next().unwrap().parse().unwrap();
            assert!((8..=66).contains(&count), "{out}");
        }
        Ended::Processes { count } => assert!(count > 64),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn its_files_are_bounded() {
    let one = r#"
with open(output + "/big", "wb") as file:
    while True: file.write(b"x" * (1 << 20))
"#;
    let room = Room::new();
    let (_, ended, _) = run(&room.spec(one, true), PATIENT).await;
    // Python ignores SIGXFSZ and sees an error instead.
    assert_eq!(ended, Ended::Exit { code: 1 });
    assert!(
        std::fs::metadata(room.root.join("output/big"))
            .unwrap()
            .len()
            <= 64 << 20
    );

    let many = r#"
for number in range(10000):
    open(output + "/%d" % number, "wb").write(b"x" * (4 << 20)); time.sleep(0.02)
"#;
    let room = Room::new();
    let (_, ended, _) = run(&room.spec(many, true), PATIENT).await;
    assert!(matches!(ended, Ended::Disk { .. }), "{ended:?}");

    let empty = "for number in range(10**7): open(output + '/%d' % number, 'wb').close()";
    let room = Room::new();
    let (_, ended, _) = run(&room.spec(empty, true), PATIENT).await;
    assert!(matches!(ended, Ended::Disk { .. }), "{ended:?}");
}

#[tokio::test]
async fn its_time_on_the_processor_is_bounded() {
    let room = Room::new();
    let mut spec = room.spec("while True: pass", true);
    spec.limits.cpu = 1;
    let (_, ended, _) = run(&spec, PATIENT).await;
    assert_eq!(
        ended.to_string(),
        "was ended by signal 24 (SIGXCPU: its processor time was used up)"
    );
}

#[tokio::test]
async fn a_foreign_system_call_abi_ends_it() {
    // A 32-bit call from a 64-bit program: `int 0x80` with getpid.
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let script = r#"
import mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0)
"#;
    let room = Room::new();
    let (_, ended, _) = run(&room.spec(script, true), PATIENT).await;
    assert_eq!(ended, Ended::Exit { code: 128 + 31 });
    // And one of the x32 ABI, which has the same number of the machine.
    let room = Room::new();
    let (_, ended, _) = run(&room.spec("libc.syscall(0x40000000 + 39)", true), PATIENT).await;
    assert_eq!(ended, Ended::Exit { code: 128 + 31 });
}

#[tokio::test]
async fn a_program_that_is_not_there_says_so() {
    let room = Room::new();
    let mut spec = room.spec("", true);
    spec.program = PathBuf::from("/usr/bin/no-such-program");
    let (out, ended, _) = run(&spec, PATIENT).await;
    assert_eq!(ended, Ended::Exit { code: 125 });
    let line: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(line["type"], "error");
    assert!(
        line["message"]
            .as_str()
            .unwrap()
            .contains("no-such-program"),
        "{line}"
    );
}
