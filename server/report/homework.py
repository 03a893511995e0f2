"""`request_log.md` as homework: written blank with room for predictions, filled in later with what a run measured.

What spark-serve writes into it stands between two comment lines, the first of which carries a digest of what is between
them. Filling in again replaces those parts, unless somebody wrote into one: then its digest is wrong, and it stays. Every
other byte of the file stays as it is, whatever it says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.report.predictions import NAMES, QUESTIONS, WORDS, Asked, Guess, comparison, guess
from server.report.rows import Run
from server.report.text import fenced

VERSION = 1
MARK = f"<!-- spark-serve homework {VERSION} -->"
SIZE_LIMIT = 4 * 1024 * 1024
PICTURE = "users ──▶ API endpoint ──▶ queue (policy lives here) ──▶ model server ──▶ GPU ──▶ streamed tokens"
TRIES = 3
"""A file that changes while it is filled in is read anew so many times."""

_MARK = re.compile(r"^<!-- spark-serve homework (\d{1,9}) -->\s*$")
_BEGIN = re.compile(r"^<!-- spark-serve wrote ([0-9a-f]{12}) -->$")
_BEGIN_LINE, _END = "<!-- spark-serve wrote {} -->", "<!-- spark-serve end -->"
_HEADING = re.compile(r"^#{1,6}\s")
_SECTION = re.compile(r"^#{2,4}\s*([1-7])\b")
_ASKS = re.compile(r"^\W*(what waits|what fails|what do we measure|how many people)\b", re.IGNORECASE)
_KINDS = {"what waits": "waits", "what fails": "fails", "what do we measure": "measure", "how many people": "knee"}
_PREDICTION = re.compile(r"^\W{0,4}prediction\W{0,3}:\**(.*)$", re.IGNORECASE)


class HomeworkError(Exception):
    """One sentence on why a homework cannot be written or filled in."""


@dataclass(frozen=True)
class Prediction:
    """What stands after one `prediction:`."""

    asked: Asked
    text: str
    after: int
    """Index of the line behind it, where the answer goes."""

    @property
    def guess(self) -> Guess | None:
        return guess(self.text, self.asked.unit)


def blank() -> str:
    """The homework before the run."""
    lines = [
        MARK,
        "",
        "# Request log",
        "",
        *fenced([PICTURE]),
        "",
        "Before the run, write after every `prediction:` what you expect. Anything goes; the first number in it (or a range,",
        "`80 to 120 ms`) is compared with what the run measures. Then do the run and let it fill in what happened:",
        "",
        "    spark-serve report [RECORDING] --homework request_log.md",
        "",
        "Nothing that you write is changed. Leave the headings, the questions and the lines in `<!-- -->` where they are.",
        "",
    ]
    section = 0
    for asked in QUESTIONS:
        if asked.section != section:
            section = asked.section
            lines += [f"## {section}. {NAMES[section]}", ""]
        lines += [f"**{WORDS[asked.kind]}** {asked.text}", "", "prediction:", ""]
    lines += ["## What surprised me", "", ""]
    return "\n".join(lines)


def predictions(text: str) -> list[Prediction]:
    """What was predicted, in the order of the questions; those for which there is no room in `text` are left out.

    Raises HomeworkError when it is no homework.
    """
    lines = text.split("\n")
    _check(lines)
    return _found(lines)


def _found(lines: Sequence[str]) -> list[Prediction]:
    found: dict[tuple[int, str], Prediction] = {}
    by_place: dict[tuple[int, str], Asked] = {(asked.section, asked.kind): asked for asked in QUESTIONS}
    section, kind = 0, ""
    fence = False
    at = 0
    while at < len(lines):
        line = lines[at].rstrip("\r")
        at += 1
        if line.lstrip().startswith("```"):
            fence = not fence
        if fence:
            continue
        if heading := _SECTION.match(line):
            section, kind = int(heading[1]), ""
        elif _HEADING.match(line):
            section, kind = 0, ""
        elif asks := _ASKS.match(line):
            kind = _KINDS[asks[1].lower()]
        elif (said := _PREDICTION.match(line)) and (asked := by_place.get((section, kind))) is not None:
            words = [said[1].strip()]
            while at < len(lines) and _goes_on(lines[at]):
                words.append(lines[at].strip())
                at += 1
            found.setdefault((section, kind), Prediction(asked, " ".join(words).strip(), at))
    return [found[place] for place in by_place if place in found]


def _goes_on(line: str) -> bool:
    """Is it still the paragraph of a prediction?"""
    line = line.rstrip("\r")
    ends = (_HEADING, _ASKS, _PREDICTION)
    return bool(line.strip()) and not line.startswith(("<!--", "```")) and not any(end.match(line) for end in ends)


def _check(lines: Sequence[str]) -> None:
    marks = [found for line in lines if (found := _MARK.match(line.rstrip("\r")))]
    if not marks:
        raise HomeworkError(f"it lacks the line `{MARK}`, so it is no homework; `spark-serve homework FILE` writes one")
    if int(marks[0][1]) != VERSION:
        raise HomeworkError(
            f"it is a homework of version {marks[0][1]} and this spark-serve fills in version {VERSION}"
        )


def filled(text: str, run: Run, report: str) -> str:
    """The homework with what `run` measured after every prediction, and the whole `report` (Markdown) at its end.

    Raises HomeworkError when `text` is no homework.
    """
    lines = _emptied(text.split("\n"))
    _check(lines)
    found = _found(lines)
    newline = "\r\n" if any(line.endswith("\r") for line in lines[:-1]) else "\n"
    for prediction in sorted(found, key=lambda prediction: -prediction.after):
        measured = prediction.asked.of(run)
        told = [
            f"**Measured:** {measured.text}",
            "",
            f"**Compared:** {comparison(prediction.text, prediction.asked, measured)}",
        ]
        lines[prediction.after : prediction.after] = _block(told, newline)
    told = ["# The run", "", _score(found, run), "", *_lowered(report.rstrip("\n").split("\n"))]
    if lines and lines[-1]:
        lines[-1] += newline.removesuffix("\n")
        lines.append("")
    return "\n".join([*lines[:-1], *_block(told, newline), ""])


def emptied(text: str) -> str:
    """Without what spark-serve wrote into it and nobody changed."""
    return "\n".join(_emptied(text.split("\n")))


def _emptied(lines: Sequence[str]) -> list[str]:
    kept: list[str] = []
    at = 0
    while at < len(lines):
        begin = _BEGIN.match(lines[at].rstrip("\r"))
        end = None if begin is None else _end(lines, at + 1)
        if begin is not None and end is not None and _digest(lines[at + 1 : end]) == begin[1]:
            at = end + 1
            continue
        kept.append(lines[at])
        at += 1
    return kept


def _end(lines: Sequence[str], begin: int) -> int | None:
    """Where the part ends that begins there."""
    for at in range(begin, len(lines)):
        line = lines[at].rstrip("\r")
        if line == _END:
            return at
        if _BEGIN.match(line):
            return None
    return None


def _digest(lines: Sequence[str]) -> str:
    """Of what they say: an editor that changes the ends of lines changes nothing."""
    said = "\n".join(line.rstrip() for line in lines)
    return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _block(lines: Sequence[str], newline: str) -> list[str]:
    """Lines without their `\\n`."""
    inner = [line.replace("<!-- spark-serve", "<!-- spark\u2011serve") for line in lines]
    end = newline.removesuffix("\n")
    return [f"{line}{end}" for line in (_BEGIN_LINE.format(_digest(inner)), *inner, _END)]


def _score(found: Sequence[Prediction], run: Run) -> str:
    given = [p for p in found if p.text]
    compared = [comparison(p.text, p.asked, p.asked.of(run)) for p in given]
    right = sum(": right" in sentence for sentence in compared)
    close = sum(": close" in sentence for sentence in compared)
    numbers = sum(", measured " in sentence for sentence in compared)
    if not given:
        return f"No prediction was given at any of {len(found)} questions."
    return (
        f"Of {len(found)} predictions {len(given)} were given and {numbers} could be compared by number: {right} right, "
        f"{close} close."
    )


def _lowered(lines: Sequence[str]) -> list[str]:
    """Headings one level down, and out of the way of the questions' numbers."""
    lowered, fence = [], False
    for line in lines:
        fence = fence != line.startswith("```")
        lowered.append(re.sub(r"^(#+) (\d)\. ", r"#\1 Arrow \2: ", line) if not fence else line)
        if not fence and line.startswith("#") and lowered[-1] == line:
            lowered[-1] = f"#{line}"
    return lowered


# files


def write_blank(path: Path) -> None:
    """A new file. Raises HomeworkError when it exists or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(blank())
    except FileExistsError:
        raise HomeworkError(f"{path} exists already; nothing was written over. Name another file.") from None
    except OSError as error:
        raise HomeworkError(f"{path} cannot be written ({error.strerror}).") from None


def read(path: Path) -> bytes:
    """The bytes of a homework. Raises HomeworkError when it cannot be read or is none."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise HomeworkError(f"{path} is not a file.")
        if about.st_size > SIZE_LIMIT:
            raise HomeworkError(f"{path} is no homework: it has over {SIZE_LIMIT // 1024 // 1024} MiB.")
        data = path.read_bytes()
    except OSError as error:
        raise HomeworkError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        predictions(_text(data))
    except HomeworkError as error:
        raise HomeworkError(f"{path} cannot be filled in: {error}.") from None
    return data


def is_homework(path: Path) -> bool:
    """Is there a homework, which nothing may be written over?"""
    try:
        read(path)
    except HomeworkError:
        return False
    return True


def fill(path: Path, run: Run, report: str, out: Path | None = None) -> None:
    """Fill in the file, all at once or not at all. `out`: write there instead, and leave the file alone.

    Raises HomeworkError, and then the file is as it was.
    """
    for _ in range(TRIES):
        before = read(path)
        data = filled(_text(before), run, report).encode("utf-8", "surrogateescape")
        if out is not None:
            replace(out, data)
            return
        if path.read_bytes() == before:  # saved by an editor in the meantime: fill in what was saved
            replace(path, data)
            return
    raise HomeworkError(f"{path} is being written by somebody else; try again.")


def replace(path: Path, data: bytes) -> None:
    """Write a file so that it is the old one or the new one at any moment; a link is followed, the mode kept.

    Raises HomeworkError.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, mode)
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise HomeworkError(f"{path} cannot be written ({error.strerror}).") from None


def _text(data: bytes) -> str:
    """Bytes that are no UTF-8 survive."""
    return data.decode("utf-8", "surrogateescape")
