"""What the bench asks of the machine: packages, ports, cores, processes and the kernel's accounts of them."""
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PATIENCE = 30.0


class NotRun(Exception):
    """Why something can't be measured here."""


def apt(*packages):
    """Installs what is missing; False when it can't be had."""
    query = ["dpkg-query", "-W", "-f", "${Status}\n"]
    absent = [p for p in packages if "ok installed" not in subprocess.run(query + [p], capture_output=True, text=True).stdout]
    if not absent:
        return True
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *absent]
    for attempt in range(2):
        if subprocess.run(install, env=environment, capture_output=True).returncode == 0:
            return True
        if attempt == 0:
            subprocess.run(["apt-get", "-qq", "update"], capture_output=True)
    return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_range(count):
    """The first of `count` free ports in a row, below those that the kernel gives to clients."""
    first = 20_000
    for port in range(20_000, 32_000):
        if port - first == count:
            break
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                first = port + 1
    return first


def wait_for_port(port, process=None):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            return False
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.02)
    return False


class Program:
    """A process that we started, with its children, on one core."""

    def __init__(self, argv, core, log, **more):
        self.log = Path(log)
        with open(self.log, "w") as out:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, argv)],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, **more,
            )

    def pids(self):
        found, open_ = [], [self.process.pid]
        while open_:
            pid = open_.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    open_.extend(int(child) for child in children.split())
            except OSError:
                pass
        return found

    def cpu(self):
        """Seconds of processor time so far, as the scheduler counted them (nanoseconds, not ticks)."""
        total = 0
        for pid in self.pids():
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
            except OSError:
                pass
        return total / 1e9

    def memory(self):
        """Bytes that are its own: shared pages count for each sharer in part."""
        total = 0
        for pid in self.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.M).group(1)) * 1024
            except (OSError, AttributeError):
                pass
        return total

    def stop(self):
        """Ends the process group that we started, and nothing else."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            try:
                os.killpg(self.process.pid, how)
            except ProcessLookupError:
                break
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                pass


def run(argv, core, timeout=600, **more):
    """Runs a load generator to its end; its standard output."""
    done = subprocess.run(
        ["taskset", "-c", str(core), *map(str, argv)],
        capture_output=True, text=True, timeout=timeout, **more,
    )
    if done.returncode != 0:
        raise NotRun(f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def describe():
    """One line about the machine."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    kernel = os.uname()
    load = " ".join(Path("/proc/loadavg").read_text().split()[:3])
    name = model.group(1).strip() if model else kernel.machine
    return f"{os.cpu_count()} cores ({name}), {kernel.sysname} {kernel.release}, load before: {load}"
