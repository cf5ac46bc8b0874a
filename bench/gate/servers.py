"""The servers side by side: how each is installed, tuned and started.

The peers are tuned as for themselves: one worker on the measured core, connections to the origin kept, access log off,
bodies streamed with the buffers that suit the case, no header added but `Host`. The gate runs as it comes, with one
thread, health checks and metrics on; it adds four forwarding fields to each request, which cost the origin, too. In the
case "peers forward as much" nginx and HAProxy add the same four.
"""
import re
import shutil
import subprocess
from pathlib import Path

from machine import NotRun, Program, apt, free_port, free_range, wait_for_port

FILES = {"1k": 1024, "64k": 64 * 1024, "10m": 10 * 1024 * 1024}
OPEN_FILES = 20_000


def origin_files(folder):
    root = folder / "files"
    root.mkdir(exist_ok=True)
    for name, size in FILES.items():
        (root / name).write_bytes(b"x" * size)
    return root


NGINX_HEAD = """
worker_processes 1; worker_rlimit_nofile {files}; daemon off; pid {folder}/{name}.pid; error_log stderr crit;
events {{ worker_connections {files}; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 0;
  client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-f; uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;
"""


def nginx_origin(folder, core, many=0, socket=""):
    """The origin of what is downloaded: nginx, on the core of the load; also on `many` ports from the second one it
    names on. `socket`: more options of nginx's `listen`.

    `/1k` and `/app…` come from memory, in the fields that a file has: a small file read for each request would make the
    origin slower than what is measured, which would then be measured half idle. `/file/1k` is that. The rest is sent
    with sendfile."""
    port, first = free_port(), free_range(many)
    listens = "".join(f"listen 127.0.0.1:{each} backlog=4096 {socket}; " for each in (port, *range(first, first + many)))
    small = (
        "add_header Last-Modified 'Sun, 01 Nov 2026 00:00:00 GMT'; add_header ETag '\"1-400\"'; add_header Accept-Ranges bytes; "
        f"return 200 '{'x' * FILES['1k']}';"
    )
    config = folder / "origin.conf"
    config.write_text(
        NGINX_HEAD.format(files=OPEN_FILES, folder=folder, name="origin")
        + f"""  sendfile on; tcp_nopush on; root {origin_files(folder)};
  server {{ {listens}
    location /1k {{ {small} }}
    location /app {{ {small} }}
    location /file/ {{ rewrite ^/file(/.*)$ $1 break; }}
  }}
}}
"""
    )
    program = Program(["nginx", "-p", folder, "-c", config], core, folder / "origin.log")
    if not wait_for_port(port, program.process):
        raise NotRun(f"the origin does not start: {program.log.read_text()[-300:]}")
    return program, port, first


class Server:
    """One of those that are measured. `kind` of a case: plain, bulk, upload, tls, h2, tunnels."""

    name = ""
    packages = ()
    binary = ""

    def install(self):
        if not shutil.which(self.binary) and not (self.packages and apt(*self.packages)):
            raise NotRun(f"{self.name}: no package brings it here")
        if not shutil.which(self.binary):
            raise NotRun(f"{self.name}: {self.binary} is not in the package")

    def version(self):
        return ""

    def write(self, setup):
        """Writes the settings for `setup`; the command."""
        raise NotImplementedError

    def start(self, setup):
        setup.port = free_port()
        argv = self.write(setup)
        program = Program(argv, setup.core, setup.folder / f"{self.name}.log")
        if not wait_for_port(setup.port, program.process):
            program.stop()
            raise NotRun(f"{self.name} does not start: {last_line(program.log)}")
        return program


def last_line(log):
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    loud = [line for line in lines if "error" in line.lower() or "alert" in line.lower()]
    return (loud or lines or ["it says nothing"])[0][:200]


def first_number(argv):
    said = subprocess.run(argv, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)
    return found.group(0) if found else "?"


class Setup:
    """Where a server of one case listens, what stands behind it, and how it is tuned."""

    def __init__(self, folder, core, origin, sink, certificate, kind, routes=1, backends=()):
        self.folder, self.core, self.kind = folder, core, kind
        self.origin, self.sink, self.certificate = origin, sink, certificate
        self.routes, self.backends = routes, list(backends) or [origin]
        self.port = 0

    @property
    def tls(self):
        return self.kind in ("tls", "tls-bulk", "h2")


class Gate(Server):
    name = "gate"

    def __init__(self, binary, alone):
        self.binary, self.alone = str(binary), alone
        self.health = True

    def install(self):
        if not Path(self.binary).exists():
            raise NotRun(f"gate: {self.binary} is not built")

    def version(self):
        return "" if self.alone else first_number([self.binary, "--version"])

    def text(self, setup):
        tls = ""
        if setup.tls:
            protocols = '["h2", "http/1.1"]' if setup.kind == "h2" else '["http/1.1"]'
            tls = f'protocols = {protocols}\ntls = {{ certificate = "{setup.certificate}.pem", key = "{setup.certificate}.key" }}\n'
        backends = ", ".join(f'{{ address = "127.0.0.1:{port}" }}' for port in setup.backends)
        # Probes of a thousand addresses of one origin would measure the origin.
        health = 'health = { http = "/1k", interval = "2s" }\n' if self.health and len(setup.backends) == 1 else ""
        more = "".join(
            f'[[gate.route]]\nname = "r{n}"\nhost = ["h{n}.example.com"]\npath = "/app{n}"\nservice = "ORIGIN"\n'
            for n in range(1, setup.routes)
        )
        return f"""[gate]
threads = 1
[gate.admin]
socket = "{setup.folder}/gate.sock"
[gate.limits]
keep_alive = "1h"
[[gate.listener]]
name = "web"
address = "127.0.0.1:{setup.port}"
connections_max = {OPEN_FILES}
{tls}[[gate.route]]
path = "/"
service = "ORIGIN"
[[gate.route]]
path = "/upload"
service = "SINK"
[[gate.route]]
path = "/ws"
service = "SINK"
{more}[gate.service.ORIGIN]
backends = [{backends}]
{health}[gate.service.SINK]
backends = [{{ address = "127.0.0.1:{setup.sink}" }}]
"""

    def write(self, setup):
        config = setup.folder / "gate.toml"
        config.write_text(self.text(setup))
        return [self.binary, config] if self.alone else [self.binary, "run", config]

    def start(self, setup):
        try:
            return super().start(setup)
        except NotRun as refused:
            # A version without health checks says so; then it is measured without, and the table says that.
            if not self.health or "health" not in str(refused) + (setup.folder / "gate.log").read_text(errors="replace"):
                raise
            self.health = False
            return super().start(setup)


class Nginx(Server):
    name = "nginx"
    packages = ("nginx-light",)
    binary = "nginx"

    def version(self):
        return first_number(["nginx", "-v"])

    def write(self, setup):
        listen = f"listen 127.0.0.1:{setup.port} backlog=4096"
        tls = ""
        if setup.tls:
            listen += " ssl" + (" http2" if setup.kind == "h2" else "")
            tls = f"ssl_certificate {setup.certificate}.pem; ssl_certificate_key {setup.certificate}.key; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:10m;"
        bulk = setup.kind in ("bulk", "tls-bulk", "upload")
        buffers = (
            "proxy_buffering off; proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k; proxy_request_buffering off; client_body_buffer_size 256k;"
            if bulk else ""
        )
        fields = ""
        if setup.kind == "forwarding":
            fields = (
                "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host; "
                "proxy_set_header Forwarded 'for=$remote_addr;host=\"$http_host\";proto=$scheme';"
            )
        servers = "".join(f"server 127.0.0.1:{port} max_fails=0;" for port in setup.backends)
        more = "".join(
            f"  server {{ listen 127.0.0.1:{setup.port}; server_name h{n}.example.com; location /app{n} {{ proxy_pass http://origin; }} }}\n"
            for n in range(1, setup.routes)
        )
        config = setup.folder / "nginx.conf"
        config.write_text(
            NGINX_HEAD.format(files=OPEN_FILES, folder=setup.folder, name="nginx") + f"""
  {tls}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; {fields} {buffers}
  server_names_hash_max_size 65536; server_names_hash_bucket_size 128;
  upstream origin {{ {servers} keepalive 1024; keepalive_requests 1000000000; }}
  upstream sink {{ server 127.0.0.1:{setup.sink}; keepalive 64; }}
  server {{
    {listen} default_server;
    location / {{ proxy_pass http://origin; }}
    location /upload {{ proxy_pass http://sink; }}
    location /ws {{ proxy_pass http://sink; proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 1h; }}
  }}
{more}}}
""")
        return ["nginx", "-p", setup.folder, "-c", config]


class HaProxy(Server):
    name = "haproxy"
    packages = ("haproxy",)
    binary = "haproxy"

    def version(self):
        return first_number(["haproxy", "-v"])

    def write(self, setup):
        bind = f"bind 127.0.0.1:{setup.port} backlog 4096"
        if setup.tls:
            pem = setup.folder / "haproxy.pem"
            parts = [Path(f"{setup.certificate}{ending}").read_text() for ending in (".pem", ".key")]
            pem.write_text("".join(parts))
            bind += f" ssl crt {pem}" + (" alpn h2,http/1.1" if setup.kind == "h2" else "")
        bulk = setup.kind in ("bulk", "tls-bulk", "upload")
        servers = "\n".join(f"  server o{n} 127.0.0.1:{port}" for n, port in enumerate(setup.backends))
        more = "".join(
            f"  use_backend origin if {{ hdr(host) -i h{n}.example.com }} {{ path_beg /app{n} }}\n"
            for n in range(1, setup.routes)
        )
        if setup.routes > 1:
            # Its way for many hosts is a map; ten thousand rules would be unfair.
            table = setup.folder / "haproxy.map"
            table.write_text("".join(f"h{n}.example.com/app{n} origin\n" for n in range(1, setup.routes)))
            more = f"  use_backend %[base,map_beg({table},origin)]\n"
        fields = ""
        if setup.kind == "forwarding":
            fields = """
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header Forwarded for=%[src];host=\\"%[req.hdr(host)]\\";proto=http
"""
        config = setup.folder / "haproxy.cfg"
        config.write_text(f"""
global
  # It reckons with two descriptors for each connection; idle ones need one.
  no strict-limits
  maxconn 15000
  nbthread 1
  tune.bufsize {65536 if bulk else 16384}
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
  timeout http-keep-alive 1h
  option http-keep-alive
  http-reuse always
frontend web
  {bind}
  maxconn 15000{fields}
  use_backend sink if {{ path_beg /upload }} || {{ path_beg /ws }}
{more}  default_backend origin
backend origin
{servers}
backend sink
  server s 127.0.0.1:{setup.sink}
""")
        return ["haproxy", "-db", "-f", config]


class Caddy(Server):
    name = "caddy"
    packages = ("caddy",)
    binary = "caddy"

    def version(self):
        return first_number(["caddy", "version"])

    def write(self, setup):
        if setup.routes > 1:
            raise NotRun("caddy: only the common cases")
        site = f"http://127.0.0.1:{setup.port}"
        tls = ""
        if setup.tls:
            site = f"https://127.0.0.1:{setup.port}"
            tls = f"tls {setup.certificate}.pem {setup.certificate}.key"
        backends = " ".join(f"127.0.0.1:{port}" for port in setup.backends)
        config = setup.folder / "Caddyfile"
        config.write_text(f"""{{
  admin off
  auto_https off
  storage file_system {setup.folder}/caddy
}}
{site} {{
  {tls}
  reverse_proxy /upload* 127.0.0.1:{setup.sink}
  reverse_proxy /ws* 127.0.0.1:{setup.sink}
  reverse_proxy {backends} {{
    transport http {{
      keepalive_idle_conns_per_host 1024
    }}
  }}
}}
""")
        return ["env", "GOMAXPROCS=1", f"HOME={setup.folder}", "caddy", "run", "--adapter", "caddyfile", "--config", config]


class Envoy(Server):
    name = "envoy"
    packages = ("envoy",)
    binary = "envoy"

    def version(self):
        return first_number(["envoy", "--version"])

    def write(self, setup):
        if setup.tls or setup.routes > 1 or len(setup.backends) > 1:
            raise NotRun("envoy: only the common cases")
        cluster = """
  - name: {name}
    connect_timeout: 5s
    load_assignment:
      cluster_name: {name}
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]
"""
        clusters = cluster.format(name="origin", port=setup.origin) + cluster.format(name="sink", port=setup.sink)
        config = setup.folder / "envoy.yaml"
        config.write_text(f"""
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {setup.port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          upgrade_configs: [{{ upgrade_type: websocket }}]
          stream_idle_timeout: 3600s
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{ match: {{ prefix: "/upload" }}, route: {{ cluster: sink, timeout: 0s }} }}
              - {{ match: {{ prefix: "/ws" }}, route: {{ cluster: sink, timeout: 0s }} }}
              - {{ match: {{ prefix: "/" }}, route: {{ cluster: origin, timeout: 0s }} }}
  clusters:{clusters}
""")
        return ["envoy", "--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id", "-c", config]


class Traefik(Server):
    name = "traefik"
    packages = ("traefik",)
    binary = "traefik"

    def version(self):
        return first_number(["traefik", "version"])

    def write(self, setup):
        if setup.tls or setup.routes > 1:
            raise NotRun("traefik: only the common cases")
        servers = "".join(f'          - url: "http://127.0.0.1:{port}"\n' for port in setup.backends)
        dynamic = setup.folder / "traefik-routes.yaml"
        dynamic.write_text(f"""
http:
  routers:
    sink: {{ rule: "PathPrefix(`/upload`) || PathPrefix(`/ws`)", service: sink }}
    all: {{ rule: "PathPrefix(`/`)", service: origin }}
  services:
    sink: {{ loadBalancer: {{ servers: [{{ url: "http://127.0.0.1:{setup.sink}" }}] }} }}
    origin:
      loadBalancer:
        servers:
{servers}""")
        config = setup.folder / "traefik.yaml"
        config.write_text(f"""
entryPoints: {{ web: {{ address: "127.0.0.1:{setup.port}" }} }}
providers: {{ file: {{ filename: "{dynamic}" }} }}
log: {{ level: ERROR }}
""")
        return ["env", "GOMAXPROCS=1", "traefik", f"--configFile={config}"]
