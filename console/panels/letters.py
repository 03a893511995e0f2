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
    "D": ("## ", "# #", "# #", "# #", "## "),
    "E": ("###", "#  ", "## ", "#  ", "###"),
    "F": ("###", "#  ", "## ", "#  ", "#  "),
    "G": ("####", "#   ", "# ##", "#  #", "####"),
    "I": ("#", "#", "#", "#", "#"),
    "K": ("#  #", "# # ", "##  ", "# # ", "#  #"),
    "L": ("#  ", "#  ", "#  ", "#  ", "###"),
    "N": ("#   #", "##  #", "# # #", "#  ##", "#   #"),
    "O": ("####", "#  #", "#  #", "#  #", "####"),
    "R": ("## ", "# #", "## ", "# #", "# #"),
    "S": ("###", "#  ", "###", "  #", "###"),
    "T": ("###", " # ", " # ", " # ", " # "),
    "U": ("# #", "# #", "# #", "# #", "###"),
    "W": ("#   #", "#   #", "# # #", "# # #", " # # "),
}
"""Five pixels high; two of them make one character."""


def tall(word: str) -> list[str]:
    """`word` in three rows of half blocks, all of one width; letters it does not know are left out."""
    rows = ["", "", ""]
    for letter in word:
        pixels = _PIXELS.get(letter)
        if pixels is None:
            continue
        padded = (" " * len(pixels[0]), *pixels)
        for row in range(3):
            upper, lower = padded[row * 2], padded[row * 2 + 1]
            rows[row] += "".join(" ▀▄█"[(u == "#") + 2 * (d == "#")] for u, d in zip(upper, lower, strict=True)) + " "
    return [row[:-1] for row in rows]
