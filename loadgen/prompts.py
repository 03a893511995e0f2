"""What: prompts and replies of uneven length, seeded, made of words that tokenizers know."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import msgspec

_WORD_LIST = """
able about above across after again age air all along also always among animal answer any apple area arm around ask
back bad ball bank base bear beat bed before began behind best better big bird black blue board boat body book both
box boy bread bring brother brown build bus busy buy call came car care carry case cat cause chair change city class
clean clear close cloud coast cold color come cook cool corner cost country course cover cross cup cut dance dark
day deep dog door down draw dream dress drink drive drop dry each early earth east easy eat edge egg end enough even
evening ever every eye face fact fall family far farm fast father feel feet few field fight fill find fine fire first
fish floor fly follow food foot form found free fresh friend front full game garden gave girl give glass go gold good
grass great green ground group grow half hand happy hard hat head hear heart heat heavy help here high hill history
hold home hope horse hot hour house hundred idea inch island job join jump keep key kind king kitchen knew land large
last late laugh law lead leaf learn leave left letter life light line list listen little live long look lost love low
machine main make man many map mark market matter mean measure meat meet middle mile milk mind minute money month moon
morning most mother mountain mouth move music name near neck need never new next night north nose note nothing number
object ocean off often oil old once open orange order other over own page paper part pass past pay people person
picture piece place plain plan plane plant play point poor power press problem pull push put queen question quick
quiet rain reach read ready real red rest rich ride right ring rise river road rock room round rule run safe sail salt
same sand say school sea season seat second see seed sell send sense sentence set seven shape ship shoe shop short
show side sign silver simple since sing sister sit six size skin sky sleep slow small smile snow soft some song soon
sound south space speak special spring square stand star start state stay step still stone stop store story street
strong summer sun sure table tail take talk tall teach team tell ten test thing think third thought three through
time today together told took top toward town travel tree trip true try turn two uncle under until use valley very
view village visit voice wait walk wall want war warm wash watch water wave way wear weather week well west wheel
when while white wide wife wild wind window winter wish woman wonder wood word work world write year yellow young
"""
WORDS = tuple(_WORD_LIST.split())
"""Common English words; with their leading space nearly all are one token to a byte-pair tokenizer."""

OPENING = "Tell me a long story that has these words in it:"
FOLLOW_UP = "Go on, and this time use these words:"
PREFIX_WORDS = 16
"""Words that begin every conversation of one person and nobody else's: a prefix cache helps within a person, not across."""
TEMPLATE_TOKENS = 64
"""Room left in the context for the chat template and its system prompt."""
RETOKENIZED = 2.0
"""Tokens that a reply's token may become when its text is sent back, before anything was seen. Random weights write text
that no tokenizer would cut so: 4 to 8 were seen on such a model."""
TOKENS_A_WORD = 1.6
"""Taken for the worst when a prompt is clipped to the context: 1.00 with SmolLM2's tokenizer (measured), 1.53 with a
generated one that knows few words."""


class Lengths(msgspec.Struct, frozen=True):
    """A lognormal distribution of token counts, clipped to low..high. Its median is `median` where the clip spares it;
    a sigma of 0 makes all of one length."""

    median: int
    sigma: float
    low: int
    high: int

    @classmethod
    def around(cls, median: int, sigma: float) -> Lengths:
        """Clipped at an eighth and at eight times the median."""
        return cls(median=median, sigma=sigma, low=max(1, median // 8), high=median * 8)

    @classmethod
    def fitted(cls, median: int, sigma: float) -> Lengths:
        """As a trace was fitted: clipped three sigmas out."""
        out = math.exp(3 * sigma)
        return cls(median=median, sigma=sigma, low=max(1, round(median / out)), high=round(median * out))

    def draw(self, rng: random.Random) -> int:
        """One length in tokens."""
        return max(self.low, min(self.high, round(rng.lognormvariate(math.log(self.median), self.sigma))))


class Mix(msgspec.Struct, frozen=True):
    """How long prompts and replies are, in tokens, and the context they must fit in together."""

    prompt: Lengths = Lengths.around(128, 0.6)
    output: Lengths = Lengths.around(64, 0.5)
    context: int = 2048
    name: str = "even"

    @classmethod
    def of(cls, prompt_tokens: int, output_tokens: int, context: int) -> Mix:
        """The usual spread around two medians."""
        return cls(Lengths.around(prompt_tokens, 0.6), Lengths.around(output_tokens, 0.5), context)

    @classmethod
    def named(cls, name: str, context: int) -> Mix:
        """One of the fits to published traces. Raises KeyError."""
        prompt, output = TRACE_FITS[name]
        return cls(prompt, output, context, name)

    @property
    def label(self) -> str:
        """As a person reads it: `128/64 tokens`."""
        name = "" if self.name == "even" else f"{self.name} "
        return f"{name}{self.prompt.median}/{self.output.median} tokens"


TRACE_FITS = {
    "chat": (Lengths.fitted(760, 0.99), Lengths.fitted(151, 0.86)),
    "code": (Lengths.fitted(1095, 1.36), Lengths.fitted(16, 0.85)),
    "long": (Lengths.fitted(6227, 1.20), Lengths.fitted(208, 1.36)),
}
"""Lognormal fits of prompt and reply lengths, uncorrelated: chat and code of the Azure 2023 traces, long of Mooncake's."""


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str


class Prompt(msgspec.Struct, frozen=True):
    """What one request asks."""

    messages: tuple[Message, ...]
    max_tokens: int
    words: int
    """Words in its newest message: roughly its tokens, without the template's."""
    clipped: bool = False
    """The context had no room for the lengths that were drawn."""


class Sampling(msgspec.Struct, frozen=True):
    """How the reply is drawn; None leaves it to the server."""

    temperature: float | None = None
    ignore_eos: bool = False
    """Reply with max_tokens exactly. vLLM's own field: other servers may refuse it."""
    cache_salt: str = ""
    """vLLM's own field: requests with different salts share no prefix cache. Empty leaves it out."""


@dataclass
class Conversation:
    """What one person and the model have said so far."""

    prefix: str
    """The words it begins with."""
    messages: tuple[Message, ...] = ()
    tokens: int = 0
    """Tokens that it may come to, from the server's usage (or by words where there is none)."""
    turn: int = 1
    """The turn that comes next."""
    swell: float = RETOKENIZED
    """Prompt tokens that a token of a reply becomes when it is sent back: the most that was seen so far."""
    last: tuple[int, int] | None = None
    """Prompt and reply tokens of the latest turn, by the server's usage."""

    def answered(self, prompt: Prompt, reply: str, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """The model has replied: the next turn carries all of it."""
        self.messages = (*prompt.messages, Message("assistant", reply))
        said = math.ceil(prompt.words * TOKENS_A_WORD)
        if self.last is not None and prompt_tokens is not None:
            before, reply_before = self.last  # a word is a token at least: so much, at most, came from the reply
            self.swell = max(self.swell, (prompt_tokens - before - prompt.words) / max(1, reply_before))
        if prompt_tokens is not None and completion_tokens is not None:
            self.last = (prompt_tokens, completion_tokens)
        replied = math.ceil((completion_tokens or prompt.max_tokens) * self.swell)
        self.tokens = (prompt_tokens or self.tokens + said) + replied
        self.turn += 1

    def anew(self) -> None:
        """Another subject: nothing of the past is sent any more."""
        self.messages, self.tokens, self.turn, self.last = (), 0, 1, None


def person_prefix(rng: random.Random) -> str:
    """The words every conversation of one person begins with."""
    return " ".join(rng.choices(WORDS, k=PREFIX_WORDS))


def last_turn(rng: random.Random, turns: float) -> bool:
    """Whether a conversation of `turns` on average (geometric) ends here."""
    return rng.random() * turns < 1


def make_prompt(rng: random.Random, mix: Mix, talk: Conversation, *, factor: float = 1.0) -> Prompt:
    """Draw the next turn; `factor` makes the prompt that many times longer.

    The reply is clipped to half the context first, then the prompt to what is left. A conversation that leaves its next
    turn less than half of what it wants is begun anew.
    """
    wanted_output = mix.output.draw(rng)
    wanted_words = round(mix.prompt.draw(rng) * factor)
    max_tokens = max(1, min(wanted_output, mix.context // 2))
    room = _room(mix, max_tokens, talk)
    if talk.messages and room < wanted_words / 2:
        talk.anew()
        room = _room(mix, max_tokens, talk)
    words = max(1, min(wanted_words, room))
    opening = FOLLOW_UP.split() if talk.messages else talk.prefix.split() + OPENING.split()
    text = opening[:words] + rng.choices(WORDS, k=max(0, words - len(opening)))
    message = Message("user", " ".join(text))
    clipped = words < wanted_words or max_tokens < wanted_output
    return Prompt((*talk.messages, message), max_tokens=max_tokens, words=words, clipped=clipped)


def _room(mix: Mix, max_tokens: int, talk: Conversation) -> int:
    """Words that still fit in the context."""
    return int((mix.context - max_tokens - TEMPLATE_TOKENS - talk.tokens) / TOKENS_A_WORD)


def prompt_of(rng: random.Random, prompt_tokens: int, output_tokens: int, context: int) -> Prompt:
    """A prompt of the lengths that a trace asks for, clipped to the context."""
    prompt, output = (Lengths(median=n, sigma=0.0, low=n, high=n) for n in (prompt_tokens, output_tokens))
    return make_prompt(rng, Mix(prompt, output, context), Conversation(person_prefix(rng)))


def chat_body(prompt: Prompt, model: str, sampling: Sampling) -> bytes:
    """The JSON body of a streamed `/v1/chat/completions` request that asks for its usage."""
    body: dict[str, object] = {
        "model": model,
        "messages": prompt.messages,
        "max_tokens": prompt.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.temperature is not None:
        body["temperature"] = sampling.temperature
    if sampling.ignore_eos:
        body["ignore_eos"] = True
    if sampling.cache_salt:
        body["cache_salt"] = sampling.cache_salt
    return msgspec.json.encode(body)
