"""Engines that somebody else started: found on this machine, or named by URL and checked to be what they say."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import httpx
import psutil

from server.engine.errors import EngineError
from server.engine.launch import given
from server.keys import authorization

PORTS = range(8000, 8011)
TIMEOUT = httpx.Timeout(3.0, connect=1.0)
LOOK_TIMEOUT = httpx.Timeout(1.0, connect=0.3)
URL_LIMIT = 300
"""Characters; a host's name has at most 253."""
PAGE_LIMIT_BYTES = 4 * 1024 * 1024
_SERVER = re.compile(
    r"vllm\.entrypoints\.(?:openai\.api_server|launchers\.api_server\.entry|cli\.main)$|(?:^|/)vllm$|^VLLM::APIServer"
)
_MODEL_NAME = re.compile(r'^vllm:\w+\{[^}\n]*model_name="([^"\n]*)"', re.M)


@dataclass(frozen=True)
class Found:
    """A vLLM that answers."""

    url: str
    """Scheme, host and port, nothing behind."""
    pid: int | None
    """None where the process cannot be seen (another user's, a container's)."""
    model: str
    version: str
    max_model_len: int | None = None
    """Tokens, from /v1/models."""
    max_num_seqs: int | None = None
    """As its command line says, where that can be seen and it was given; vLLM itself does not tell it."""


def base_url(url: str) -> str:
    """Scheme, host and port of what a person typed. Raises EngineError for what no engine's address looks like."""
    text = url if "://" in url else f"http://{url}"
    if "@" in text:  # first of all, so that no sentence repeats a password
        raise EngineError("A URL with a user or a password in it is refused; give http://HOST:PORT.")
    if len(text) > URL_LIMIT or not text.isprintable() or " " in text:
        raise EngineError(
            f"{ascii(url[:40])[1:-1]} is no URL: too long, or with blanks or controls in it; give http://HOST:PORT."
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise EngineError(f"{url} is no URL: {error}.") from error
    if parts.scheme not in {"http", "https"}:
        raise EngineError(f"{url} is not http; give the engine's address as http://HOST:PORT.")
    if port == 0:
        raise EngineError(f"{url} is no URL: nothing listens on port 0.")
    if parts.hostname and _is_nearby(parts.hostname):
        raise EngineError(
            f"{url} is a link-local or multicast address, where no engine is looked for; give http://HOST:PORT."
        )
    if not parts.hostname:
        raise EngineError(f"{url} names no host; give http://HOST:PORT.")
    if parts.path.rstrip("/") not in {"", "/v1"} or parts.query or parts.fragment:
        raise EngineError(f"{url} has something behind the port; give http://HOST:PORT.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _is_nearby(host: str) -> bool:
    """A link-local address (a cloud's metadata lives there) or one of many hosts, in any way of writing that the system's
    resolver takes for a number."""
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any(one.is_link_local or one.is_multicast for one in (address, mapped) if one is not None)


def probe(url: str, *, timeout: httpx.Timeout = TIMEOUT, key: str | None = None) -> Found:
    """Ask whether a vLLM is there (two or three requests), with `key` where a person has named both. Raises EngineError with
    one sentence."""
    base = base_url(url)
    headers = authorization(key)
    with httpx.Client(timeout=timeout, follow_redirects=False, trust_env=False, headers=headers) as http:
        models = _get(http, base, "/v1/models")
        listed = _models(models, base)
        metrics = _get(http, base, "/metrics")
        if metrics.status_code != 200 or "vllm:" not in metrics.text:
            raise EngineError(f"{base} speaks the OpenAI API but is no vLLM: its /metrics has no vllm: figures.")
        answer = _get(http, base, "/version")
    name = next(iter(listed), None)
    by_metric = _MODEL_NAME.search(metrics.text)
    pid = _local_pid(base)
    return Found(
        url=base,
        pid=pid,
        max_num_seqs=given(_command(pid), "--max-num-seqs"),
        model=name or (by_metric.group(1) if by_metric else ""),
        version=_version(answer),
        max_model_len=listed.get(name) if name is not None else None,
    )


def _local_pid(base: str) -> int | None:
    """Who listens there, if it is this machine's loopback and the kernel says it."""
    parts = urlsplit(base)
    if parts.hostname not in {"127.0.0.1", "localhost", "::1"}:
        return None
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return next((one.pid for one in connections if one.pid and _listening_port(one) == port), None)


def _command(pid: int | None) -> list[str]:
    """A process's command line; empty where it cannot be read."""
    try:
        return list(psutil.Process(pid).cmdline()) if pid is not None else []
    except psutil.Error:
        return []


def _get(http: httpx.Client, base: str, path: str) -> httpx.Response:
    try:
        with http.stream("GET", base + path) as response:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > PAGE_LIMIT_BYTES:
                    raise EngineError(f"{base}{path} answers without an end; that is no engine.")
            answer = httpx.Response(response.status_code, headers=_plain(response.headers), content=bytes(body))
    except httpx.ConnectError as error:
        raise EngineError(f"Nothing answers at {base}; check the address and that the engine runs.") from error
    except httpx.TimeoutException as error:
        raise EngineError(f"{base} did not answer in time; check the address, or whether the engine hangs.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineError(f"{base} does not speak HTTP ({type(error).__name__}).") from error
    if answer.is_redirect:
        raise EngineError(f"{base} sends us elsewhere ({answer.status_code}); give the engine's own address.")
    return answer


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Headers of a body that is decoded already."""
    return {key: value for key, value in headers.items() if key in {"content-type", "location"}}


def _models(answer: httpx.Response, base: str) -> dict[str, int | None]:
    """Served names with their context lengths. 401: a key is needed, and the metrics still tell."""
    if answer.status_code == 401:
        return {}
    if "html" in answer.headers.get("content-type", "") or answer.text.lstrip()[:1] == "<":
        raise EngineError(f"{base} answers with a web page, not with an engine's API; check the port.")
    try:
        document = answer.json()
        entries = document["data"] if answer.status_code == 200 else None
        if not isinstance(entries, list):
            raise TypeError
        return {
            str(entry["id"]): entry.get("max_model_len") if isinstance(entry.get("max_model_len"), int) else None
            for entry in entries
        }
    except (ValueError, KeyError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise EngineError(f"{base} is no OpenAI-compatible server: /v1/models says {answer.status_code}.") from error


def _version(answer: httpx.Response) -> str:
    try:
        version = answer.json()["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return version if isinstance(version, str) else ""


def discover(skip_pids: frozenset[int] = frozenset(), ports: Collection[int] = PORTS) -> list[Found]:
    """vLLM servers that answer on this machine, ours (`skip_pids`) left out. About a second at most for each address."""
    candidates: dict[int, int | None] = dict.fromkeys(_listening(set(ports)))
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.pid not in skip_pids and any(_SERVER.search(argument) for argument in command[:4]):
            for port in _ports(process, command):
                candidates[port] = process.pid
    found: list[Found] = []
    for port, pid in sorted(candidates.items()):
        try:
            answer = probe(f"http://127.0.0.1:{port}", timeout=LOOK_TIMEOUT)
        except EngineError:
            continue
        found.append(replace(answer, pid=answer.pid or pid))
    return found


def _listening(ports: set[int]) -> list[int]:
    """Which of the ports anyone listens on; all of them where the kernel does not say."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return sorted(ports)
    busy = {port for connection in connections if (port := _listening_port(connection)) is not None}
    return sorted(busy & ports)


def _ports(process: psutil.Process, command: list[str]) -> list[int]:
    """Where a server listens, from its sockets, else from its command line."""
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        connections = []
    ports = [port for connection in connections if (port := _listening_port(connection)) is not None]
    if ports:
        return ports
    for position, argument in enumerate(command):
        value = argument.partition("=")[2] if argument.startswith("--port=") else ""
        if argument == "--port" and position + 1 < len(command):
            value = command[position + 1]
        if value.isdigit():
            return [int(value)]
    return [8000]


def _listening_port(connection: object) -> int | None:
    address = getattr(connection, "laddr", None)
    return address.port if address and getattr(connection, "status", "") == psutil.CONN_LISTEN else None
