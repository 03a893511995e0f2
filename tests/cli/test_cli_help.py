"""Help, completion, the manual page: complete, within 80 columns, and quick at a TAB."""

from __future__ import annotations

import argparse
import os
import pty
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from console import cli, manual
from console.help_verb import SHELLS, script

PARSER = cli._parser()
VERBS = dict(manual.verbs(PARSER))
BASH = shutil.which("bash")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = cli.main(arguments)
    except SystemExit as left:
        code = int(left.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_all_verbs_are_listed_once_by_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = said(capsys, "--help")
    assert code == 0
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and not line.startswith("  spark")]
    assert sorted(listed) == sorted(VERBS)
    assert all(f"\n{group}: " in text for group in manual.GROUPS)
    assert said(capsys)[0] == 2
    assert said(capsys, "help")[1] == text


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_a_page_that_fits(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = said(capsys, name, "--help")
    assert code == 0
    assert name in manual.PAGES, "console/manual.py says what it is for"
    page = manual.PAGES[name]
    assert len(page.short) <= 63
    assert "exit codes:" in text
    assert set(page.see) <= VERBS.keys()
    assert max(map(len, text.splitlines())) <= 80
    assert "%%" not in text
    assert said(capsys, "help", name)[1] == text


@pytest.mark.parametrize("name", manual.PAGES)
def test_what_the_examples_show_is_what_the_parser_takes(name: str) -> None:
    for command, _ in manual.PAGES[name].examples:
        words = shlex.split(command.split(" > ")[0].split(" | ")[0])
        parsed = PARSER.parse_args(words)
        assert parsed.verb == words[0]


def test_help_of_what_a_verb_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--jitter" in said(capsys, "help", "fault", "latency")[1]
    code, _, error = said(capsys, "help", "frobnicate")
    assert (code, len(error.splitlines())) == (2, 1)
    assert "no verb 'frobnicate'" in error


def test_the_manual_page_names_every_verb_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = said(capsys, "help", "--man")
    assert code == 0
    assert text.startswith(".TH SPARK-SERVE 1")
    for name, verb in VERBS.items():
        assert f"\n.SS {name.replace('-', chr(92) + '-')}\n" in text
        for action in verb._actions:
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
                assert all(option.replace("-", r"\-") in text for option in action.option_strings)
    groff = shutil.which("groff")
    if groff is not None:
        done = subprocess.run(
            [groff, "-man", "-Tascii", "-ww"], input=text, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "spark-serve" in done.stdout


# completion


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_every_shell_names_the_verbs(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text, _ = said(capsys, "completion", shell)
    assert code == 0
    assert all(name in text for name in VERBS)
    checker = shutil.which(shell)
    if checker is None:
        pytest.skip(f"no {shell} here")
    path = tmp_path / "script"
    path.write_text(text)
    done = subprocess.run([checker, "-n", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shell_is_taken_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert "complete -c spark-serve" in said(capsys, "completion")[1]
    monkeypatch.setenv("SHELL", "/bin/ksh")
    assert said(capsys, "completion")[0] == 2


class Bash:
    """An interactive bash in a terminal, with the script loaded."""

    def __init__(self, folder: Path) -> None:
        assert BASH is not None
        source = folder / "spark-serve.bash"
        source.write_text(script(cli._parser(), "bash"))
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(
                BASH,
                [BASH, "--norc", "--noprofile", "-i"],
                {"PATH": os.environ["PATH"], "PS1": "$ ", "TERM": "dumb", "INPUTRC": "/dev/null", "HISTFILE": ""},
            )
        self.type("bind 'set bell-style none'; bind 'set page-completions off'; bind 'set completion-query-items 0'\n")
        self.type(f"stty cols 200; source {source}; echo rea''dy\n")
        self.until("ready")

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def until(self, text: str, within_s: float = 60.0) -> str:
        """What it wrote up to this text."""
        end = time.monotonic() + within_s
        seen = ""
        while text not in seen:
            if not select.select([self.terminal], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} never came: {seen!r}")
            seen += os.read(self.terminal, 4096).decode(errors="replace")
        return seen

    def completed(self, line: str) -> str:
        """The line after a TAB; a word that can only be one thing is written out."""
        self.type(f"{line}\t")
        self.type("\x01echo \x05 ; echo e''nd\n")
        rows = self.until("\nend").split("\r\n")
        return rows[rows.index("end") - 1].strip()

    def close(self) -> None:
        self.type("\x15exit\n")
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bash]:
    if BASH is None:
        pytest.skip("no bash here")
    folder = tmp_path_factory.mktemp("bash")
    (folder / "tour.sparkrec").touch()
    shell = Bash(folder)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("spark-serve cap", "spark-serve capacity"),
        ("spark-serve policy sho", "spark-serve policy shortest"),
        ("spark-serve policy --over", "spark-serve policy --overload"),
        ("spark-serve policy --overload est", "spark-serve policy --overload estimate"),
        ("spark-serve fault lat", "spark-serve fault latency"),
        ("spark-serve fault latency --jit", "spark-serve fault latency --jitter"),
        ("spark-serve preset lunch", "spark-serve preset lunch-rush"),
        ("spark-serve restart --kind comp", "spark-serve restart --kind compile"),
        ("spark-serve console --replay tour", "spark-serve console --replay tour.sparkrec"),
        ("spark-serve engine doc", "spark-serve engine doctor"),
        ("spark-serve completion fi", "spark-serve completion fish"),
    ],
)
def test_tab_in_a_real_bash(bash: Bash, typed: str, becomes: str) -> None:
    assert bash.completed(typed) == becomes
