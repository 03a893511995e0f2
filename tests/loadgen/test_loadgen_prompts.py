"""What: lengths, conversations, limits and bodies."""

import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.arrivals import generator
from loadgen.prompts import (
    PREFIX_WORDS,
    RETOKENIZED,
    TEMPLATE_TOKENS,
    TOKENS_A_WORD,
    TRACE_FITS,
    WORDS,
    Conversation,
    Lengths,
    Message,
    Mix,
    Prompt,
    Sampling,
    chat_body,
    last_turn,
    make_prompt,
    person_prefix,
    prompt_of,
)
from tests.loadgen.goodness import FAILURES, SEEDS, kolmogorov_p, normal_cdf, rejected, step_distance

EASY = Mix(Lengths(40, 0.0, 40, 40), Lengths(20, 0.0, 20, 20), 2048)
"""Every prompt has 40 words, every reply 20 tokens."""


def clipped_lognormal(lengths):
    """The distribution function of a lognormal that was rounded and clipped, in closed form."""

    def cdf(number):
        if number < lengths.low:
            return 0.0
        if number >= lengths.high:
            return 1.0
        return normal_cdf((math.log(number + 0.5) - math.log(lengths.median)) / lengths.sigma)

    return cdf


@pytest.mark.parametrize(
    "lengths",
    [Lengths.around(200, 0.6), Lengths(200, 0.6, 150, 300), *TRACE_FITS["chat"], *TRACE_FITS["code"]],
    ids=str,
)
def test_lengths_fit_their_clipped_lognormal(lengths):
    n = 1_000
    drawn = [[lengths.draw(rng) for _ in range(n)] for rng in (generator(seed, "p") for seed in SEEDS)]
    cdf = clipped_lognormal(lengths)
    assert rejected([kolmogorov_p(step_distance(one, cdf), n) for one in drawn]) <= FAILURES
    wrong = clipped_lognormal(Lengths(round(lengths.median * 1.25), lengths.sigma, lengths.low, lengths.high))
    assert rejected([kolmogorov_p(step_distance(one, wrong), n) for one in drawn]) > 10
    assert all(lengths.low <= length <= lengths.high for one in drawn for length in one)


def test_the_clip_is_where_it_says():
    tight = Lengths(200, 0.6, 150, 300)
    drawn = [tight.draw(generator(1, str(number))) for number in range(2_000)]
    for end, share in (
        (150, normal_cdf(math.log(150.5 / 200) / 0.6)),
        (300, 1 - normal_cdf(math.log(299.5 / 200) / 0.6)),
    ):
        assert drawn.count(end) / 2_000 == pytest.approx(share, abs=0.04)
    assert Lengths.around(200, 0.6) == Lengths(200, 0.6, 25, 1600)
    assert Lengths.fitted(100, 1.0) == Lengths(100, 1.0, 5, 2009)
    assert {Lengths(7, 0.0, 7, 7).draw(generator(1, "p")) for _ in range(10)} == {7}


def test_prompts_and_replies_of_a_mix_are_not_correlated():
    mix = Mix.of(100, 50, 100_000)
    r = []
    for seed in SEEDS:
        prompts = [make_prompt(generator(seed, str(n)), mix, Conversation("a")) for n in range(200)]
        words, tokens = (
            [math.log(v) for v in values] for values in zip(*((p.words, p.max_tokens) for p in prompts), strict=True)
        )
        r.append(statistics.correlation(words, tokens))
    assert sum(abs(one) > 1.96 / math.sqrt(200) for one in r) <= FAILURES


@settings(deadline=None)
@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.integers(TEMPLATE_TOKENS * 4, 8192),
    st.integers(0, 2**32),
    st.integers(0, 8192),
    st.floats(0.1, 50),
)
def test_prompt_and_reply_fit_the_context(prompt_tokens, output_tokens, context, seed, said, factor):
    rng = generator(seed, "p")
    talk = Conversation(person_prefix(rng), (Message("user", "a"), Message("assistant", "b")), tokens=said, turn=2)
    prompt = make_prompt(rng, Mix.of(prompt_tokens, output_tokens, context), talk, factor=factor)
    assert prompt.words == len(prompt.messages[-1].content.split()) >= 1
    assert 1 <= prompt.max_tokens <= context // 2
    assert talk.tokens + prompt.words * TOKENS_A_WORD + TEMPLATE_TOKENS + prompt.max_tokens <= context + TOKENS_A_WORD
    assert (talk.turn, len(prompt.messages)) in {(2, 3), (1, 1)}


def test_a_person_keeps_a_prefix_that_nobody_else_has():
    rng, other = generator(1, "a"), generator(1, "b")
    prefix = person_prefix(rng)
    prompts = [make_prompt(rng, Mix(), Conversation(prefix)).messages[0].content for _ in range(5)]
    assert len(set(prompts)) == 5
    assert all(text.startswith(prefix + " ") for text in prompts)
    assert len(prefix.split()) == PREFIX_WORDS
    assert person_prefix(other) != prefix
    assert len(set(WORDS)) == len(WORDS)


def test_the_next_turn_carries_all_that_was_said():
    rng = generator(1, "a")
    talk = Conversation(person_prefix(rng))
    first = make_prompt(rng, EASY, talk)
    assert (len(first.messages), first.words, first.max_tokens, first.clipped) == (1, 40, 20, False)
    talk.answered(first, "what it said", prompt_tokens=100, completion_tokens=20)
    assert (talk.tokens, talk.turn) == (100 + 20 * RETOKENIZED, 2)
    second = make_prompt(rng, EASY, talk)
    assert second.messages[:2] == (*first.messages, Message("assistant", "what it said"))
    assert second.messages[2].role == "user"
    assert not second.messages[2].content.startswith(talk.prefix)
    talk.answered(second, "and more", None, None)  # no usage: by words, for the worst
    assert talk.tokens == 140 + math.ceil(40 * TOKENS_A_WORD) + 20 * RETOKENIZED
    third = make_prompt(rng, EASY, talk)
    assert [message.role for message in third.messages] == ["user", "assistant", "user", "assistant", "user"]


def test_a_conversation_learns_what_its_replies_come_back_as():
    rng = generator(1, "a")
    talk = Conversation(person_prefix(rng))
    first = make_prompt(rng, EASY, talk)
    talk.answered(first, "garbage", prompt_tokens=100, completion_tokens=20)
    second = make_prompt(rng, EASY, talk)
    talk.answered(second, "garbage", prompt_tokens=100 + 20 * 8 + second.words, completion_tokens=10)
    assert talk.swell == 8
    assert talk.tokens == 100 + 20 * 8 + second.words + 10 * 8
    talk.anew()
    assert talk.swell == 8  # the same model writes the next one


@pytest.mark.parametrize(
    ("said", "turn", "words", "clipped"),
    [
        (2048 - TEMPLATE_TOKENS - 20 - 64, 2, 40, False),  # room for 40 words
        (2048 - TEMPLATE_TOKENS - 20 - 48, 2, 30, True),
        (2048 - TEMPLATE_TOKENS - 20 - 32, 2, 20, True),
        (2048 - TEMPLATE_TOKENS - 20 - 31, 1, 40, False),  # under half of what it wants
        (5000, 1, 40, False),
    ],
)
def test_a_conversation_that_fills_the_context_is_begun_anew(said, turn, words, clipped):
    talk = Conversation("pre fix", (Message("user", "a"), Message("assistant", "b")), tokens=said, turn=2)
    prompt = make_prompt(generator(1, "a"), EASY, talk)
    assert (talk.turn, prompt.words, prompt.clipped) == (turn, words, clipped)
    assert len(prompt.messages) == (3 if turn == 2 else 1)
    assert prompt.messages[0].content.startswith("pre fix ") == (turn == 1)


def test_lengths_that_the_context_has_no_room_for_are_flagged():
    assert not prompt_of(generator(1, "a"), 100, 50, 1024).clipped
    long_prompt = prompt_of(generator(1, "a"), 5_000, 50, 1024)
    assert (long_prompt.clipped, long_prompt.max_tokens) == (True, 50)
    assert long_prompt.words == int((1024 - 50 - TEMPLATE_TOKENS) / TOKENS_A_WORD)
    long_reply = prompt_of(generator(1, "a"), 10, 5_000, 1024)
    assert (long_reply.clipped, long_reply.max_tokens, long_reply.words) == (True, 512, 10)


def test_the_number_of_turns_is_geometric():
    n = 500

    def lengths(seed):
        rng = generator(seed, "turns")
        for _ in range(n):
            turns = 1
            while not last_turn(rng, 3.0):
                turns += 1
            yield turns

    p = [kolmogorov_p(step_distance(list(lengths(seed)), lambda k: 1 - (2 / 3) ** k), n) for seed in SEEDS]
    assert rejected(p) <= FAILURES
    assert all(last_turn(generator(seed, "t"), 1.0) for seed in range(100))


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
    full = json.loads(chat_body(prompt, "m", Sampling(temperature=0.0, ignore_eos=True, cache_salt="s")))
    assert full == plain | {"temperature": 0.0, "ignore_eos": True, "cache_salt": "s"}
