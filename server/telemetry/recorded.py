"""The requests of a recording, as far as it has been played: what everybody saw of them, joined again."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import msgspec

from loadgen.lines import UNREADABLE
from loadgen.packed import open_lines
from loadgen.records import RequestRecord
from loadgen.slo import Slo
from server.gateway.records import GatewayRecord
from server.telemetry.join import WAIT_S, EngineTimes, Join
from server.telemetry.judged import judge_by
from server.telemetry.recording import LINE_LIMIT, RecordingError, requests_beside
from server.telemetry.snapshot import JoinedRequest

Part = RequestRecord | GatewayRecord | EngineTimes
SEAL_EVERY = 500
"""Lines; so few are held in parts when a long recording is read up to its middle."""

_decoder: msgspec.json.Decoder[Part] = msgspec.json.Decoder(Part)


class RecordedRequests:
    """Reads the file beside a recording once, from its begin; memory is bounded by what is kept."""

    def __init__(self, recording: Path, slo: Slo, *, keep: int = 4_000) -> None:
        """Raises RecordingError when no requests lie beside the recording."""
        path = requests_beside(recording)
        try:
            self._file: BinaryIO = open_lines(path)
        except FileNotFoundError:
            raise RecordingError(f"this recording has no requests beside it ({path.name})") from None
        except OSError as error:
            raise RecordingError(f"{path.name} cannot be read ({error.strerror})") from None
        self._join = Join(keep=keep, keep_s=0.0, judge=judge_by(slo))
        self._next: Part | None = None

    def upto(self, at: float, since: float, limit: int) -> list[JoinedRequest]:
        """Those of which something became known after `since` and by `at` (monotonic seconds of the recorded host, never
        less than before), oldest first. Raises OSError."""
        lines = 0
        while (part := self._next or self._read()) is not None:
            self._next = part
            if not isinstance(part, EngineTimes) and part.done > at:
                break
            self._next = None
            self._take(part, at)
            lines += 1
            if lines % SEAL_EVERY == 0:
                self._join.seal(at)
        self._join.seal(at)
        return self._join.requests(limit, since)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _take(self, part: Part, at: float) -> None:
        # Nobody waits for a part that may come: it joins what is there when the file has come to it.
        now = at - WAIT_S
        if isinstance(part, GatewayRecord):
            self._join.on_gateway(part, now)
        elif isinstance(part, EngineTimes):
            self._join.on_times(part, now)
        else:
            self._join.on_load(part, now)

    def _read(self) -> Part | None:
        """The next part; what is torn or something else is left out."""
        while line := self._file.readline(LINE_LIMIT):
            try:
                return _decoder.decode(line)
            except UNREADABLE:
                continue
        return None
