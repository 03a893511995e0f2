"""What an application does about looks and keys: one theme on everything, changed live and remembered, and keys by file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textual.app import App, ReturnType
from textual.filter import LineFilter
from textual.theme import Theme as Widgets

from console.keymap import keyed, keymap, newly_keyed
from console.palette import HARMLESS, Colourless
from console.settings import Settings, SettingsError, put
from console.themes import DARK, NO_COLOUR, THEMES, Theme

COLOURLESS = Colourless()


def widgets(theme: Theme) -> Widgets:
    """The same inks for Textual's own widgets: the palette, inputs, scrollbars, and `console.tcss`."""
    return Widgets(
        name=theme.name,
        dark=theme.dark,
        primary=theme.work,
        secondary=theme.brand,
        accent=theme.warn,
        warning=theme.warn,
        error=theme.bad,
        success=theme.good,
        foreground=theme.text,
        background=theme.ground,
        surface=theme.sheet,
        panel=theme.keycap,
        variables={"ground": theme.ground, "sheet": theme.sheet, "plain": theme.text, "edge": theme.work},
    )


class Dressed(App[ReturnType]):
    """An application in one of our themes, with the keys of a settings file."""

    def __init__(self, settings: Settings, look: Theme | None, remember_in: Path | None) -> None:
        if settings.screen != "flow":
            self.DEFAULT_MODE = settings.screen  # type: ignore[misc]  # read once, by the next line
        super().__init__()
        self.settings = settings
        self.deeds = keyed(settings.keys)
        """As this person has their keys."""
        self.look = NO_COLOUR if self.no_color else look or DARK
        self._remember_in = remember_in
        self._no_colour_asked = self.no_color
        """By NO_COLOR, which no key undoes."""
        for theme in THEMES.values():
            self.register_theme(widgets(theme))
        # As the setter does, but before there is a style sheet that it would parse once more.
        self.no_color = not self.look.colour
        self.set_reactive(App.theme, self.look.name)
        self.stylesheet.set_variables(self.get_css_variables())
        self.set_class(self.look.dark, "-dark-mode", update=False)
        self.set_class(not self.look.dark, "-light-mode", update=False)
        self.set_keymap(keymap(self.deeds))
        for deed in newly_keyed(self.deeds):
            self._bindings.bind(deed.keys, deed.action, deed.label)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """No control from data leaves; without colours no colour either."""
        return [HARMLESS, *([COLOURLESS] if self.no_color else super().get_line_filters())]

    def action_next_theme(self) -> None:
        """The one after this."""
        names = list(THEMES)
        self.action_theme(names[(names.index(self.look.name) + 1) % len(names)])

    def action_theme(self, name: str) -> None:
        """This theme, from now on and the next time."""
        if self._no_colour_asked:
            self.flash("NO_COLOR is set: colours stay off; `spark-serve console --theme NAME` overrides it", "warn")
            return
        self.look = THEMES[name]
        self.no_color = not self.look.colour
        self.theme = name
        for screen in self.screen_stack:
            screen.refresh()
            for widget in screen.walk_children():
                widget.refresh()
        self.flash(f"Theme {name}: {self.look.says}{self._remembered(name)}")

    def _remembered(self, name: str) -> str:
        if self._remember_in is None:
            return ""
        try:
            put("theme", name, self._remember_in)
        except (OSError, SettingsError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return f"; not remembered ({reason})"
        return ""

    def flash(self, text: str, style: str = "text") -> None:
        """One sentence in the status line."""
        raise NotImplementedError
