"""Words written into a picture, or on paper beside it, in a drawn lettering.

The fonts come with matplotlib; PIL's own font is kept for the forms that only the evaluation shows.
"""

import io
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont, ImageStat

from saferflow.data.images import open_rgb

Colour = tuple[int, int, int]
BLANK = (336, 112)
"""Width and height in pixels of the picture on which a text-only request is written."""
SMALLEST = 10
"""Least height of a line of writing, in pixels."""
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
)  # fmt: skip
PAPERS: tuple[tuple[Colour, Colour], ...] = (
    ((255, 255, 255), (0, 0, 0)), ((255, 250, 205), (60, 30, 10)), ((210, 230, 255), (10, 20, 90)),
    ((225, 225, 225), (120, 0, 0)), ((20, 20, 30), (245, 245, 245)), ((10, 70, 40), (255, 255, 210)),
    ((120, 20, 30), (255, 240, 230)), ((250, 220, 230), (70, 0, 70)),
)  # fmt: skip
"""Pairs of paper and ink."""
INKS: tuple[Colour, ...] = ((0, 0, 0), (110, 0, 0), (0, 0, 110), (255, 255, 255), (255, 255, 140), (170, 255, 255))
"""For words directly on the picture: three dark inks, then three light ones."""
BESIDE = ("above", "below", "left", "right")
ACROSS = ("top", "middle", "bottom")
TALLEST = 0.5
"""Words directly on a picture cover at most this share of its height; longer texts go on paper above it."""
NARROWEST = 90
"""Least width of paper beside a picture, in pixels, so that words fit."""


@dataclass(frozen=True, slots=True)
class Lettering:
    """How words are written."""

    font: str
    """One of `FONTS`."""
    size: float
    """Height of a line as a part of the picture's width."""
    place: str
    """One of `BESIDE` (paper that the picture grows by) or `ACROSS` (directly on the picture)."""
    paper: Colour
    ink: Colour
    contrast: int
    """Which of the three dark or light inks is taken directly on the picture."""
    angle: float
    """Degrees that the words are turned by."""


def lettering(random: Random) -> Lettering:
    """One lettering of many thousands."""
    paper, ink = random.choice(PAPERS)
    return Lettering(
        font=random.choice(FONTS),
        size=random.uniform(0.09, 0.14),
        place=random.choice((*BESIDE, *ACROSS)),
        paper=paper,
        ink=ink,
        contrast=random.randrange(3),
        angle=random.choice((0.0, 0.0, random.uniform(-6, 6))),
    )


def written(image: bytes | None, text: str, style: Lettering) -> bytes:
    """Write words on the picture or beside it; without a picture, on plain paper.

    Returns:
        JPEG where the picture was one, else PNG.
    """
    picture = open_rgb(image) if image is not None else Image.new("RGB", BLANK, style.paper)
    width, height = picture.size
    place = style.place if image is not None else "middle"
    size = max(SMALLEST, round((width if image is not None else BLANK[1] * 1.5) * style.size))
    room = max(NARROWEST, round(width * 0.8)) if place in ("left", "right") else width
    across = place in ACROSS
    if across:
        block = _block(text, style, size, room, None, _ink(picture, style) if image is not None else style.ink)
        if image is not None and block.height > TALLEST * height:
            across, place = False, "above"
    if across:
        top = {"top": 0, "middle": (height - block.height) // 2, "bottom": height - block.height}[place]
        if top < 0:  # a long text on a blank page
            picture, top = Image.new("RGB", (width, block.height), style.paper), 0
        picture.paste(block, ((width - block.width) // 2, top), block)
        return _encoded(picture, image)
    block = _block(text, style, size, room, style.paper, style.ink)
    if place in ("above", "below"):
        canvas = Image.new("RGB", (width, height + block.height), style.paper)
        canvas.paste(picture, (0, block.height if place == "above" else 0))
        canvas.paste(block, ((width - block.width) // 2, 0 if place == "above" else height))
    else:
        canvas = Image.new("RGB", (width + block.width, max(height, block.height)), style.paper)
        canvas.paste(picture, (block.width if place == "left" else 0, 0))
        canvas.paste(block, (0 if place == "left" else width, (canvas.height - block.height) // 2))
    return _encoded(canvas, image)


def _ink(picture: Image.Image, style: Lettering) -> Colour:
    bright = ImageStat.Stat(picture.convert("L").resize((16, 16))).mean[0] > 110
    return INKS[style.contrast + (0 if bright else 3)]


def _block(text: str, style: Lettering, size: int, width: int, paper: Colour | None, ink: Colour) -> Image.Image:
    """The words alone, no wider than `width`; without paper the block is transparent."""
    font = _font(style.font, size)
    lines = wrapped(text, font, width - 8)
    step = round(size * 1.25)
    mode, ground = ("RGBA", (*ink, 0)) if paper is None else ("RGB", paper)
    block = Image.new(mode, (width, step * len(lines) + 6), ground)
    pen = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        pen.text((4, 3 + number * step), line, fill=ink, font=font)
    if style.angle:
        turned = block.rotate(style.angle, Image.Resampling.BILINEAR, expand=True, fillcolor=ground)
        left = (turned.width - width) // 2
        block = turned.crop((left, 0, left + width, turned.height))
    return block


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    folder = Path(find_spec("matplotlib").origin).parent  # importing it takes a second, and only its files are wanted
    return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf", size)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels; only a single longer word makes a wider line."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _encoded(picture: Image.Image, source: bytes | None) -> bytes:
    buffer = io.BytesIO()
    if source is not None and source.startswith(b"\xff\xd8"):
        picture.save(buffer, format="JPEG", quality=92)
    else:
        picture.save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()
