"""Loads with a name, that a person picks on the Load screen. Lengths are scaled down to what the model's context holds."""

from __future__ import annotations

import msgspec

from loadgen.arrivals import Arrivals, Ramp, Replay
from loadgen.behaviours import Manners
from loadgen.profile import Profile
from loadgen.prompts import Lengths, Mix
from loadgen.records import Behaviour

CONTEXT_SHARE = 8
"""Medians stay under context / 8 for prompts (a conversation of some turns fits) and context / 16 for replies."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """One load. `people` are patient unless `weights` say otherwise; `arrivals` makes it an open loop."""

    name: str
    title: str
    says: str
    """What it shows, in one clause."""
    people: int = 0
    weights: dict[Behaviour, float] = {}
    arrivals: Arrivals | None = None
    flash: int = 0
    """People of a flash crowd who come at once."""
    profile: Profile = Profile()


def presets(base: Profile, trace: str | None = None) -> list[Preset]:
    """All of them for a setup whose everyday profile is `base`; `trace` is a file to replay."""
    context = base.mix.context

    def ask(mix: Mix, think_s: float = base.think_s, turns: float = base.turns) -> Profile:
        return msgspec.structs.replace(base, mix=mix, think_s=think_s, turns=turns, manners=Manners())

    chat, code = (fitting(Mix.named(name, context)) for name in ("chat", "code"))
    readers = Mix(_scaled(base.mix.prompt, context // 4), _scaled(base.mix.output, base.mix.output.median), context)
    return [
        Preset(
            name="one-chat",
            title="one chat",
            says="one person at a time: all the weights are read again for each token",
            people=1,
            profile=ask(base.mix, think_s=1.0),
        ),
        Preset(
            name="ten-friends",
            title="ten friends",
            says="ten patient people with turns and thinking",
            people=10,
            profile=ask(base.mix),
        ),
        Preset(
            name="lunch-rush",
            title="lunch rush",
            says="strangers ever faster for two minutes, in clumps: 0.5 to 8 requests/s, gamma shape 0.5",
            weights={"patient": 6, "abandoner": 3, "retrier": 1},
            arrivals=Ramp(0.5, 8.0, 120.0, 0.5),
            profile=ask(chat, turns=1.0),
        ),
        Preset(
            name="long-context",
            title="long-context readers",
            says="prompts of a quarter of the context: prefill is the work, and the KV cache fills",
            people=12,
            profile=ask(readers, turns=1.0),
        ),
        Preset(
            name="flash-crowd",
            title="flash crowd",
            says="ten people, and at once forty more who come, ask three times and go",
            people=10,
            flash=40,
            profile=ask(base.mix),
        ),
        Preset(
            name="code-completion",
            title="code completion",
            says="long prompts, a few tokens back, hardly any thinking: TTFT is everything",
            people=12,
            profile=ask(code, think_s=2.0, turns=1.0),
        ),
        *(
            [
                Preset(
                    name="replay",
                    title="replay",
                    says=f"the arrivals and lengths of {trace}",
                    arrivals=Replay(trace),
                    profile=ask(base.mix, turns=1.0),
                )
            ]
            if trace
            else []
        ),
    ]


def fitting(mix: Mix) -> Mix:
    """The same shape, with medians small enough for the context."""
    prompt = min(mix.prompt.median, mix.context // CONTEXT_SHARE)
    output = min(mix.output.median, mix.context // (2 * CONTEXT_SHARE))
    return Mix(_scaled(mix.prompt, prompt), _scaled(mix.output, output), mix.context, mix.name)


def _scaled(lengths: Lengths, median: int) -> Lengths:
    """The same spread around another median."""
    factor = median / lengths.median
    return Lengths(
        median=max(1, median),
        sigma=lengths.sigma,
        low=max(1, round(lengths.low * factor)),
        high=max(1, round(lengths.high * factor)),
    )
