"""Small changes to a training picture that keep its content: crop, flip, colour, blur, noise, compression. Source: ours.

Objects, marks and words stay visible. Hues stay as they are, because an answer may name a colour.
"""

import io
from random import Random

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from saferflow.data.images import open_rgb

CROPPED = 0.03
"""Largest share of a side that a crop removes."""
BLUR = 0.005
"""Largest radius of the blur, as a share of the shorter side: half a pixel of a drawn scene."""
NOISE = 10.0
"""Largest standard deviation of the noise, in grey values of 0..255."""
QUALITY = (40, 95)
"""Lowest and highest JPEG quality."""
CHANCE = 0.5
"""Probability of each change; compression always happens."""
COLOUR = (
    (ImageEnhance.Color, 0.75, 1.25),
    (ImageEnhance.Brightness, 0.85, 1.15),
    (ImageEnhance.Contrast, 0.85, 1.2),
)


def distorted(image: bytes, random: Random, *, mirrored: bool) -> bytes:
    """Distort a picture a little; returns a JPEG of the same size in pixels.

    Args:
        image: an encoded picture as `open_rgb` takes it.
        mirrored: allow a flip: the picture holds no words, and neither question nor answer names left or right.
    """
    picture = open_rgb(image)
    if random.random() < CHANCE:
        picture = _cropped(picture, random)
    if mirrored and random.random() < CHANCE:
        picture = ImageOps.mirror(picture)
    for enhance, low, high in COLOUR:
        if random.random() < CHANCE:
            picture = enhance(picture).enhance(random.uniform(low, high))
    if random.random() < CHANCE:
        picture = picture.filter(ImageFilter.BoxBlur(random.uniform(0, BLUR) * min(picture.size)))
    if random.random() < CHANCE:
        picture = _noisy(picture, random)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=random.randint(*QUALITY))
    return buffer.getvalue()


def _cropped(picture: Image.Image, random: Random) -> Image.Image:
    """Crop each side by a drawn amount and resize to the original size."""
    width, height = picture.size
    left, top, right, bottom = (random.uniform(0, CROPPED) for _ in range(4))
    box = (left * width, top * height, width - right * width, height - bottom * height)
    return picture.resize(picture.size, Image.Resampling.BILINEAR, box=box)


def _noisy(picture: Image.Image, random: Random) -> Image.Image:
    draws = np.random.default_rng(random.getrandbits(64))
    values = np.asarray(picture, dtype=np.float32)  # (height, width, colours)
    noise = draws.standard_normal((*values.shape[:2], 1), dtype=np.float32) * random.uniform(0, NOISE)  # grey
    return Image.fromarray(np.clip(values + noise, 0, 255).round().astype(np.uint8))
