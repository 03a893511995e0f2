"""What `--help` says beyond the options: the verbs by purpose, examples, exit codes, files, what else to look at."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

WIDTH = 78

GROUPS: dict[str, str] = {
    "look": "see what goes on",
    "disturb": "break it on purpose",
    "people": "who asks, and what",
    "policy": "who goes next",
    "measure": "figures, files, reports",
    "engine": "bring it up, take it down",
    "help": "this program",
}

EXITS = "0 done; 1 it could not be done, one sentence on stderr says why; 2 the command line was wrong"
_HOME = ("SPARK_SERVE_HOME", "one folder for engines, models, logs, socket: stacks beside each other")
_KEYS = (
    ("SPARK_SERVE_API_KEY", "needed from clients of the gateway; sent to --url of load and capacity"),
    ("SPARK_SERVE_ENGINE_KEY", "sent to an engine that has a key of its own"),
)


@dataclass(frozen=True)
class Page:
    """What one verb's help says."""

    group: str
    short: str
    """For the list of verbs: at most 60 characters."""
    says: str = ""
    """After the sentence that the parser has."""
    examples: tuple[tuple[str, str], ...] = ()
    """(what to type after `spark-serve`, what it does)."""
    see: tuple[str, ...] = ()
    exits: str = EXITS
    environment: tuple[tuple[str, str], ...] = (_HOME,)
    files: tuple[tuple[str, str], ...] = ()


_CHARTS = "The event is marked in every chart, and in a recording."

PAGES: dict[str, Page] = {
    # look
    "console": Page(
        "look",
        "the cockpit, live or over a recording",
        "It owns nothing: close the terminal and the stack serves on. Keys are in the footer, `?` explains them.",
        (
            ("console", "open the running stack, or bring one up"),
            ("console --model shape:qwen3-8b --people 64", "a full-size shape with random weights"),
            ("console --attach http://127.0.0.1:8000", "watch a vLLM that runs, read-only"),
            ("console --attach URL1 --attach URL2", "several replicas, their sum and their balance"),
            ("console --replay FILE --at '64 people+20'", "play a recording from there"),
            ("console --web", "the same console in browsers, read-only"),
            ("console --once", "one frame as text"),
        ),
        ("demo", "up", "status", "record"),
        environment=(_HOME, *_KEYS, ("NO_COLOR", "bold, dim and reverse instead of colour")),
        files=(("~/.local/state/spark-serve", "logs, recordings, socket"),),
    ),
    "demo": Page(
        "look",
        "the cockpit without an engine: a real recording, looped",
        "Space pauses; , . [ ] ( ) go about in it; ctrl+p jumps to any of its events.",
        (
            ("demo", "200 people on an H100"),
            ("demo cpu", "a small CPU, with its single requests"),
            ("demo --speed 5", ""),
        ),
        ("console", "record"),
        environment=(),
    ),
    "lesson": Page(
        "look",
        "the course's day: predict, do, see, understand",
        "Each step asks for a prediction, does something to the running stack, and checks itself on live data. "
        "People and policy are put back at its end, whatever ends it.",
        (
            ("lesson", "which there are"),
            ("lesson run ten-friends", "in the cockpit; with --text without one"),
            ("lesson check mine.toml", "everything wrong with a lesson of your own"),
            ("lesson words", "the figures, acts and moments a lesson can name"),
        ),
        ("console", "demo"),
    ),
    "watchers": Page(
        "look",
        "let a group of this machine watch, read-only",
        "They see figures and finished requests, not logs, and can send nothing. Key `w` lists who is here and who acted.",
        (
            ("watchers students", "the members of this group may watch"),
            ("watchers off", "nobody; who watches is cut off"),
            ("console --watch [USER]", "what a member types"),
        ),
        ("console",),
    ),
    "status": Page(
        "look",
        "how the stack is, as text or JSON",
        "The same panels as on the first screen, without a terminal.",
        (("status", ""), ("status --json | jq .verdict.word", "every figure with its age, n and source")),
        ("console", "requests"),
        exits="0 it serves; 1 it does not, or there is none; 2 the command line was wrong",
    ),
    "requests": Page(
        "look",
        "single requests, and where the time of one went",
        "Stages come from three clocks (client, gateway, engine) and add up; what they do not explain is named too.",
        (("requests --slow", "those that missed the SLO"), ("requests 3fa2", "one, by the begin of its id")),
        ("status", "report"),
    ),
    "logs": Page(
        "look",
        "the end of a log: engine, gateway, load, stack, console",
        "",
        (("logs", "the engine's last 40 lines"), ("logs gateway -n 200", "")),
        ("status", "engine"),
        files=(("~/.local/state/spark-serve/logs", "where they lie"),),
    ),
    # disturb
    "burst": Page("disturb", "N requests at once", _CHARTS, (("burst", ""), ("burst 200", "")), ("flash", "people")),
    "flash": Page(
        "disturb",
        "a flash crowd comes, asks and goes",
        _CHARTS,
        (("flash 100 --over 10", "a hundred within ten seconds"),),
        ("burst", "people"),
    ),
    "slow": Page(
        "disturb",
        "people who read slower than the stream comes",
        "The engine runs on; what they cost is held connections and buffers in the gateway.",
        (("slow 16", ""), ("slow 0", "they go home")),
        ("abandon", "retry"),
    ),
    "abandon": Page(
        "disturb",
        "people who leave when it takes too long",
        "Tokens made for those who left are counted as wasted.",
        (("abandon 8", ""), ("abandon 0", "they go home")),
        ("retry", "ask"),
    ),
    "retry": Page(
        "disturb",
        "people who ask again and again",
        "Naive, with jitter, or within a budget: `ask --retry` says how.",
        (("retry 24", "a storm, once the queue refuses"), ("retry 0", "they go home")),
        ("ask", "abandon"),
    ),
    "long": Page(
        "disturb",
        "people with prompts several times as long",
        "Does the long prompt block the short one? `compare` measures it.",
        (("long 4", ""), ("long 0", "they go home")),
        ("compare", "policy"),
    ),
    "fault": Page(
        "disturb",
        "faults, timed and undone by themselves",
        "A fault that lasts stands in the head of every screen with its seconds left, and is undone even if the stack dies.",
        (
            ("fault", "what there is, and what lasts now"),
            ("fault latency --ms 500 --on engine --for 30", ""),
            ("fault kill gateway", ""),
            ("fault --stop", "undo all"),
        ),
        ("restart", "logs"),
    ),
    # people
    "people": Page("people", "have N people", _CHARTS, (("people 64", ""),), ("mix", "preset", "rate")),
    "mix": Page(
        "people", "how people behave, by weights", "", (("mix patient=6,abandoner=3,retrier=1", ""),), ("people", "ask")
    ),
    "rate": Page(
        "people",
        "open loop: R requests per second",
        "Nobody waits for an answer before the next one asks.",
        (("rate 12", ""), ("rate off", "people again")),
        ("arrivals", "people"),
    ),
    "arrivals": Page(
        "people",
        "open loop by a process: gamma, ramp, onoff, replay",
        "`replay` takes an Azure trace or the requests of a recording.",
        (("arrivals gamma:2:0.25", "bursty"), ("arrivals ramp:0.5:8:120", ""), ("arrivals off", "people again")),
        ("rate", "preset"),
    ),
    "preset": Page("people", "a load by name", "", (("preset lunch-rush", ""),), ("people", "ask")),
    "ask": Page(
        "people",
        "what people ask, and how retriers come back",
        "",
        (("ask --prompt-tokens 400 --output-tokens 150", ""), ("ask --retry budget", "")),
        ("mix", "preset"),
    ),
    # policy
    "policy": Page(
        "policy",
        "the queue's policy: order, limit, overload, deadlines",
        "It changes without dropping who waits; with nothing given the policy in force is printed.",
        (
            ("policy", "print it"),
            ("policy shortest --ageing 30", ""),
            ("policy --limit tokens", ""),
            ("policy --overload estimate --max-wait 10", ""),
        ),
        ("limits", "knobs", "compare"),
    ),
    "limits": Page(
        "policy", "how many in flight, how many may wait", "", (("limits --max-in-flight 32", ""),), ("policy",)
    ),
    "knobs": Page(
        "policy",
        "the engine's own scheduling; it restarts for it",
        "",
        (("knobs --max-num-batched-tokens 512", ""),),
        ("policy", "restart"),
    ),
    "compare": Page(
        "policy",
        "policies on the same seeded load, A B B A",
        "A difference counts where the runs of one policy do not differ as much (95 %). People and policy are put back.",
        (("compare fifo shortest", ""), ("compare --show FILE", "an earlier one again")),
        ("policy", "capacity"),
    ),
    # measure
    "capacity": Page(
        "measure",
        "how many people this setup serves",
        "People are doubled until it breaks, then asked where a block tells most; six minutes at most.",
        (
            ("capacity", "on the running stack, live on screen 5"),
            ("capacity --url http://127.0.0.1:8000", "any OpenAI-compatible server"),
            ("capacity --compare A.json B.json", ""),
        ),
        ("load", "report"),
        exits="0 resolved; 1 not resolved, or it could not be done; 2 the command line was wrong",
        environment=(_HOME, _KEYS[0]),
    ),
    "load": Page(
        "measure",
        "load any OpenAI-compatible server",
        "Latency counts from the moment a person meant to send; a run that the load generator itself limits is VOID.",
        (
            ("load --url http://127.0.0.1:8000 --people 32 --duration 60", ""),
            ("load --selftest", "how far to trust it on this machine"),
        ),
        ("capacity",),
        environment=(_KEYS[0],),
    ),
    "report": Page(
        "measure",
        "request_log.md: what waited, failed, was measured",
        "Of a recording, or of what the running stack has seen.",
        (
            ("report", "what the running stack has seen"),
            ("report run.sparkrec --html", "one page with charts; no request leaves it"),
            ("report run.sparkrec --csv --out run.csv", "a row a second, for notebooks; --json is all of it"),
            ("report run.sparkrec --gpu-hour-price 2.5EUR", "what a million good tokens cost"),
            ("report run.sparkrec --homework request_log.md", "beside what was predicted"),
        ),
        ("record", "homework", "capacity"),
    ),
    "homework": Page(
        "measure",
        "request_log.md blank: a prediction at every arrow first",
        "What the student wrote is never changed; the run is filled in beside it.",
        (
            ("homework", "write request_log.md, to be filled in with any editor"),
            ("console --homework request_log.md", "key e fills in what happened"),
            ("report --homework request_log.md", "the same, as a command"),
        ),
        ("report",),
    ),
    "record": Page(
        "measure",
        "record the running stack, to play or report it later",
        "2 MB an hour idle, 5 to 8 under load; single requests lie beside it. A crash costs the last two seconds at most.",
        (
            ("record", "into a dated file of the state folder"),
            ("record run.sparkrec --for 120", "two minutes, then stop"),
            ("record --stop", ""),
            ("console --replay run.sparkrec", "play it"),
        ),
        ("console", "report", "marker"),
        files=(
            ("~/.local/state/spark-serve/recordings", "where dated ones lie"),
            ("FILE.requests.jsonl.gz", "single requests, JSON lines"),
        ),
    ),
    "marker": Page("measure", "a note on the charts", _CHARTS, (("marker second try, warm cache", ""),), ("record",)),
    # engine
    "up": Page(
        "engine",
        "bring the stack up in the background",
        "Engine, gateway and people, each a process of its own.",
        (
            ("up --wait", "return when it serves"),
            ("up --model Qwen/Qwen3-8B --max-num-seqs 64", ""),
            ("up --people 32 --record run.sparkrec", "recorded from the start"),
        ),
        ("console", "down", "engine"),
        environment=(_HOME, *_KEYS),
        files=(("~/.local/state/spark-serve", "logs, recordings, socket"),),
    ),
    "down": Page(
        "engine",
        "stop everything the stack started, and the stack",
        "What a crashed stack has left behind is ended as well.",
        (("down", ""),),
        ("up",),
    ),
    "restart": Page(
        "engine",
        "cold-restart the engine, in the kind you choose",
        "People wait in the queue meanwhile. Screen 3 draws the start stage by stage over the last one.",
        (("restart", "caches stay warm"), ("restart --kind compile", ""), ("restart --kind disk", "")),
        ("knobs", "fault"),
    ),
    "engine": Page(
        "engine",
        "install vLLM in an environment of its own; doctor",
        "",
        (("engine install", "CUDA where there is an NVIDIA GPU"), ("engine doctor", "what is there, what to do")),
        ("up", "console"),
        files=(("~/.local/share/spark-serve", "engines and models"),),
    ),
    # help
    "settings": Page(
        "help",
        "theme, words, first screen, keys: the settings file",
        "Read once by each console; comments in it are kept.",
        (
            ("settings", "what holds, and where it comes from"),
            ("settings set theme colour-blind", ""),
            ("settings set keys.burst Z", "another key; `settings keys` names the actions"),
            ("settings unset theme", ""),
        ),
        ("console",),
        files=(("~/.config/spark-serve/settings.toml", "the file; SPARK_SERVE_HOME moves it"),),
    ),
    "help": Page("help", "this, or the page of one verb", "", (("help capacity", ""),), (), environment=()),
    "completion": Page(
        "help",
        "a script for TAB: bash, zsh or fish",
        "It is static: a TAB starts no Python. Print it anew after an update.",
        (
            ("completion bash > ~/.local/share/bash-completion/completions/spark-serve", ""),
            ("completion zsh > ~/.zfunc/_spark-serve", "a folder of your fpath"),
            ("completion fish > ~/.config/fish/completions/spark-serve.fish", ""),
        ),
        (),
        environment=(),
    ),
}

OTHER = Page("help", "")


class Help(argparse.RawDescriptionHelpFormatter):
    """As argparse has it, never wider than 80 columns: pages are read, and piped."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=WIDTH)


def dress(parser: argparse.ArgumentParser) -> None:
    """Give every verb of the parser its page."""
    for name, verb in verbs(parser):
        page = PAGES.get(name, OTHER)
        verb.formatter_class = Help
        verb.description = textwrap.fill(f"{verb.description or ''} {page.says}".strip(), WIDTH)
        verb.epilog = epilog(page)
        for _, inner in verbs(verb):
            inner.formatter_class = Help
            inner.epilog = f"see also: spark-serve {name} --help"


def verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The verbs of a parser by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def overview(parser: argparse.ArgumentParser) -> str:
    """All verbs by purpose, a line each."""
    lines = [
        "usage: spark-serve VERB [OPTIONS]",
        "",
        "The operator's cockpit for an LLM serving stack.",
        "",
        "  spark-serve console      set it up, open it        spark-serve demo   no engine needed",
        "",
    ]
    known = {name: PAGES.get(name) for name, _ in verbs(parser)}
    listed = {action.dest: action.help or "" for action in _listed(parser)}
    for group, what in GROUPS.items():
        lines.append(f"{group}: {what}")
        for name in (*PAGES, *(name for name in known if name not in PAGES)):
            page = known.get(name, OTHER) or OTHER
            if name in known and page.group == group:
                text = page.short or textwrap.shorten(listed.get(name, ""), WIDTH - 15, placeholder=" ..")
                lines.append(f"  {name:<12} {text}")
        lines.append("")
    lines += ["spark-serve help VERB explains one of them; --version says which this is."]
    return "\n".join(lines) + "\n"


def epilog(page: Page) -> str:
    """What stands below the options."""
    parts: list[str] = []
    if page.examples:
        parts.append(_block("examples", [(f"spark-serve {command}", what) for command, what in page.examples]))
    parts.append(_block("exit codes", [(page.exits.replace("; ", "\n"), "")]))
    if page.environment:
        parts.append(_block("environment", page.environment))
    if page.files:
        parts.append(_block("files", page.files))
    if page.see:
        parts.append(_block("see also", [(", ".join(page.see), "")]))
    return "\n\n".join(parts)


def _block(title: str, rows: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> str:
    """Rows of a term and what it is, the second beside the first where both fit, else below it."""
    lines = [f"{title}:"]
    left = max((len(term) for term, what in rows if what and 4 + len(term) + len(what) <= WIDTH), default=0)
    for term, what in rows:
        if "\n" in term or not what:
            lines += [f"  {one}" for part in term.split("\n") for one in textwrap.wrap(part, WIDTH - 2)]
        elif len(term) <= left and 4 + left + len(what) <= WIDTH:
            lines.append(f"  {term:<{left}}  {what}")
        elif 4 + len(term) + len(what) <= WIDTH:
            lines.append(f"  {term}{' ' * (WIDTH - 2 - len(term) - len(what))}{what}")
        else:
            lines += [f"  {term}", *textwrap.wrap(what, WIDTH, initial_indent="      ", subsequent_indent="      ")]
    return "\n".join(lines)


def _listed(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The pseudo-actions in which argparse keeps each verb's one line."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action._choices_actions
