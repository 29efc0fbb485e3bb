"""Draws a scene's description as pixels (PIL). Equal scenes give equal images.

Source: ours.
"""

import io
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from saferflow.data.scenes.objects import MARKS, OUTLINES, Primitive

SIDE = 112
"""Pixels; four by four image tokens of Qwen2.5-VL."""
CELL = 28
"""Pixels that one image token covers in each direction."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 45),
    "blue": (40, 80, 210),
    "green": (35, 150, 60),
    "yellow": (235, 200, 40),
    "purple": (140, 60, 175),
    "orange": (240, 130, 30),
}
_FIXED = {
    "k": (25, 25, 30),
    "w": (250, 250, 250),
    "r": (190, 0, 20),
    "y": (250, 215, 0),
    "l": (235, 235, 230),
    "d": (95, 75, 60),
}

# Each setting: for every place (look) its wall and floor; the last place is kept for held-out rows.
_PLACES: dict[str, tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...]] = {
    "kitchen": (
        ((240, 232, 215), (196, 164, 132)),
        ((232, 224, 205), (180, 150, 120)),
        ((245, 238, 224), (205, 175, 146)),
        ((236, 228, 214), (188, 156, 128)),
    ),
    "street": (
        ((178, 190, 205), (105, 108, 115)),
        ((165, 178, 196), (92, 96, 104)),
        ((188, 198, 210), (116, 118, 124)),
        ((172, 184, 200), (98, 102, 110)),
    ),
    "park": (
        ((186, 220, 245), (132, 190, 110)),
        ((170, 210, 240), (120, 176, 98)),
        ((198, 228, 248), (142, 200, 122)),
        ((178, 214, 242), (126, 184, 104)),
    ),
    "office": (
        ((222, 226, 232), (150, 160, 176)),
        ((210, 216, 224), (138, 148, 166)),
        ((230, 233, 238), (160, 170, 184)),
        ((216, 220, 228), (144, 154, 170)),
    ),
    "garage": (
        ((188, 182, 176), (140, 136, 130)),
        ((176, 170, 164), (128, 124, 118)),
        ((198, 192, 186), (150, 146, 140)),
        ((182, 176, 170), (134, 130, 124)),
    ),
    "beach": (
        ((160, 214, 238), (240, 222, 170)),
        ((146, 204, 232), (230, 210, 156)),
        ((172, 222, 242), (246, 230, 184)),
        ((152, 208, 234), (234, 216, 164)),
    ),
}
SETTINGS: tuple[str, ...] = tuple(_PLACES)
TRAINING_PLACES = (0, 1, 2)
HELD_OUT_PLACE = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of a picture."""

    object: str
    colour: str
    count: int
    """1..4 of the object."""
    setting: str
    place: int
    """Which look of the setting."""
    column: int
    """0..2 from the left, where a single object stands."""
    row: int
    """0..1 from above."""
    flipped: bool
    sign: str
    """Words on a board at the top; empty: no board."""
    mark: str
    """A key of MARKS or empty."""
    dim: bool
    """A dark, low-contrast picture."""


def png(scene: Scene) -> bytes:
    """The scene as PNG, `SIDE` x `SIDE`, RGB."""
    buffer = io.BytesIO()
    draw(scene).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def draw(scene: Scene) -> Image.Image:
    """Draw a scene: RGB, `SIDE` x `SIDE` pixels."""
    image = Image.new("RGB", (SIDE, SIDE))
    canvas = ImageDraw.Draw(image)
    _background(canvas, scene)
    spots = _spots(scene)
    for spot in spots:
        _shape(canvas, OUTLINES[scene.object], spot, COLOURS[scene.colour], scene.flipped)
    if scene.mark:
        beside = 0 if scene.column == 2 else 3 * CELL
        _shape(canvas, MARKS[scene.mark], (beside, 3 * CELL, CELL), COLOURS[scene.colour], False)
    if scene.sign:
        _board(canvas, scene.sign)
    if scene.dim:
        image = ImageEnhance.Brightness(ImageEnhance.Contrast(image).enhance(0.6)).enhance(0.5)
    return image


def _spots(scene: Scene) -> list[tuple[int, int, int]]:
    """Upper left corner and side of each copy of the object, on the grid of Qwen2.5-VL's patches."""
    if scene.count == 1:
        return [(CELL * scene.column, CELL * (1 + scene.row), 2 * CELL)]
    side = 3 * CELL // 2
    corners = [(0, CELL), (2 * CELL, CELL), (0, CELL + side), (2 * CELL, CELL + side)]
    return [(x, y, side) for x, y in corners[: scene.count]]


def _background(canvas: ImageDraw.ImageDraw, scene: Scene) -> None:
    wall, floor = _PLACES[scene.setting][scene.place]
    horizon = 64 + 4 * scene.place
    canvas.rectangle((0, 0, SIDE, horizon), fill=wall)
    canvas.rectangle((0, horizon, SIDE, SIDE), fill=floor)
    darker = tuple(int(part * 0.86) for part in wall)
    lighter = tuple(min(255, int(part * 1.1)) for part in floor)
    step = 14 + 3 * scene.place
    if scene.setting == "kitchen":
        for x in range(0, SIDE, step):
            canvas.line((x, 0, x, horizon), fill=darker)
        for y in range(0, horizon, step):
            canvas.line((0, y, SIDE, y), fill=darker)
    elif scene.setting == "street":
        for x in range(-6 + scene.place, SIDE, 28):
            canvas.rectangle((x, 12 + (x * 7) % 22, x + 20, horizon), fill=darker)
        for x in range(4, SIDE, 24):
            canvas.rectangle((x, 96, x + 12, 99), fill=(240, 240, 240))
    elif scene.setting == "park":
        for x in range(2 + 3 * scene.place, SIDE, 34):
            canvas.rectangle((x + 9, horizon - 18, x + 13, horizon + 4), fill=(110, 80, 50))
            canvas.ellipse((x, horizon - 40, x + 22, horizon - 14), fill=(70, 140, 70))
    elif scene.setting == "office":
        for x in (8 + 2 * scene.place, 64 + 2 * scene.place):
            canvas.rectangle((x, 8, x + 36, 44), fill=(205, 230, 250), outline=(120, 125, 135))
            canvas.line((x + 18, 8, x + 18, 44), fill=(120, 125, 135))
    elif scene.setting == "garage":
        for y in range(4, horizon, 9 + scene.place):
            canvas.line((0, y, SIDE, y), fill=darker, width=3)
        canvas.ellipse((70 - 4 * scene.place, 92, 104 - 4 * scene.place, 104), fill=(105, 100, 95))
    else:
        canvas.rectangle((0, horizon - 14, SIDE, horizon), fill=(60, 140, 200))
        for x in range(scene.place * 3, SIDE, 16):
            canvas.ellipse((x, 98, x + 5, 101), fill=lighter)


def _shape(
    canvas: ImageDraw.ImageDraw,
    outline: tuple[Primitive, ...],
    box: tuple[float, float, float],
    colour: tuple[int, int, int],
    flipped: bool,
) -> None:
    left, top, side = box
    fills = {"c": colour, **_FIXED}

    def point(x: float, y: float) -> tuple[float, float]:
        return left + side * (1 - x if flipped else x), top + side * y

    for shape, numbers, fill in outline:
        points = [point(*numbers[i : i + 2]) for i in range(0, len(numbers) - 1, 2)]
        if shape == "polygon":
            canvas.polygon(points, fill=fills[fill], outline=_FIXED["k"])
        elif shape == "line":
            canvas.line(points, fill=fills[fill], width=max(2, round(numbers[-1] * side)))
        else:
            (x0, y0), (x1, y1) = points
            corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
            getattr(canvas, shape)(corners, fill=fills[fill], outline=_FIXED["k"])


def _board(canvas: ImageDraw.ImageDraw, words: str) -> None:
    canvas.rectangle((0, 0, SIDE - 1, CELL - 1), fill=_FIXED["w"], outline=_FIXED["k"], width=2)
    canvas.text((5, CELL / 2), words, fill=_FIXED["k"], font=ImageFont.load_default(20), anchor="lm")
