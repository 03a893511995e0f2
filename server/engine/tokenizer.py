"""A byte-level BPE tokenizer of any vocabulary size, made from a list of English words: for shapes, whose text means nothing.

Every byte is a token, so any text encodes. Merges learned from the words below make common English about one token a
word; the rest of the vocabulary is pronounceable filler, so that random weights decode into readable nonsense.
"""

from __future__ import annotations

import itertools
from collections import Counter

END_OF_TEXT = "<|endoftext|>"
TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN, END_OF_TURN)
"""The last ids of the vocabulary, in this order."""
MERGES = 5000
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

ENGLISH = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you
were all her she there would their we him been has when who will no more if out so up said what its about than into them
can only other time new some could these two may first then do any like my now over such our man me even most made after
also did many off before must well back through years much where your way down should because long each just state those
people too mister how little good world make very year still see own work men day get here between life being under
three same while last might us great go come since against right came take used himself few house use place during
without again home around small however found part school think every once water high upon number why never system often
say course night always question point give public possible program important against power city business present give
turn large until set order open following best group children problem side social interest light next word nothing case
need want different means enough whole area change service ask answer reason help show story write read book letter page
line name paper music food table kitchen cook chef plate guest bread fire hand head eye face body heart mind voice door
window street road river sea land tree wind rain snow sun moon star sky bird dog cat horse fish garden flower summer
winter spring morning evening week month hour minute second today tomorrow yesterday early late fast slow hot cold warm
young old big short strong weak happy sad quiet loud bright dark green blue red white black yellow brown money market
price cost buy sell trade company office worker engineer doctor teacher student friend family mother father brother
sister son daughter child baby woman girl boy king queen war peace law court police government country nation history
science art language english mathematics computer machine model engine data memory network server client request
response token queue batch stream latency throughput cache prompt user chat message text code function value list
number string class object file test error result input output process thread time clock measure window sample rate
limit begin end start stop run wait send receive open close move stand sit walk talk speak hear listen look watch see
find keep hold bring carry build break learn teach know understand explain describe compare choose decide plan try fail
win lose grow fall rise rest sleep wake eat drink play sing dance laugh cry love hate fear hope wish believe remember
forget imagine dream create design draw paint train travel visit arrive leave return stay live die kill save spend pay
give take put set cut hit let tell call ask please thank sorry yes maybe perhaps almost nearly quite rather really simply
exactly certainly probably usually sometimes finally suddenly quickly slowly carefully together apart above below inside
outside near far behind beside across along toward among within beyond despite although unless whether either neither
both another everyone someone anyone nobody everything something anything information development education experience
knowledge management technology environment community organization university international political economic national
general particular special certain available necessary difficult simple complex similar various several single double
main major minor common rare normal strange real true false free full empty clean dirty rich poor safe dangerous hard
soft heavy wide narrow deep thick thin round square sharp smooth rough sweet bitter fresh dry wet capital france paris
london europe america africa asia north south east west ship train car plane bridge tower wall floor roof room bed chair
"""
ENDINGS = (
    "s",
    "ed",
    "ing",
    "er",
    "ly",
    "tion",
    "ment",
    "ness",
    "able",
    "ful",
    "less",
    "ous",
    "ive",
    "al",
    "ity",
    "est",
    "'s",
)


def byte_symbols() -> list[str]:
    """A printable character for each of the 256 bytes: itself where it is printable Latin-1, else one from U+0100 on.

    This is the mapping that tokenizers' `ByteLevel` uses (from GPT-2); a space becomes `Ġ`.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = itertools.count(0x100)
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def learn_merges(words: dict[str, int], limit: int) -> list[tuple[str, str]]:
    """Byte-pair merges of weighted words, most frequent pair first, ties by spelling; stops when no pair is left."""
    split = {word: list(word) for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], set[str]] = {}
    for word, parts in split.items():
        for pair in itertools.pairwise(parts):
            pairs[pair] += words[word]
            holders.setdefault(pair, set()).add(word)
    merges: list[tuple[str, str]] = []
    while len(merges) < limit and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in sorted(holders.pop(best)):
            for pair in itertools.pairwise(split[word]):
                pairs[pair] -= words[word]
                if pairs[pair] <= 0:
                    del pairs[pair]
            split[word] = _merged(split[word], best)
            for pair in itertools.pairwise(split[word]):
                pairs[pair] += words[word]
                holders.setdefault(pair, set()).add(word)
        pairs.pop(best, None)
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    position = 0
    while position < len(parts):
        if tuple(parts[position : position + 2]) == pair:
            out.append(parts[position] + parts[position + 1])
            position += 2
        else:
            out.append(parts[position])
            position += 1
    return out


def _weighted_words() -> dict[str, int]:
    """The words as they stand in a text (with the space before them), earlier ones weighing more, and their endings."""
    words: dict[str, int] = {}
    unique = list(dict.fromkeys(ENGLISH.split()))
    for rank, word in enumerate(unique):
        weight = 10_000 // (rank + 10) + 1
        for form in (f"Ġ{word}", word, word.capitalize(), f"Ġ{word.capitalize()}"):
            words[form] = words.get(form, 0) + weight
    for ending in ENDINGS:
        words[ending] = words.get(ending, 0) + 400
    return words


def fillers(count: int, taken: set[str]) -> list[str]:
    """Made-up words of two to four syllables, each with a space before it, in a fixed order."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    made: list[str] = []
    for length in (2, 3, 4):
        for parts in itertools.product(syllables, repeat=length):
            if len(made) == count:
                return made
            word = "Ġ" + "".join(parts)
            if word not in taken:
                made.append(word)
    return made


def build_tokenizer(vocabulary: int) -> dict[str, object]:
    """tokenizer.json with exactly `vocabulary` ids, which must leave room for the bytes, the merges and three specials."""
    merges = learn_merges(_weighted_words(), MERGES)
    tokens = list(dict.fromkeys([*byte_symbols(), *(left + right for left, right in merges)]))
    tokens += fillers(vocabulary - len(SPECIAL) - len(tokens), set(tokens))
    assert len(tokens) + len(SPECIAL) == vocabulary
    added = [
        {
            "id": len(tokens) + position,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for position, content in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate((*tokens, *SPECIAL))},
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }
