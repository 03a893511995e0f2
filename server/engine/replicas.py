"""Several engines that somebody else started and that serve the same model: asked, never touched, and one to the stack."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from server.config import EngineKnobs
from server.engine.cold import KindName
from server.engine.discover import Found, base_url, probe
from server.engine.errors import EngineError
from server.engine.lifecycle import LOOPBACK, UNKNOWN_SEQUENCES, Changed, SomebodyElses
from server.keys import engine_key
from server.telemetry.snapshot import Engine, Value

MOST = 16
ASK_AGAIN_S = 5.0
"""Between two questions to those who have not answered yet."""


def endpoints(urls: Sequence[str]) -> list[str]:
    """Their addresses, each once and in order. Raises EngineError."""
    if len(urls) > MOST:
        raise EngineError(f"--attach is given {len(urls)} times; {MOST} endpoints at most.")
    found = [base_url(url) for url in urls]
    twice = next((url for url in found if found.count(url) > 1), None)
    if twice is not None:
        raise EngineError(f"--attach names {twice} twice.")
    return found


def same_model(found: Sequence[Found]) -> None:
    """Raises EngineError when they are no replicas of each other."""
    for other in found[1:]:
        if other.model != found[0].model:
            raise EngineError(
                f"Replicas serve one model, but {found[0].url} serves {found[0].model} and {other.url} serves {other.model}."
            )


def probed(urls: Sequence[str], key: str | None) -> dict[str, Found | EngineError]:
    """What each says of itself, or why it does not."""
    found: dict[str, Found | EngineError] = {}
    for url in urls:
        try:
            found[url] = probe(url, key=key)
        except EngineError as error:
            found[url] = error
    return found


class AttachedReplicas(SomebodyElses):
    """Ready as soon as one of them answers; the others are asked again until they do."""

    def __init__(self, urls: Sequence[str], changed: Changed) -> None:
        self.urls = endpoints(urls)
        self.url = self.urls[0]
        super().__init__(changed)
        self._found: dict[str, Found] = {}
        self._asking: asyncio.Task[None] | None = None

    @property
    def _first(self) -> Found | None:
        return next((self._found[url] for url in self.urls if url in self._found), None)

    @property
    def served_name(self) -> str:
        return self._first.model if self._first is not None else ""

    @property
    def context_tokens(self) -> int:
        """What fits everywhere."""
        return min((one.max_model_len for one in self._found.values() if one.max_model_len), default=2048)

    @property
    def slots(self) -> list[int | None]:
        """Of one rank at each endpoint."""
        return [self._found[url].max_num_seqs if url in self._found else None for url in self.urls]

    @property
    def max_num_seqs(self) -> int | None:
        """Of all together; ranks are seen later, in their figures."""
        known = [slots for url, slots in zip(self.urls, self.slots, strict=True) if url in self._found]
        return None if not known or None in known else sum(slots for slots in known if slots)

    @property
    def no_gpu(self) -> str:
        here = all(urlsplit(url).hostname in LOOPBACK for url in self.urls)
        return "" if here else "the engines may be on other machines"

    @property
    def measured_pid(self) -> int | None:
        return self._first.pid if self._first is not None else None

    @property
    def measured_pids(self) -> list[int]:
        return [one.pid for one in self._found.values() if one.pid is not None]

    def facts(self, now: float) -> Engine:
        first, length = self._first, self.context_tokens
        known = any(one.max_model_len for one in self._found.values())
        return Engine(
            phase=self.phase,
            error=self._error,
            model=self.served_name,
            model_kind="attached",
            version=", ".join(dict.fromkeys(one.version for one in self._found.values() if one.version)),
            url=" ".join(self.urls),
            pid=first.pid if first is not None else None,
            attached=True,
            max_num_seqs=Value(v=self.max_num_seqs, src="config", why="" if self.max_num_seqs else UNKNOWN_SEQUENCES),
            max_model_len=Value(v=length, src="engine") if known else Value(src="engine", why="not listed"),
            stage_times="windowed",
        )

    def tune(self, knobs: EngineKnobs) -> None:
        raise EngineError("Somebody else started these engines.")

    async def start(self) -> None:
        refused = await self._ask(self.urls)
        if not self._found:
            self.fail(str(refused[self.urls[0]]))
            return
        try:
            same_model(list(self._found.values()))
        except EngineError as error:
            self.fail(str(error))
            return
        self.phase = "ready"
        here = len(self._found)
        self._changed(
            f"attached to {here} replicas" if not refused else f"attached to {here} of {len(self.urls)} replicas"
        )
        if refused:
            self._asking = asyncio.create_task(self._ask_again(), name="replicas")

    async def restart(self, kind: KindName) -> None:
        raise EngineError("Somebody else started these engines; they cannot be restarted from here.")

    async def stop(self) -> None:
        """They are not ours to stop."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self, urls: Sequence[str]) -> dict[str, EngineError]:
        """Those that refuse, and why."""
        refused: dict[str, EngineError] = {}
        for url, answer in (await asyncio.to_thread(probed, urls, engine_key())).items():
            if isinstance(answer, Found):
                self._found[url] = answer
            else:
                refused[url] = answer
        return refused

    async def _ask_again(self) -> None:
        """What they are is known once they answer; that they serve is seen by scrape and gateway."""
        began = time.monotonic()
        while missing := [url for url in self.urls if url not in self._found]:
            await asyncio.sleep(ASK_AGAIN_S)
            refused = await self._ask(missing)
            for url in missing:
                if url in refused:
                    continue
                if self._found[url].model != self.served_name:
                    self._changed(f"{url} serves {self._found[url].model}, which is another model")
                else:
                    self._changed(f"{url} answers after {time.monotonic() - began:.0f} s")
