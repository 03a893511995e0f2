"""Letters and digits three rows high, for the word and the number that have to be read from the back of the room."""

from __future__ import annotations

_PIXELS = {
    "0": ("###", "# #", "# #", "# #", "###"),
    "1": ("##", " #", " #", " #", " #"),
    "2": ("###", "  #", "###", "#  ", "###"),
    "3": ("###", "  #", "###", "  #", "###"),
    "4": ("# #", "# #", "###", "  #", "  #"),
    "5": ("###", "#  ", "###", "  #", "###"),
    "6": ("###", "#  ", "###", "# #", "###"),
    "7": ("###", "  #", "  #", "  #", "  #"),
    "8": ("###", "# #", "###", "# #", "###"),
    "9": ("###", "# #", "###", "  #", "###"),
    "A": ("###", "# #", "###", "# #", "# #"),
    "B": ("## ", "# #", "## ", "# #", "## "),
    "C": ("###", "#  ", "#  ", "#  ", "###"),
    "D": ("## ", "# #", "# #", "# #", "## "),
    "E": ("###", "#  ", "## ", "#  ", "###"),
    "F": ("###", "#  ", "## ", "#  ", "#  "),
    "G": ("####", "#   ", "# ##", "#  #", "####"),
    "H": ("# #", "# #", "###", "# #", "# #"),
    "I": ("#", "#", "#", "#", "#"),
    "J": ("  #", "  #", "  #", "# #", "###"),
    "K": ("#  #", "# # ", "##  ", "# # ", "#  #"),
    "L": ("#  ", "#  ", "#  ", "#  ", "###"),
    "M": ("#   #", "## ##", "# # #", "#   #", "#   #"),
    "N": ("#   #", "##  #", "# # #", "#  ##", "#   #"),
    "O": ("####", "#  #", "#  #", "#  #", "####"),
    "P": ("###", "# #", "###", "#  ", "#  "),
    "Q": ("####", "#  #", "#  #", "# ##", "####"),
    "R": ("## ", "# #", "## ", "# #", "# #"),
    "S": ("###", "#  ", "###", "  #", "###"),
    "T": ("###", " # ", " # ", " # ", " # "),
    "U": ("# #", "# #", "# #", "# #", "###"),
    "V": ("# #", "# #", "# #", "# #", " # "),
    "W": ("#   #", "#   #", "# # #", "# # #", " # # "),
    "X": ("# #", "# #", " # ", "# #", "# #"),
    "Y": ("# #", "# #", "###", " # ", " # "),
    "Z": ("###", "  #", " # ", "#  ", "###"),
    ".": (" ", " ", " ", " ", "#"),
    ":": (" ", "#", " ", "#", " "),
    "/": ("  #", "  #", " # ", "#  ", "#  "),
    "%": ("# #", "  #", " # ", "#  ", "# #"),
    "-": ("  ", "  ", "##", "  ", "  "),
    "+": ("   ", " # ", "###", " # ", "   "),
    "—": ("    ", "    ", "####", "    ", "    "),
    "~": ("    ", " #  ", "# ##", "    ", "    "),
    "<": ("  #", " # ", "#  ", " # ", "  #"),
    " ": (" ", " ", " ", " ", " "),
    "\u2009": ("", "", "", "", ""),
}
"""Five pixels high; two of them make one character."""
PIXELS_HIGH = 5


def tall(word: str) -> list[str]:
    """`word` in three rows of half blocks, all of one width; letters it does not know are left out."""
    return _halves(["", *_pixels(word)])


def big(word: str, scale: int) -> list[str]:
    """`word` with pixels of `scale` cells by `scale` half rows; small letters are as tall as capitals."""
    pixels = ["".join(pixel * scale for pixel in row) for row in _pixels(word.upper()) for _ in range(scale)]
    return _halves(["", *pixels] if len(pixels) % 2 else pixels)


def big_size(word: str, scale: int) -> tuple[int, int]:
    """(cells, rows) of `big`."""
    return len(_pixels(word.upper())[0]) * scale, -(-PIXELS_HIGH * scale // 2)


def _pixels(word: str) -> list[str]:
    """Rows of `#` and blanks, all of one width."""
    known = [_PIXELS[letter] for letter in word if letter in _PIXELS]
    return [" ".join(pixels[row] for pixels in known) for row in range(PIXELS_HIGH)]


def _halves(pixels: list[str]) -> list[str]:
    """Two rows of pixels in each row of characters; an empty row is blank."""
    wide = max(map(len, pixels))
    rows = [row.ljust(wide) for row in pixels]
    return [
        "".join(" ▀▄█"[(u == "#") + 2 * (d == "#")] for u, d in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]
