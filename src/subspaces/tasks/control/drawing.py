"""Frames of an episode without a display and without OpenGL: cart and pole, bodies of a robot, pixels of a game."""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 300, 200
INK, CART, POLE, GROUND = (28, 36, 48), (37, 99, 168), (209, 96, 61), (152, 162, 179)
SMOOTH = 2
"""Drawn so many times as large, and then made smaller."""


def draw(what: Any, caption: str = "") -> Image.Image:
    """One frame.

    Args:
        what: of `Bank.frame`: ("cartpole", x, angle, half the width of the track, length of the pole),
            ("bodies", positions (n, 2), parents (n,)), ("pixels", (h, w) of grey), or None, of which only the caption
            is drawn.
        caption: a line at the top.
    """
    if what is not None and what[0] == "pixels":
        return _pixels(what[1], caption)
    image = Image.new("RGB", (SMOOTH * WIDTH, SMOOTH * HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    if what is not None:
        {"cartpole": _cartpole, "bodies": _bodies}[what[0]](pen, *what[1:])
    small = image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    ImageDraw.Draw(small).text((8, 6), caption, fill=INK)
    return small


def _cartpole(pen: ImageDraw.ImageDraw, x: float, angle: float, half: float, length: float) -> None:
    scale, middle, ground = SMOOTH * WIDTH / (2.4 * half), SMOOTH * WIDTH / 2, SMOOTH * HEIGHT * 0.78
    if abs(x) > half:  # a cart that rolled away is followed
        middle -= (x - np.sign(x) * half) * scale
    across, high = 0.16 * SMOOTH * HEIGHT, 0.1 * SMOOTH * HEIGHT
    at = middle + x * scale
    pen.line([(0, ground), (SMOOTH * WIDTH, ground)], fill=GROUND, width=SMOOTH)
    for end in (-half, half):
        mark = middle + end * scale
        pen.line([(mark, ground - 6 * SMOOTH), (mark, ground + 6 * SMOOTH)], fill=GROUND, width=SMOOTH)
    pen.rectangle([at - across, ground - high, at + across, ground], fill=CART)
    top = ground - high
    tip = (at + np.sin(angle) * length * scale, top - np.cos(angle) * length * scale)
    pen.line([(at, top), tip], fill=POLE, width=5 * SMOOTH)
    pen.ellipse([at - 4 * SMOOTH, top - 4 * SMOOTH, at + 4 * SMOOTH, top + 4 * SMOOTH], fill=INK)


def _bodies(pen: ImageDraw.ImageDraw, places: np.ndarray, parents: np.ndarray) -> None:
    """Lines from each body to its parent, seen from the side; the world itself is not drawn."""
    scale, ground = SMOOTH * HEIGHT / 2.2, SMOOTH * HEIGHT * 0.9
    middle = places[1, 0] if len(places) > 1 else 0.0
    points = [(SMOOTH * WIDTH / 2 + (x - middle) * scale, ground - z * scale) for x, z in places]
    pen.line([(0, ground), (SMOOTH * WIDTH, ground)], fill=GROUND, width=SMOOTH)
    for i, parent in enumerate(parents):
        if i and parent:
            pen.line([points[i], points[parent]], fill=CART, width=4 * SMOOTH)
    for x, y in points[1:]:
        pen.ellipse([x - 3 * SMOOTH, y - 3 * SMOOTH, x + 3 * SMOOTH, y + 3 * SMOOTH], fill=POLE)


def _pixels(grey: UInt8[np.ndarray, "h w"], caption: str) -> Image.Image:
    image = Image.new("RGB", (2 * grey.shape[1], 2 * grey.shape[0] + 20), "white")
    image.paste(Image.fromarray(grey).resize((2 * grey.shape[1], 2 * grey.shape[0]), Image.Resampling.NEAREST), (0, 20))
    ImageDraw.Draw(image).text((6, 4), caption, fill=INK)
    return image
