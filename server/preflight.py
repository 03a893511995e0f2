"""What can be known to fail before anything is started: one sentence now beats a dead daemon in a minute."""

from __future__ import annotations

import os
from pathlib import Path

from loadgen.target import API_KEY
from server.config import Paths, SettingError, StackSettings
from server.engine.discover import Found
from server.engine.environment import find_environment
from server.engine.errors import EngineError
from server.engine.launch import check_arguments
from server.engine.models import check_model
from server.engine.replicas import endpoints, probed, same_model
from server.gateway.access import exposed
from server.keys import engine_key
from server.supervisor import port_in_use
from server.watch_place import group_id


def check(settings: StackSettings, paths: Paths) -> None:
    """Raises SettingError or EngineError with one sentence that says what is wrong and what to do."""
    if why := exposed(settings.gateway_host, os.environ.get(API_KEY)):
        raise SettingError(f"{why}.")
    ports = [("--port", settings.gateway_host, settings.gateway_port)]
    if settings.record is not None:
        _check_recording(Path(settings.record))
    if settings.watchers:
        group_id(settings.watchers)
    if settings.attach is not None:
        _check_attached([settings.attach, *settings.replicas])
    else:
        check_arguments(settings)
        environment = find_environment(settings, paths)
        check_model(settings, environment, paths)
        ports.append(("--engine-port", settings.engine_host, settings.engine_port))
    for flag, host, port in ports:
        holder = port_in_use(host, port)
        if holder is not None:
            raise SettingError(
                f"Port {port} is in use{holder and f' by {holder}'}; free it or choose another with {flag}."
            )


def _check_attached(urls: list[str]) -> None:
    """One that does not answer yet is waited for where another does; one that serves another model is refused."""
    for url in endpoints(urls):
        if url.startswith("https:"):
            raise SettingError("https is not supported yet; give the http:// address of the engine itself.")
    answers = probed(endpoints(urls), engine_key())
    found = [answer for answer in answers.values() if isinstance(answer, Found)]
    if not found:
        raise next(answer for answer in answers.values() if isinstance(answer, EngineError))
    same_model(found)


def _check_recording(path: Path) -> None:
    if path.exists():
        raise SettingError(f"{path} exists already; recordings are never written over.")
    if not path.parent.is_dir():
        raise SettingError(f"There is no folder {path.parent} to record into.")
