"""What can stand between a client and the server: nothing, nginx, the LiteLLM proxy, or our gateway.

Each is a process of its own on loopback, pinned to one core and configured in a scratch folder; none is a dependency.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadgen.known_replies import MODEL

ROOT = Path(__file__).parents[1]
START_S, END_S = 180.0, 10.0
MAX_IN_FLIGHT, MAX_QUEUE = 256, 1024
MASTER_KEY = "sk-loopback"
NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{ server {engine}; keepalive 512; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Cores:
    """With two cores, client and server share one: what is measured has one for itself."""

    client: int
    server: int
    gateway: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Raises RuntimeError with fewer than two."""
        free = sorted(os.sched_getaffinity(0))
        if len(free) < 2:
            raise RuntimeError("this bench needs two cores")
        return cls(free[0], free[0], free[1]) if len(free) == 2 else cls(*free[:3])


@dataclass(frozen=True)
class System:
    name: str
    url: str
    version: str
    pid: int | None = None
    """The root of its processes; None: nothing is between client and server."""
    api_key: str | None = None

    def pids(self) -> list[int]:
        if self.pid is None:
            return []
        return sorted([self.pid, *(one.pid for one in psutil.Process(self.pid).children(recursive=True))])

    def rest(self) -> None:
        """Hold its processes, so that what it still has to do costs the one that is measured nothing."""
        for pid in self.pids():
            psutil.Process(pid).suspend()

    def wake(self) -> None:
        for pid in self.pids():
            psutil.Process(pid).resume()


@contextlib.contextmanager
def child(
    command: list[str], core: int, out: Path, *, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose stdin is open and whose words go to a file; it and all below it have ended afterwards."""
    with out.open("wb") as words:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=cwd,
            env={**os.environ, "NO_PROXY": "127.0.0.1", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=words,
        )
    assert process.stdin is not None
    try:
        yield process
    finally:
        family = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
        process.stdin.close()
        process.terminate()
        for pid in [process.pid, *(one.pid for one in family)]:  # a process at rest does not end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in psutil.wait_procs(family, timeout=END_S)[1]:
            with contextlib.suppress(psutil.Error):
                left.kill()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes], out: Path) -> None:
    """Raises RuntimeError with its last words when it ends or does not listen."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} does not listen: {out.read_text(errors='replace')[-600:]}")


@contextlib.contextmanager
def known_server(core: int, scratch: Path) -> Iterator[System]:
    """A server that does what each request's body says and stamps its writes."""
    port, out = free_port(), scratch / "known.log"
    with child([sys.executable, "-m", "loadgen.known", "--port", str(port)], core, out) as process:
        await_port(port, process, out)
        yield System("server", f"http://127.0.0.1:{port}", "", process.pid)


@contextlib.contextmanager
def direct(engine_url: str) -> Iterator[System]:
    yield System("direct", engine_url, "")


@contextlib.contextmanager
def nginx(program: str, engine_url: str, core: int, scratch: Path) -> Iterator[System]:
    port, out = free_port(), scratch / "nginx.log"
    folder = scratch / "nginx"
    folder.mkdir()
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # its worker has to write in the scratch folder
    config.write_text(NGINX.format(user=user, folder=folder, engine=engine_url.removeprefix("http://"), port=port))
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr.strip()
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
    with child(command, core, out) as process:
        await_port(port, process, out)
        yield System("nginx", f"http://127.0.0.1:{port}", version.rpartition("/")[2], process.pid)


@contextlib.contextmanager
def litellm(program: str, engine_url: str, core: int, scratch: Path) -> Iterator[System]:
    """One worker, no database, the client's own X-Request-Id passed on."""
    port, out = free_port(), scratch / "litellm.log"
    config = scratch / "litellm.yaml"
    upstream = {"model": f"openai/{MODEL}", "api_base": f"{engine_url}/v1", "api_key": "none"}
    config.write_text(  # JSON is YAML
        json.dumps(
            {
                "model_list": [{"model_name": MODEL, "litellm_params": upstream}],
                "general_settings": {"forward_client_headers_to_llm_api": True},
                "litellm_settings": {"telemetry": False},
            }
        )
    )
    env = {
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "REPEATED_STREAMING_CHUNK_LIMIT": "1000000",  # the server says one word again and again
        "DO_NOT_TRACK": "1",
    }
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with child(command, core, out, env=env) as process:
        await_port(port, process, out)
        yield System("LiteLLM proxy", f"http://127.0.0.1:{port}", litellm_version(program), process.pid, MASTER_KEY)


def litellm_version(program: str) -> str:
    ask = "import importlib.metadata as m; print(m.version('litellm'))"
    python = Path(shutil.which(program) or program).parent / "python"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def ours(tree: Path, engine_url: str, core: int, scratch: Path) -> Iterator[System]:
    """The gateway of a checkout, with its usual policy; its records go to a file as they would go to the stack."""
    port, out = free_port(), scratch / "gateway.log"
    command = [
        *(sys.executable, "-m", "server.gateway", "--host", "127.0.0.1", "--port", str(port)),
        *("--engine-url", engine_url, "--engine-state", "ready"),
        *("--max-in-flight", str(MAX_IN_FLIGHT), "--max-queue", str(MAX_QUEUE)),
    ]
    with child(command, core, out, cwd=tree, env={"PYTHONPATH": str(tree)}) as process:
        await_port(port, process, out)
        yield System("our gateway", f"http://127.0.0.1:{port}", revision(tree), process.pid)


def revision(tree: Path) -> str:
    """The commit of a checkout, with a + when files differ from it; empty outside one."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(tree), *words], capture_output=True, text=True, check=False).stdout

    return git("rev-parse", "--short", "HEAD").strip() + "+" * bool(git("status", "--porcelain", "server", "loadgen"))
