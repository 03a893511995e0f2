"""Loads with a name: each can be carried out in whatever context there is."""

import msgspec
import pytest

from loadgen.arrivals import Replay, check, generator
from loadgen.behaviours import Manners, Reading
from loadgen.presets import presets
from loadgen.profile import Profile, profile_error
from loadgen.prompts import Conversation, Lengths, Mix, Sampling, make_prompt

NAMES = ["one-chat", "ten-friends", "lunch-rush", "long-context", "flash-crowd", "code-completion"]


@pytest.mark.parametrize("context", [512, 2048, 32_768])
def test_every_preset_can_be_carried_out(context):
    base = Profile(seed=9, mix=Mix.of(64, 32, context), sampling=Sampling(ignore_eos=True))
    found = {preset.name: preset for preset in presets(base)}
    assert list(found) == NAMES
    for preset in found.values():
        assert profile_error(preset.profile) == ""
        assert (preset.profile.seed, preset.profile.sampling) == (9, base.sampling)
        assert preset.arrivals is None or check(preset.arrivals) == ""
        assert preset.people or preset.arrivals
        assert preset.title
        assert preset.says
        rng = generator(1, preset.name)
        prompts = [make_prompt(rng, preset.profile.mix, Conversation("a")) for _ in range(300)]
        assert sum(prompt.clipped for prompt in prompts) < 150, "most of it is what it says"
    long = found["long-context"].profile.mix
    assert (long.prompt.median, long.output.median) == (context // 4, 32)
    code = found["code-completion"].profile.mix
    assert code.prompt.median == min(1095, context // 8) > code.output.median


def test_a_trace_makes_a_preset_of_its_own():
    last = presets(Profile(), "trace.csv")[-1]
    assert (last.name, last.arrivals) == ("replay", Replay("trace.csv"))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, ""),
        ({"think_s": 0.0, "turns": 1.0}, ""),
        ({"think_s": -1.0}, "Think time"),
        ({"think_s": float("nan")}, "Think time"),
        ({"turns": 0.5}, "at least one turn"),
        ({"mix": Mix.of(0, 10, 100)}, "at least one token"),
        ({"mix": Mix(context=0)}, "at least one token"),
        ({"mix": Mix(prompt=Lengths(10, -0.1, 1, 20))}, "sigma"),
        ({"mix": Mix(output=Lengths(10, float("nan"), 1, 20))}, "sigma"),
        ({"manners": Manners(slow=Reading(bytes_per_s=0.0))}, "above 0"),
        ({"manners": Manners(long_factor=0.0)}, "above 0"),
        ({"manners": Manners(patience_sigma=-1.0)}, "patience"),
    ],
)
def test_profiles_that_cannot_be_carried_out(changes, part):
    found = profile_error(Profile(**changes))
    assert bool(found) == bool(part)
    assert part in found


def test_a_profile_travels_as_json_and_says_what_it_is():
    for preset in presets(Profile(), "t"):
        assert msgspec.json.decode(msgspec.json.encode(preset.profile), type=Profile) == preset.profile
    assert Profile().label == "128/64 tokens, 3 turns"
    assert Profile(turns=1.0, mix=Mix.named("code", 4096)).label == "code 1095/16 tokens, single turns"
    with pytest.raises(KeyError):
        Mix.named("poetry", 4096)
