"""The cases: what is asked of each server, and how it is counted."""
import re
import subprocess
import time
from dataclasses import dataclass, field

from machine import NotRun, PATIENCE, run
from servers import Setup

MIB, GIB = 1 << 20, 1 << 30


@dataclass
class Case:
    """One row of the table. `count` says how: requests by wrk, by h2load, uploads, or held connections."""

    name: str
    unit: str
    kind: str
    how: str
    path: str = "/1k"
    connections: int = 64
    fields: tuple = ()
    routes: int = 1
    backends: int = 1
    host: str = ""
    limit: float | None = None
    """The ratio to the better of nginx and HAProxy that is promised."""
    versus: tuple = ("nginx", "haproxy")
    grows: bool = False
    """It is the case PLAIN with more to look through, and takes turns with it."""
    tools: tuple = field(default=("wrk",))


PLAIN = "1 KiB, 64 connections"
CASES = [
    Case(PLAIN, "µs/request", "plain", "wrk", limit=0.92),
    Case("1 KiB, peers forward as much", "µs/request", "forwarding", "wrk"),
    Case("1 KiB, half idle", "µs/request", "plain", "wrk", path="/file/1k"),
    Case("1 KiB, 512 connections", "µs/request", "plain", "wrk", connections=512, limit=1.0),
    Case("1 KiB, a connection each", "µs/request", "plain", "wrk", fields=("Connection: close",), limit=1.0),
    Case("64 KiB", "µs/request", "bulk", "wrk", path="/64k", limit=1.0),
    Case("10 MiB", "s/GiB", "bulk", "wrk", path="/10m", connections=8, limit=1.0),
    Case("1 GiB upload", "s/GiB", "upload", "upload", limit=1.0, tools=()),
    Case("TLS handshake + 1 KiB", "µs/request", "tls", "wrk", fields=("Connection: close",), limit=0.7),
    Case("TLS, 64 KiB", "µs/request", "tls-bulk", "wrk", path="/64k", limit=0.7),
    Case("HTTP/2, 1 KiB", "µs/request", "h2", "h2load", limit=1.3, tools=("h2load",)),
    Case("idle connection", "bytes", "idle", "idle", connections=10_000, limit=1.5, versus=("nginx",), tools=()),
    Case("idle WebSocket", "bytes", "tunnels", "tunnels", connections=5_000, limit=1.0, versus=("haproxy",), tools=()),
    Case("1,000 routes", "µs/request", "plain", "wrk", routes=1_000, path="/app999/1k", host="h999.example.com", versus=(), grows=True),
    Case("10,000 routes", "µs/request", "plain", "wrk", routes=10_000, path="/app9999/1k", host="h9999.example.com", versus=(), grows=True),
    Case("1,000 backends", "µs/request", "plain", "wrk", backends=1_000, versus=(), grows=True),
]
PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}


@dataclass
class Figure:
    """What one round of one case showed of one server."""

    value: float
    rate: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    memory: int = 0
    busy: float = 0.0
    """The share of the time in which it ran."""


class Bench:
    def __init__(self, folder, cores, origins, load, seconds, certificate):
        self.folder, self.load = folder, load
        self.origin, self.many, self.sink = origins
        self.proxy_core, self.load_core = cores
        self.seconds, self.certificate = seconds, certificate

    def setup(self, case):
        return Setup(self.folder, self.proxy_core, self.origin, self.sink, self.certificate, case.kind, case.routes, self.backends(case))

    def backends(self, case):
        if case.backends == 1:
            return []
        return range(self.many, self.many + case.backends)

    def measure(self, case, server):
        """One round; starts the server for it and ends it."""
        setup = self.setup(case)
        program = server.start(setup)
        try:
            return self.turn(case, program, setup)
        finally:
            program.stop()

    def turn(self, case, program, setup):
        """One round of a server that is up."""
        return getattr(self, "by_" + case.how)(case, program, setup)

    def turns(self, cases, servers, rounds):
        """All servers of these cases are up at once, and take short turns: (case, round, server, its figure or why
        there is none)."""
        up, failed = [], []
        try:
            for place, case in enumerate(cases):
                for server in servers:
                    setup = self.setup(case)
                    setup.folder = self.folder / f"{server.name}-{place}"
                    setup.folder.mkdir(exist_ok=True)
                    try:
                        up.append((case, server, server.start(setup), setup))
                    except NotRun as reason:
                        yield case, 0, server, reason
            for number in range(rounds):
                for each in self.order(cases, up, number):
                    case, server, program, setup = each
                    if each in failed:
                        continue
                    try:
                        yield case, number, server, self.turn(case, program, setup)
                    except (NotRun, subprocess.TimeoutExpired) as reason:
                        failed.append(each)
                        yield case, number, server, reason
        finally:
            for _, _, program, _ in up:
                program.stop()

    @staticmethod
    def order(cases, up, number):
        """Who has the turns of a round: those of one case stand together, and another begins each time."""
        for place in range(len(cases)):
            case = cases[(place + number) % len(cases)]
            of_case = [each for each in up if each[0] is case]
            first = number % max(len(of_case), 1)
            yield from of_case[first:] + of_case[:first]

    def by_wrk(self, case, program, setup):
        scheme = "https" if setup.tls else "http"
        url = f"{scheme}://127.0.0.1:{setup.port}{case.path}"
        fields = [part for line in (*case.fields, *([f"Host: {case.host}"] if case.host else [])) for part in ("-H", line)]

        def once(seconds):
            said = run(["wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", "--timeout", "20s", "--latency", *fields, url], self.load_core)
            bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
            errors = re.search(r"Socket errors: (.*)", said)
            # wrk counts a close that it was told of as a read error.
            if bad or (errors and not case.fields):
                raise NotRun((bad or errors).group(0))
            return said

        once(1)
        before = program.cpu()
        said = once(self.seconds)
        used = program.cpu() - before
        count = int(re.search(r"(\d+) requests in", said).group(1))
        if count == 0:
            raise NotRun("no request was answered")
        per = used / count
        size = {"/10m": 10 * MIB}.get(case.path)
        value = per * GIB / size if size else per * 1e6
        return Figure(value, float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1)), latency(said, "50%"), latency(said, "99%"), program.memory(), used / self.seconds)

    def by_h2load(self, case, program, setup):
        def once(seconds):
            return run(
                ["h2load", "-t1", f"-c{case.connections // 4}", "-m16", f"-D{seconds}", f"https://127.0.0.1:{setup.port}{case.path}"],
                self.load_core,
            )

        once(1)
        before = program.cpu()
        said = once(self.seconds)
        used = program.cpu() - before
        count = int(re.search(r"(\d+) succeeded", said).group(1))
        if "Application protocol: h2" not in said or count == 0:
            raise NotRun("it does not speak HTTP/2")
        rate = float(re.search(r"finished in [\d.]+s, ([\d.]+) req/s", said).group(1))
        return Figure(used / count * 1e6, rate, memory=program.memory(), busy=used / self.seconds)

    def by_upload(self, case, program, setup):
        address = f"127.0.0.1:{setup.port}"
        run([self.load, "upload", address, 64 * MIB, 1], self.load_core)
        before = program.cpu()
        said = run([self.load, "upload", address, GIB, 1], self.load_core)
        used = program.cpu() - before
        seconds = float(re.search(r"seconds ([\d.]+)", said).group(1))
        return Figure(used, 1 / seconds, memory=program.memory())

    def by_idle(self, case, program, setup):
        return self.held("idle", case, program, setup)

    def by_tunnels(self, case, program, setup):
        return self.held("tunnels", case, program, setup)

    def held(self, what, case, program, setup):
        with Held(self, what, setup.port, 50):
            pass
        before = program.memory()
        with Held(self, what, setup.port, case.connections) as held:
            time.sleep(1)
            memory = program.memory()
            held.check()
        return Figure((memory - before) / case.connections, memory=memory)


class Held:
    """Connections that stay open in silence."""

    def __init__(self, bench, what, port, count):
        argv = ["taskset", "-c", str(bench.load_core), str(bench.load), what, f"127.0.0.1:{port}", str(count)]
        self.count = count
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        line = self.process.stdout.readline()
        if not line.startswith("held"):
            raise NotRun(self.process.stderr.read().strip()[-200:])
        return self

    def check(self):
        """Ends them; all must still have been open."""
        said, _ = self.process.communicate(timeout=PATIENCE)
        if said.strip() != f"open {self.count}":
            raise NotRun(f"of {self.count} connections only {said.strip()}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.communicate(timeout=PATIENCE)


def latency(said, share):
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)\b", said)
    return float(found.group(1)) * {"us": 1, "ms": 1e3, "s": 1e6}[found.group(2)] if found else 0.0
