"""Small changes of a training picture that leave what it shows: crop, flip, colour, blur, noise, compression. Source: ours.

Objects, marks and words stay where they can be seen; a hue is never turned, for an answer may name a colour.
"""

import io
from random import Random

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from saferflow.data.images import open_rgb

CROPPED = 0.03
"""Part of each side that a crop takes away at most."""
BLUR = 0.005
"""Radius of a blur as a part of the shorter side at most: half a pixel of a drawn scene."""
NOISE = 10.0
"""Standard deviation of the noise at most, in grey values of 0..255."""
QUALITY = (40, 95)
"""JPEG's quality from lowest to highest."""
CHANCE = 0.5
"""Each change but the compression is made with this probability."""
COLOUR = (
    (ImageEnhance.Color, 0.75, 1.25),
    (ImageEnhance.Brightness, 0.85, 1.15),
    (ImageEnhance.Contrast, 0.85, 1.2),
)


def distorted(image: bytes, random: Random, *, mirrored: bool) -> bytes:
    """The picture with some changes; as JPEG of the same size in pixels.

    Args:
        image: an encoded picture as `open_rgb` takes it.
        mirrored: a flip is allowed: nothing in the picture can be read, and nobody speaks of left and right.
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
    """Another cut at each side, brought back to the same size."""
    width, height = picture.size
    left, top, right, bottom = (random.uniform(0, CROPPED) for _ in range(4))
    box = (left * width, top * height, width - right * width, height - bottom * height)
    return picture.resize(picture.size, Image.Resampling.BILINEAR, box=box)


def _noisy(picture: Image.Image, random: Random) -> Image.Image:
    draws = np.random.default_rng(random.getrandbits(64))
    values = np.asarray(picture, dtype=np.float32)  # (height, width, colours)
    noise = draws.standard_normal((*values.shape[:2], 1), dtype=np.float32) * random.uniform(0, NOISE)  # grey
    return Image.fromarray(np.clip(values + noise, 0, 255).round().astype(np.uint8))
