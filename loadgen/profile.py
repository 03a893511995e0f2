"""What people ask and how they behave, apart from how many there are and when they come."""

from __future__ import annotations

import msgspec

from loadgen.behaviours import Manners
from loadgen.prompts import Mix, Sampling


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One description of the people. The same profile and seed give the same requests."""

    seed: int = 1
    think_s: float = 8.0
    """Mean of the exponential think time between two requests of a person, seconds."""
    turns: float = 3.0
    """Mean number of turns of a conversation (geometric); each carries all that was said before."""
    mix: Mix = Mix()
    sampling: Sampling = Sampling()
    manners: Manners = Manners()

    @property
    def label(self) -> str:
        """As a person reads it."""
        turns = "single turns" if self.turns <= 1 else f"{self.turns:g} turns"
        return f"{self.mix.label}, {turns}"


def profile_error(profile: Profile) -> str:
    """What is wrong with it, as one sentence; empty when it can be carried out."""
    if not 0 <= profile.think_s < 1e7:
        return "Think time is in seconds, and not negative."
    if not 1 <= profile.turns < 1e4:
        return "A conversation has at least one turn."
    mix = profile.mix
    if min(mix.context, mix.prompt.median, mix.prompt.low, mix.output.median, mix.output.low) < 1:
        return "Prompts, replies and the context are at least one token long."
    if not all(0 <= lengths.sigma < 10 for lengths in (mix.prompt, mix.output)):
        return "The sigma of a length lies between 0 and 10."
    manners = profile.manners
    if manners.slow.bytes_per_s is not None and not 0 < manners.slow.bytes_per_s < 1e12:
        return "Slow readers read a number of bytes per second above 0."
    if not 0 <= manners.patience_sigma < 10:
        return "The sigma of people's patience lies between 0 and 10."
    if not 0 < manners.long_factor < 1e6:
        return "Long prompts are a number of times as long, above 0."
    return ""
