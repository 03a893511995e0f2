from __future__ import annotations

import stat
import string
from pathlib import Path

import pytest
from textual.keys import _character_to_key

from console.deeds import DEEDS
from console.keymap import KeymapError, key_of, keyed, keymap, name_of, named, newly_keyed
from console.settings import Settings, SettingsError, changed, parsed, put, read_settings, settings_file, taken
from server.config import SettingError

FILE = Path("/somewhere/settings.toml")
WHOLE = """\
# mine
theme = "light"          # the projector
words = "plain"
screen = 'presenter'
refresh_s = 1
gpu_hour_price = 2.5

[keys]
burst = ["ctrl+b", "f5"]
freeze = "Z"
"""


def test_a_whole_file() -> None:
    assert parsed(WHOLE, FILE) == Settings(
        theme="light",
        words="plain",
        screen="presenter",
        refresh_s=1.0,
        gpu_hour_price=2.5,
        keys={"burst": ("ctrl+b", "f5"), "freeze": ("Z",)},
    )
    assert parsed("", FILE) == Settings()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('theme = "drak"', 1, "theme must be one of auto, dark, light,"),
        ("\n\ntheme = 3", 3, "not 3"),
        ('\ntheem = "dark"', 2, "there is no setting 'theem'; did you mean 'theme'?"),
        ("[zzz]\na = 1", 1, "there is no setting 'zzz'; there are theme, words,"),
        ("refresh_s = -1", 1, "a number of seconds from 0 to 60"),
        ("refresh_s = nan", 1, "not nan"),
        ("refresh_s = true", 1, "not True"),
        ("gpu_hour_price = 0", 1, "a number above 0"),
        ("gpu_hour_price = inf", 1, "not inf"),
        ('words = ["plain"]', 1, "one of standard, plain"),
        ("keys = 3", 1, "a table"),
        ('theme = "dark"\nwords = ', 2, "this is no TOML"),
        ('theme = "dark"\ntheme = "light"', 2, "this is no TOML"),
        ("x = [\n1,\n", 2, "this is no TOML"),
        ('[keys]\nburst = "b"\nbrust = "x"', 3, "there is no action 'brust'; did you mean 'burst'?"),
        ('[keys]\nburst = "s"', 2, "'s' is the key of 'slow-readers' already"),
        ('[keys]\nburst = "kk"', 2, "'kk' is no key"),
        ('[keys]\nburst = "pagup"', 2, "did you mean 'pageup'?"),
        ("[keys]\nburst = []", 2, "give it at least one key"),
        ("[keys]\nburst = 4", 2, "a key or a list of keys"),
        ('[keys]\nburst = "ctrl+p"', 2, "is for the palette"),
        ('keys.burst = "s"', 1, "'s' is the key of"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(SettingsError) as failed:
        parsed(text, FILE)
    said = str(failed.value)
    assert said.startswith(f"{FILE}, line {line}: "), said
    assert says in said
    assert said[-1] in ".?"
    assert "\n" not in said


def test_files_that_are_none(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "none.toml") == Settings()
    odd = tmp_path / "odd.toml"
    odd.write_bytes(b'theme = "dark"\nwords = "\xff"')
    with pytest.raises(SettingsError, match="line 2: this is not UTF-8"):
        read_settings(odd)
    odd.write_bytes(b"#" * (1 << 21))
    with pytest.raises(SettingsError, match="larger than 1 MiB"):
        read_settings(odd)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(tmp_path)
    odd.write_text("x = " + "[" * 100_000)
    with pytest.raises(SettingsError):
        read_settings(odd)


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARK_SERVE_HOME", str(tmp_path))
    assert settings_file() == tmp_path / "config" / "settings.toml"
    monkeypatch.delenv("SPARK_SERVE_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert settings_file() == tmp_path / "xdg" / "spark-serve" / "settings.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr("platformdirs.user_config_dir", lambda *_, **__: "~/.config/spark-serve")
    with pytest.raises(SettingError, match="no home folder"):
        settings_file()


def test_setting_one_keeps_the_rest_and_the_comments() -> None:
    after = changed(WHOLE, "theme", "high-contrast", FILE)
    assert after == WHOLE.replace('"light"          # the', '"high-contrast"  # the')
    assert changed(after, "theme", "light", FILE) == WHOLE.replace("          # the", "  # the")
    assert changed(WHOLE, "refresh_s", None, FILE) == WHOLE.replace("refresh_s = 1\n", "")
    assert changed(WHOLE, "keys.freeze", "#", FILE) == WHOLE.replace('"Z"', '"#"')
    more = changed(WHOLE, "keys.cold-restart", ["K", "'"], FILE)
    assert more == WHOLE.replace("[keys]\n", '[keys]\ncold-restart = ["K", "\'"]\n')
    assert parsed(more, FILE).keys["cold-restart"] == ("K", "'")


def test_setting_the_first_one() -> None:
    assert changed("", "theme", "dark", FILE) == 'theme = "dark"\n'
    assert changed("", "keys.burst", "ctrl+b", FILE) == '[keys]\nburst = "ctrl+b"\n'
    assert changed('theme = "dark"\n', "keys.burst", "\\", FILE) == "theme = \"dark\"\n\n[keys]\nburst = '\\'\n"
    assert changed('[keys]\nburst = "Z"\n', "theme", "dark", FILE) == 'theme = "dark"\n[keys]\nburst = "Z"\n'
    assert changed("", "theme", None, FILE) == ""


def test_a_wrong_value_can_be_set_right() -> None:
    assert changed('theme = "drak"', "theme", "dark", FILE) == 'theme = "dark"\n'


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('[keys]\nburst = [\n  "Z",\n]\n', "keys.burst", "K"),
        ('[keys]\nburst = [\n  "Z",\n]\n', "keys.burst", None),
        ('keys = { burst = "Z" }\n', "keys.freeze", "K"),
        ('theme = """\nlight"""\n', "theme", "dark"),
    ],
)
def test_what_cannot_be_changed_in_its_one_line_is_left_alone(text: str, name: str, value: object) -> None:
    with pytest.raises(SettingsError, match="edit it by hand"):
        changed(text, name, value, FILE)


def test_the_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settings.toml"
    put("theme", "light", path)
    path.chmod(0o644)
    put("refresh_s", 0.5, path)
    assert path.read_text() == 'theme = "light"\nrefresh_s = 0.5\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(SettingsError):
        put("keys.burst", "s", path)
    assert path.read_text() == 'theme = "light"\nrefresh_s = 0.5\n'
    assert [one.name for one in path.parent.iterdir()] == ["settings.toml"]


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.toml", tmp_path / "settings.toml"
    real.write_text("")
    link.symlink_to(real)
    put("theme", "light", link)
    assert link.is_symlink()
    assert real.read_text() == 'theme = "light"\n'


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("theme", ["light"], "light"),
        ("refresh_s", ["2"], 2.0),
        ("gpu_hour_price", ["1.99"], 1.99),
        ("keys.burst", ["Z"], "Z"),
        ("keys.burst", ["Z", "f5"], ["Z", "f5"]),
    ],
)
def test_words_of_a_command_line(name: str, words: list[str], value: object) -> None:
    assert taken(name, words) == value


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("theem", ["light"], "There is no setting 'theem'; did you mean 'theme'?"),
        ("keys", ["x"], "There is no setting 'keys'; `spark-serve settings` lists them."),
        ("theme", ["red"], "theme must be one of auto"),
        ("refresh_s", ["soon"], "refresh_s must be a number"),
        ("refresh_s", ["nan"], "refresh_s must be a number"),
        ("keys.brust", ["x"], "There is no action 'brust'; did you mean 'burst'?"),
    ],
)
def test_words_that_mean_nothing(name: str, words: list[str], says: str) -> None:
    with pytest.raises(SettingsError) as failed:
        taken(name, words)
    assert says in str(failed.value)


# keys


def test_every_deed_has_a_name_of_its_own_that_a_person_can_type() -> None:
    assert len(named()) == len(DEEDS)
    assert all(name.replace("-", "").isalnum() and name.islower() for name in named())


def test_marks_are_named_as_textual_names_them() -> None:
    for mark in string.ascii_letters + string.digits + string.punctuation:
        assert key_of(mark) == _character_to_key(mark)
    assert [key_of(text) for text in ("ctrl+b", "f5", "space", "ctrl++", "?", "question_mark")] == [
        "ctrl+b",
        "f5",
        "space",
        "ctrl+plus",
        "question_mark",
        "question_mark",
    ]
    for text in ("", " ", "bb", "f25", "control+b", "ctrl+", "\x1b", "\n"):
        with pytest.raises(ValueError, match="is no key"):
            key_of(text)


def test_nothing_changes_by_itself() -> None:
    assert keyed({}) == DEEDS
    assert keymap(DEEDS) == {}
    assert not list(newly_keyed(DEEDS))


def test_hints_follow_the_keys() -> None:
    deeds = {name_of(deed): deed for deed in keyed({"fewer-people": ("K",), "help": ("f1",), "burst": ("*", "Z")})}
    assert deeds["more-people"].shown == "+ K"
    assert deeds["fewer-people"].shown == "K"
    assert deeds["help"].shown == "f1"
    assert deeds["burst"].shown == "*"
    assert keymap(deeds.values()) == {
        "cockpit.burst": "asterisk,Z",
        "cockpit.people(-1)": "K",
        "cockpit.help": "f1",
    }
    rows = {name_of(deed): deed for deed in keyed({"load-row-down": ("j",), "load-row-up": ("k",)})}
    assert (rows["load-row-up"].shown, rows["policy-row-up"].shown) == ("k j", "")


def test_two_can_swap_keys_and_screens_have_their_own() -> None:
    assert keyed({"burst": ("s",), "slow-readers": ("b",)})
    assert keyed({"load-row-down": ("j",)})
    with pytest.raises(KeymapError, match="'A' is the key of 'load-preset-one-chat'"):
        keyed({"burst": ("A",)})


def test_an_action_without_a_key_can_have_one() -> None:
    (deed,) = newly_keyed(keyed({"compare-policies": ("Z",)}))
    assert (deed.action, deed.keys, deed.shown) == ("compare", "Z", "Z")
