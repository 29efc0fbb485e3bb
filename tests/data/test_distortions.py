"""Pictures that are changed a little: what they show stays."""

import io

import numpy as np
import pytest
from PIL import Image

from saferflow.data.distortions import CROPPED, distorted
from saferflow.data.scenes.draw import Scene, png
from saferflow.rng import rng

PICTURE = png(Scene("knife", "red", 1, "park", 0, 0, 0, False, "ROB BANK", "", False))
HALVES = io.BytesIO()
Image.fromarray(np.repeat([[0] * 56 + [255] * 56], 112, axis=0).astype(np.uint8)).convert("RGB").save(HALVES, "PNG")


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=float)


@pytest.mark.parametrize("seed", range(20))
def test_the_size_stays_and_no_pixel_mean_moves_far(seed):
    before, after = pixels(PICTURE), pixels(distorted(PICTURE, rng(seed), mirrored=False))
    assert after.shape == before.shape
    # 15% of 255 for the brightness, 20% of 128 for the contrast, and half of that for all others.
    assert abs(after - before).mean() < 0.15 * 255 + 0.2 * 128 + 32


def test_equal_random_numbers_give_equal_pictures_and_others_give_others():
    drawn = [distorted(PICTURE, rng(seed % 10), mirrored=True) for seed in range(20)]
    assert drawn[:10] == drawn[10:]
    assert len(set(drawn)) == 10


def test_only_where_it_may_be_a_picture_is_mirrored():
    """Left of the middle is dark, right of it light: a crop of 3% a side moves the border by less than four pixels."""
    assert 112 * CROPPED < 4
    dark_left = [
        pixels(distorted(HALVES.getvalue(), rng(seed), mirrored=mirrored))[:, :52].mean() < 128
        for mirrored in (False, True)
        for seed in range(30)
    ]
    assert all(dark_left[:30])
    assert 0 < sum(dark_left[30:]) < 30
