"""Servers from Debian before one origin, each as its package comes, apart from what a reverse proxy needs."""
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench/gate"))
from machine import NotRun, Program, apt, free_port, wait_for_port

__all__ = ["PROXIES", "Gate", "NotRun"]


class Proxy:
    name = ""
    package = ""
    binary = ""

    def install(self):
        if not self.path() and not (apt(self.package) and self.path()):
            raise NotRun(f"no package brings {self.binary} here")

    def path(self):
        return shutil.which(self.binary, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")

    def version(self, *argv):
        said = subprocess.run(argv or [self.path(), "-v"], capture_output=True, text=True)
        found = re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)
        return found.group(0) if found else ""

    def start(self, origin):
        folder = Path(tempfile.mkdtemp(prefix="desync-"))
        folder.chmod(0o755)
        port = free_port()
        program = Program(self.write(folder, port, origin), "0-63", folder / "log")
        if not wait_for_port(port, program.process):
            program.stop()
            raise NotRun(f"it does not start: {(folder / 'log').read_text(errors='replace').strip()[-200:]}")
        return program, port


class Gate(Proxy):
    name = "gate"

    def __init__(self, binary, alone):
        self.binary, self.alone = binary, alone

    def install(self):
        if not self.binary.exists():
            raise NotRun(f"{self.binary} is not built")

    def version(self):
        return ""

    def write(self, folder, port, origin):
        config = folder / "gate.toml"
        config.write_text(f"""[gate]
threads = 1
[gate.admin]
socket = "{folder}/admin.sock"
[[gate.listener]]
name = "web"
address = "127.0.0.1:{port}"
[[gate.route]]
path = "/"
service = "ORIGIN"
[gate.service.ORIGIN]
backends = [{{ address = "127.0.0.1:{origin}" }}]
""")
        return [self.binary, config] if self.alone else [self.binary, "run", config]


class Nginx(Proxy):
    name, package, binary = "nginx", "nginx-light", "nginx"

    def write(self, folder, port, origin):
        config = folder / "nginx.conf"
        temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config.write_text(f"""
daemon off; pid {folder}/pid; error_log /dev/null; user root;
events {{}}
http {{
  access_log off; {temporary}
  upstream o {{ server 127.0.0.1:{origin} max_fails=0; keepalive 16; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://o; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}""")
        return [self.path(), "-p", folder, "-c", config]


class HaProxy(Proxy):
    name, package, binary = "haproxy", "haproxy", "haproxy"

    def write(self, folder, port, origin):
        config = folder / "haproxy.cfg"
        config.write_text(f"""
defaults
  mode http
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend web
  bind 127.0.0.1:{port}
  default_backend o
backend o
  server o 127.0.0.1:{origin}
""")
        return [self.path(), "-db", "-f", config]


class Apache(Proxy):
    name, package, binary = "apache", "apache2-bin", "apache2"

    def write(self, folder, port, origin):
        config = folder / "apache.conf"
        modules = "/usr/lib/apache2/modules"
        names = ("mpm_event", "authz_core", "proxy", "proxy_http")
        load = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in names)
        config.write_text(f"""
ServerRoot {folder}
ServerName a
PidFile {folder}/pid
DefaultRuntimeDir {folder}
Listen 127.0.0.1:{port}
ErrorLog {folder}/error
{load}
ProxyPass / http://127.0.0.1:{origin}/ retry=0
ProxyTimeout 10
""")
        return [self.path(), "-X", "-f", config]


class Lighttpd(Proxy):
    name, package, binary = "lighttpd", "lighttpd", "lighttpd"

    def write(self, folder, port, origin):
        config = folder / "lighttpd.conf"
        config.write_text(f"""
server.document-root = "{folder}"
server.bind = "127.0.0.1"
server.port = {port}
server.modules = ("mod_proxy")
server.errorlog = "{folder}/error"
proxy.server = ("" => (("host" => "127.0.0.1", "port" => {origin}, "disable-time" => 0)))
""")
        return [self.path(), "-D", "-f", config]


class Squid(Proxy):
    name, package, binary = "squid", "squid", "squid"

    def write(self, folder, port, origin):
        folder.chmod(0o777)
        config = folder / "squid.conf"
        config.write_text(f"""
http_port 127.0.0.1:{port} accel defaultsite=a no-vhost
cache_peer 127.0.0.1 parent {origin} 0 no-query originserver name=o
cache_peer_access o allow all
http_access allow all
cache deny all
access_log none
cache_log {folder}/cache.log
pid_filename none
coredump_dir {folder}
shutdown_lifetime 1 seconds
pinger_enable off
""")
        return [self.path(), "-N", "-f", config]


class Varnish(Proxy):
    name, package, binary = "varnish", "varnish", "varnishd"

    def version(self):
        return super().version(self.path(), "-V")

    def write(self, folder, port, origin):
        config = folder / "varnish.vcl"
        config.write_text(f"""vcl 4.1;
backend o {{ .host = "127.0.0.1"; .port = "{origin}"; }}
sub vcl_recv {{ return (pass); }}
""")
        return [self.path(), "-F", "-j", "none", "-n", folder / "state", "-a", f"127.0.0.1:{port}", "-f", config, "-s", "malloc,32m"]


class H2o(Proxy):
    name, package, binary = "h2o", "h2o", "h2o"

    def write(self, folder, port, origin):
        config = folder / "h2o.yaml"
        config.write_text(f"""
user: root
listen: {{ host: 127.0.0.1, port: {port} }}
hosts:
  default:
    paths:
      "/":
        proxy.reverse.url: "http://127.0.0.1:{origin}/"
        proxy.preserve-host: ON
""")
        return [self.path(), "-m", "worker", "-c", config]


PROXIES = (Nginx, HaProxy, Apache, Lighttpd, Squid, Varnish, H2o)
