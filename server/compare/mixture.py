"""The load of a comparison: many short requests and a few long ones, every run the same but for its words. Pure."""

from __future__ import annotations

import itertools

import msgspec

from loadgen.arrivals import Gamma, Script, ScriptedRequest, generator, schedule
from loadgen.prompts import TEMPLATE_TOKENS, TOKENS_A_WORD

LONG_SHARE = 0.15
USERS = 8
SHORTEST_PROMPT = 32
LONG_AGAINST_SHORT = 16
"""A long prompt against a short one, at most."""
LONG_OF_CONTEXT = 3
"""A long prompt takes one part in so many of the context."""
LONG_REPLY = 3
"""A long one's reply against a short one's."""
LONG_PRIORITY = 1
"""Short ones have 0, and lower goes first: people before batches."""


class Lengths(msgspec.Struct, frozen=True):
    """Of one kind of request, in tokens, all alike."""

    prompt: int
    reply: int

    @property
    def label(self) -> str:
        return f"{self.prompt}/{self.reply}"


class Mixture(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. One of `users` sends all long ones, the others share the short ones."""

    short: Lengths
    long: Lengths
    long_share: float = LONG_SHARE
    users: int = USERS

    @classmethod
    def suited(cls, usual: tuple[int, int], context: int) -> Mixture:
        """By what people ask of this engine (median prompt and reply) and its context, all in tokens."""
        prompt, reply = max(SHORTEST_PROMPT, usual[0] // 2), max(16, usual[1] // 2)
        long = min(LONG_AGAINST_SHORT * prompt, context // LONG_OF_CONTEXT)
        return cls(short=Lengths(prompt, reply), long=Lengths(max(long, 2 * prompt), LONG_REPLY * reply))

    def check(self, context: int) -> None:
        """Raises ValueError with one sentence."""
        if min(self.short.prompt, self.short.reply, self.long.prompt, self.long.reply) < 1:
            raise ValueError("Prompts and replies are at least one token long.")
        if self.long.prompt <= self.short.prompt:
            raise ValueError("A long prompt must be longer than a short one.")
        if not 0 < self.long_share < 1:
            raise ValueError("The share of long requests lies between 0 and 1.")
        room = int((context - TEMPLATE_TOKENS - max(self.long.reply, self.short.reply)) / TOKENS_A_WORD)
        if self.long.prompt > room or max(self.long.reply, self.short.reply) > context // 2:
            raise ValueError(
                f"A prompt of {self.long.prompt} tokens and its reply may not fit in the context of {context}: "
                f"give at most {max(1, room)}/{context // 2}."
            )

    @property
    def words(self) -> str:
        """As a person reads it."""
        long = round(100 * self.long_share)
        return f"{100 - long} % short ({self.short.label} tokens of prompt and reply) and {long} % long ({self.long.label})"


def steady(mixture: Mixture, rate_per_s: float, seconds: float, seed: int) -> Script:
    """Poisson arrivals over `seconds`: arrivals, kinds and users depend on the seed alone."""
    arrivals = itertools.takewhile(lambda arrival: arrival.at_s < seconds, schedule(Gamma(rate_per_s), seed))
    return _script(mixture, [arrival.at_s for arrival in arrivals], seed)


def at_once(mixture: Mixture, count: int, seed: int) -> Script:
    """`count` requests of the mixture at the same moment."""
    return _script(mixture, [0.0] * count, seed)


def single(mixture: Mixture) -> Script:
    """One short request alone."""
    return Script([_request(mixture, 0.0, long=False, user=1)])


def _script(mixture: Mixture, times: list[float], seed: int) -> Script:
    """Exactly the share of long ones (rounded), at random places."""
    rng = generator(seed, "kinds")
    long = set(rng.sample(range(len(times)), round(len(times) * mixture.long_share)))
    users = [rng.randint(1, max(1, mixture.users - 1)) for _ in times]
    return Script([_request(mixture, at_s, long=index in long, user=users[index]) for index, at_s in enumerate(times)])


def _request(mixture: Mixture, at_s: float, *, long: bool, user: int) -> ScriptedRequest:
    lengths = mixture.long if long else mixture.short
    return ScriptedRequest(
        at_s=at_s,
        prompt_tokens=lengths.prompt,
        output_tokens=lengths.reply,
        client="batch" if long else f"user{user}",
        behaviour="long" if long else "patient",
        priority=LONG_PRIORITY if long else 0,
    )
