"""What a person likes: one TOML file, read once by the console.

Everything in it has a default, so there may be none. What it says wrong is one sentence with file and line, and exit code 2.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from console.keymap import KeymapError, keyed, nearest
from console.themes import THEME_CHOICES
from console.usage import UsageError
from server.config import config_folder

Words = Literal["standard", "plain"]
Opening = Literal["flow", "requests", "engine", "load", "capacity", "lesson", "presenter"]
LARGEST = 1 << 20
"""Bytes; what is larger is no settings file."""


class SettingsError(UsageError):
    """The settings file cannot be used as it stands."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be set."""

    theme: str = "auto"
    """`auto`: light where the terminal says so by COLORFGBG, else dark."""
    words: Words = "standard"
    """Which words the screens begin with."""
    screen: Opening = "flow"
    """Where the console opens."""
    refresh_s: float = 0.0
    """At least so many seconds between two drawings of figures, 0 to 60: for slow lines. 0: as they come."""
    gpu_hour_price: float | None = None
    """What an hour of one GPU costs, in any currency; None: reports name no cost."""
    keys: dict[str, tuple[str, ...]] = {}
    """Name of an action (`spark-serve settings keys`) -> its keys."""


MEANINGS = {
    "theme": f"one of {', '.join(THEME_CHOICES)}",
    "words": f"one of {', '.join(get_args(Words))}",
    "screen": f"one of {', '.join(get_args(Opening))}",
    "refresh_s": "a number of seconds from 0 to 60",
    "gpu_hour_price": "a number above 0",
    "keys": "a table, with a key or a list of keys for each action",
}
_TYPES = {field.name: field.type for field in msgspec.structs.fields(Settings)}


def settings_file() -> Path:
    """Where the settings are, whether or not there are any."""
    return config_folder() / "settings.toml"


def read_settings(path: Path | None = None) -> Settings:
    """What the file says; defaults where there is none. Raises SettingsError."""
    path = path or settings_file()
    text = _text(path)
    return Settings() if text is None else parsed(text, path)


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}).") from None
    if len(raw) > LARGEST:
        raise SettingsError(f"{path} is larger than 1 MiB; that is no settings file.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: this is not UTF-8; save the file as UTF-8.") from None


def parsed(text: str, path: Path) -> Settings:
    """The settings in `text`; `path` is for what is said of it. Raises SettingsError."""
    said = _toml(text, path)
    for name, value in said.items():
        if name not in _TYPES:
            near = nearest(name, _TYPES)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(_TYPES)}"
            raise _wrong(path, text, name, f"there is no setting {name!r}; {hint}")
        if not _fits(name, value):
            raise _wrong(path, text, name, f"{name} must be {MEANINGS[name]}, not {_quoted(value)}")
    keys: dict[str, tuple[str, ...]] = {}
    for name, value in said.get("keys", {}).items():
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
            raise _wrong(path, text, name, f"{name} must be a key or a list of keys, not {_quoted(value)}", "keys")
        keys[name] = tuple(texts)
    try:
        keyed(keys)
    except KeymapError as error:
        raise _wrong(path, text, error.name, f"{error.name}: {error}", "keys") from None
    return msgspec.convert({**said, "keys": keys}, Settings)


def _toml(text: str, path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most have no such file

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
        line = (found and found[1]) or max(1, len(text.splitlines()))
        what = str(error)[: found.start()] if found else str(error)
        raise SettingsError(f"{path}, line {line}: this is no TOML ({what[:1].lower()}{what[1:]}).") from None
    except RecursionError:
        raise SettingsError(f"{path}: this is nested too deep for a settings file.") from None


def _fits(name: str, value: object) -> bool:
    if name == "keys":
        return isinstance(value, dict)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    try:
        value = msgspec.convert(value, _TYPES[name])
    except (msgspec.ValidationError, OverflowError):
        return False
    if name == "theme":
        return value in THEME_CHOICES
    if isinstance(value, float):
        return 0 <= value <= 60 if name == "refresh_s" else 0 < value < 1e9
    return True


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:] + ("" if clause[-1] in "?." else ".")


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _wrong(path: Path, text: str, name: str, why: str, table: str = "") -> SettingsError:
    at = _line_of(text, name, table)
    return SettingsError(f"{path}{f', line {at + 1}' if at is not None else ''}: {why}{'' if why[-1] in '?.' else '.'}")


# Writing


def _line_of(text: str, name: str, table: str = "") -> int | None:
    """Index of the line on which `name` of `table` is given, if it stands there in the usual way."""
    inside = ""
    for index, line in enumerate(text.splitlines()):
        bare = line.strip()
        if header := re.fullmatch(r"\[\s*([^\[\]]*?)\s*\](?:\s*#.*)?", bare):
            inside = header[1].strip("\"'")
            if not table and inside.split(".")[0] == name:
                return index
        elif found := re.match(r"""("[^"]*"|'[^']*'|[\w.-]+)\s*=""", bare):
            given = found[1].strip("\"'")
            if (inside, given) == (table, name) or (not inside and table and given == f"{table}.{name}"):
                return index
    return None


def known(name: str) -> None:
    """Raises SettingsError where there is no setting, nor action, of this name."""
    if name.startswith("keys."):
        try:
            keyed({name.removeprefix("keys."): ("f24",)})
        except KeymapError as error:
            raise SettingsError(_sentence(str(error))) from None
    elif name not in _TYPES or name == "keys":
        near = nearest(name, _TYPES)
        hint = f"did you mean {near!r}?" if near and near != "keys" else "`spark-serve settings` lists them."
        raise SettingsError(f"There is no setting {name!r}; {hint}")


def taken(name: str, words: list[str]) -> object:
    """The value that words of a command line mean for a setting. Raises SettingsError."""
    known(name)
    if name.startswith("keys."):
        return words[0] if len(words) == 1 else words
    word = " ".join(words)
    value: object = word
    if name in {"refresh_s", "gpu_hour_price"}:
        with contextlib.suppress(ValueError):
            value = float(word)
    if not _fits(name, value):
        raise SettingsError(f"{name} must be {MEANINGS[name]}, not {word!r}.")
    return value


def changed(text: str, name: str, value: object, path: Path) -> str:
    """`text` with one setting set, or with None taken out; comments stay. `keys.NAME` is one of the keys.

    Raises SettingsError where the result would be wrong, or where the file is written in a way in which its one line cannot
    be found.
    """
    said = _toml(text, path)
    if name.startswith("keys.") and value is not None:
        _refuse_key(name.removeprefix("keys."), value, said.get("keys"))
    table, _, key = name.rpartition(".")
    lines = text.splitlines()
    at = _line_of(text, key, table)
    if at is not None and value is not None:
        lines[at] = re.sub(r"=.*", lambda _: f"= {_written(value)}{_comment(lines[at])}", lines[at], count=1)
    elif at is not None:
        del lines[at]
    elif value is not None:
        _insert(lines, table, f"{key} = {_written(value)}")
    after = "".join(f"{line}\n" for line in lines)
    wanted = {**said, table: dict(said.get(table, {}))} if table else dict(said)
    group = wanted[table] if table else wanted
    group.pop(key, None)
    if value is not None:
        group[key] = value
    try:
        same = _filled(_toml(after, path)) == _filled(wanted)
    except SettingsError:
        same = False
    if not same:
        raise SettingsError(f"{path} writes {name} in a way that is not changed from here; edit it by hand.")
    parsed(after, path)
    return after


def _filled(said: dict[str, Any]) -> dict[str, Any]:
    """Without empty tables."""
    return {name: value for name, value in said.items() if value != {}}


def _refuse_key(action: str, value: object, others: object) -> None:
    """Raises SettingsError where this key cannot be among those there are."""
    keys = {name: one for name, one in (others.items() if isinstance(others, dict) else ()) if name != action}
    try:
        keyed({name: (one,) if isinstance(one, str) else tuple(one) for name, one in {**keys, action: value}.items()})
    except KeymapError as error:
        raise SettingsError(_sentence(str(error))) from None


def _insert(lines: list[str], table: str, line: str) -> None:
    """The top level ends before the first header; a table begins at its own."""
    headers = [index for index, one in enumerate(lines) if one.lstrip().startswith("[")]
    if not table:
        lines.insert(headers[0] if headers else len(lines), line)
        return
    own = next((index for index in headers if re.match(rf"\s*\[\s*{table}\s*\]", lines[index])), None)
    if own is None:
        lines += [*([""] if lines else []), f"[{table}]", line]
    else:
        lines.insert(own + 1, line)


def _comment(line: str) -> str:
    """What follows the value on its line; strings and lists with a `#` in them have none that is found."""
    found = re.search(r"""^[^#"']*(?:"[^"]*"[^#"']*|'[^']*'[^#"']*)*(\s#.*)$""", line)
    return "  " + found[1].strip() if found else ""


def _written(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}" if value != round(value) or value >= 1e15 else f"{value:.1f}"
    text = str(value)
    return f"'{text}'" if "'" not in text and ("\\" in text or '"' in text) else '"' + text.replace("\\", "\\\\") + '"'


def put(name: str, value: object, path: Path | None = None) -> None:
    """Set one setting in the file, or with None take it out. The file is replaced at once and is this user's alone (0600).

    Raises SettingsError, and OSError where it cannot be written.
    """
    import tempfile  # noqa: PLC0415 - most never write

    path = (path or settings_file()).resolve()
    after = changed(_text(path) or "", name, value, path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".settings-")  # 0600 by itself
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(after)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
