"""How well colours can be told from what they stand on and from each other, also by eyes that miss a kind of cone.

Contrast: WCAG 2.2, relative luminance and contrast ratio. Colour blindness: the matrices for severity 1.0 of Machado, Oliveira
and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15 (6), 2009, applied to
linear RGB. Distance: CIE 1976 in L*a*b*, white D65, where 2.3 can just be seen.
"""

from __future__ import annotations

import math
from typing import Literal

Vision = Literal["whole", "protanopia", "deuteranopia", "tritanopia"]
RGB = tuple[float, float, float]

_MACHADO: dict[str, tuple[RGB, RGB, RGB]] = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_D65 = (0.95047, 1.0, 1.08883)


def linear(colour: str) -> RGB:
    """`#rrggbb` in linear light, 0..1 each."""
    shares = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return red, green, blue


def _times(matrix: tuple[RGB, RGB, RGB], light: RGB) -> RGB:
    one, two, three = (sum(part * share for part, share in zip(row, light, strict=True)) for row in matrix)
    return one, two, three


def seen(colour: str, vision: Vision) -> RGB:
    """What such eyes see of it, in linear light."""
    light = linear(colour)
    if vision == "whole":
        return light
    red, green, blue = (min(1.0, max(0.0, share)) for share in _times(_MACHADO[vision], light))
    return red, green, blue


def luminance(light: RGB) -> float:
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


def contrast(front: str, behind: str, vision: Vision = "whole") -> float:
    """1 (none) to 21 (black on white)."""
    darker, lighter = sorted((luminance(seen(front, vision)), luminance(seen(behind, vision))))
    return (lighter + 0.05) / (darker + 0.05)


def lab(light: RGB) -> RGB:
    x, y, z = (
        share ** (1 / 3) if share > 216 / 24389 else (24389 / 27 * share + 16) / 116
        for share in (part / white for part, white in zip(_times(_XYZ, light), _D65, strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def distance(one: str, other: str, vision: Vision = "whole") -> float:
    """0 (the same) to about 100 (black and white) and beyond."""
    return math.dist(lab(seen(one, vision)), lab(seen(other, vision)))
