"""What: lengths, limits and bodies."""

import json
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.arrivals import generator
from loadgen.prompts import (
    PREFIX_WORDS,
    TEMPLATE_TOKENS,
    TOKENS_A_WORD,
    WORDS,
    Lengths,
    Message,
    Mix,
    Prompt,
    Sampling,
    chat_body,
    make_prompt,
    person_prefix,
)


def test_lengths_are_uneven_around_their_median():
    rng = generator(1, 0, "p")
    lengths = Lengths.around(200, 0.6)
    drawn = [lengths.draw(rng) for _ in range(5_000)]
    assert statistics.median(drawn) == pytest.approx(200, rel=0.05)
    assert min(drawn) >= 25
    assert max(drawn) <= 1600
    ninth_decile = statistics.quantiles(drawn, n=10)[-1]
    assert ninth_decile == pytest.approx(200 * 2.157, rel=0.1)  # exp(0.6 x 1.2816)


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(TEMPLATE_TOKENS * 4, 8192), st.integers(0, 2**32))
def test_prompt_and_reply_fit_the_context(prompt_tokens, output_tokens, context, seed):
    rng = generator(seed, 0, "p")
    prompt = make_prompt(rng, Mix.of(prompt_tokens, output_tokens, context), person_prefix(rng))
    assert prompt.words == len(prompt.messages[0].content.split()) >= 1
    assert 1 <= prompt.max_tokens <= context // 2
    assert prompt.words * TOKENS_A_WORD + TEMPLATE_TOKENS + prompt.max_tokens <= context


def test_a_person_keeps_a_prefix_that_nobody_else_has():
    rng, other = generator(1, 0, "a"), generator(1, 0, "b")
    prefix = person_prefix(rng)
    prompts = [make_prompt(rng, Mix(), prefix).messages[0].content for _ in range(5)]
    assert len(set(prompts)) == 5
    assert all(text.startswith(prefix + " ") for text in prompts)
    assert len(prefix.split()) == PREFIX_WORDS
    assert person_prefix(other) != prefix
    assert len(set(WORDS)) == len(WORDS)


def test_body():
    prompt = Prompt((Message("user", "hello"),), max_tokens=9, words=1)
    plain = json.loads(chat_body(prompt, "m", Sampling()))
    assert plain == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    full = json.loads(chat_body(prompt, "m", Sampling(temperature=0.0, ignore_eos=True)))
    assert full == plain | {"temperature": 0.0, "ignore_eos": True}
