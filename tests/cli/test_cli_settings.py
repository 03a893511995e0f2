from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from console import cli
from tests.faults.terminal import Terminal

RECORDING = Path(__file__).parents[2] / "screenshots" / "cpu.sparkrec"
LIGHT_GROUND, DARK_GROUND = b"48;2;246;247;249", b"48;2;12;17;24"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORFGBG", raising=False)
    return tmp_path / "config" / "settings.toml"


def settings(*words: str) -> int:
    return cli.main(["settings", *words])


def test_shown_set_and_unset(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert settings() == 0
    told = capsys.readouterr().out
    assert "not there yet" in told
    assert "theme           auto" in told
    assert settings("set", "theme", "light") == 0
    assert settings("set", "keys.burst", "Z", "f5") == 0
    assert home.read_text() == 'theme = "light"\n\n[keys]\nburst = ["Z", "f5"]\n'
    capsys.readouterr()
    assert settings("show") == 0
    told = capsys.readouterr().out
    assert "* theme           light" in told
    assert "Z f5" in told
    assert settings("unset", "theme") == 0
    assert "theme" not in home.read_text()
    capsys.readouterr()
    assert settings("path") == 0
    assert capsys.readouterr().out.strip() == str(home)
    assert settings("keys") == 0
    told = capsys.readouterr().out
    assert "burst " in told
    assert "Z f5" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["set", "theme", "red"], "theme must be one of"),
        (["set", "keys.burst", "s"], "'s' is the key of 'slow-readers' already"),
        (["unset", "theem"], "did you mean 'theme'?"),
    ],
)
def test_what_cannot_be_set(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert settings(*words) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
    assert not home.exists()


def test_a_wrong_file_is_said_with_its_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.parent.mkdir()
    home.write_text('# mine\ntheme = "\x1b[31mred"\n')
    assert settings() == 2
    told = capsys.readouterr().err
    assert f"{home}, line 2: " in told
    assert "\x1b" not in told


def test_the_verb_imports_no_textual() -> None:
    statement = (
        "import sys, console.cli; console.cli.main(['settings']); console.cli.main(['settings', 'keys']); "
        "print('textual' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def console(*more: str, **environment: str) -> Terminal:
    command = (sys.executable, "-m", "console.cli", "console", "--replay", str(RECORDING), *more)
    return Terminal(argv=command, cells=120, rows=36, **environment)


def test_the_console_obeys_the_file_and_the_flag_beats_it(home: Path) -> None:
    home.parent.mkdir()
    home.write_text('theme = "light"\n')
    for more, ground, other in (((), LIGHT_GROUND, DARK_GROUND), (("--theme", "dark"), DARK_GROUND, LIGHT_GROUND)):
        terminal = console(*more, SPARK_SERVE_HOME=str(home.parents[1]), COLORTERM="truecolor")
        try:
            terminal.until("people")
            assert ground in terminal.raw
            assert other not in terminal.raw
        finally:
            terminal.end()


def test_a_wrong_file_ends_the_console_before_it_starts(home: Path) -> None:
    home.parent.mkdir()
    home.write_text('[keys]\nburst = "s"\n')
    terminal = console(SPARK_SERVE_HOME=str(home.parents[1]))
    terminal.until("slow-readers")
    assert terminal.end(None) == 2
    assert b"\x1b[?1049h" not in terminal.raw
