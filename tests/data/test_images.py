"""Image files from outside: what is refused, with which words, and how odd ones are opened."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from saferflow.data.images import canonical, open_rgb, read_image
from saferflow.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
LIMITS = {"max_bytes": 100_000, "max_pixels": 100_000}


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes whose header says 60,000 x 60,000."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"


GOOD = encoded(Image.new("RGB", (20, 10), "red"))
NOISE = encoded(Image.effect_noise((40, 40), 90).convert("RGB"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b"not an image", "none of PNG", id="no-image"),
        pytest.param(NOISE[: len(NOISE) // 2], "broken", id="truncated"),
        pytest.param(bomb(), "max_image_pixels", id="bomb-by-its-header"),
        pytest.param(b"\0" * 200_000, "200,000 bytes", id="too-many-bytes"),
    ],
)
def test_a_bad_image_is_refused_with_its_name_and_fault(tmp_path, data, told):
    (tmp_path / "it.png").write_bytes(data)
    with pytest.raises(DataError, match=told) as error:
        read_image("it.png", root=tmp_path, **LIMITS)
    assert "it.png" in str(error.value)


def test_no_path_leaves_the_folder(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(GOOD)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(DataError, match="leaves the folder"):
            read_image(name, root=root, **LIMITS)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_image("none.png", root=tmp_path, **LIMITS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_opens_as_rgb(mode):
    form = "TIFF" if mode in ("CMYK", "F", "I", "I;16") else "PNG"
    assert open_rgb(encoded(Image.new(mode, (6, 4)), form)).mode == "RGB"


def test_transparency_becomes_white():
    clear = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    assert open_rgb(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)


def test_an_image_is_turned_upright():
    image = Image.new("RGB", (8, 4))
    image.getexif()[0x0112] = 6
    assert open_rgb(encoded(image, "JPEG", exif=image.getexif())).size == (4, 8)


def test_plain_rgb_stays_byte_for_byte():
    assert canonical(GOOD) == GOOD


def test_anything_else_becomes_a_png_of_what_is_seen():
    again = canonical(encoded(Image.new("L", (3, 3), 77)))
    assert Image.open(io.BytesIO(again)).format == "PNG"
    assert open_rgb(again).getpixel((1, 1)) == (77, 77, 77)


@pytest.mark.skipif(not REAL.exists(), reason="the odd images of ../shared/data/real are not there")
def test_real_odd_images_open_or_are_named():
    refused = {}
    for line in (REAL / "odd_images.jsonl").read_text(encoding="utf-8").splitlines():
        name = json.loads(line)["image"] if "image" in json.loads(line) else json.loads(line)["file"]
        try:
            data = read_image(name, root=REAL, max_bytes=10**7, max_pixels=10**7)
        except DataError as error:
            refused[name] = str(error)
            continue
        assert open_rgb(canonical(data)).mode == "RGB"
    assert all("broken" in name or "truncated" in name for name in refused), refused


TURNED = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_90",
    7: "TRANSVERSE",
    8: "ROTATE_270",
}
"""Orientation -> how a camera's picture lies in a file of that orientation: the inverse of what brings it upright."""


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_a_picture_of_any_orientation_is_turned_upright_once(kind, orientation):
    upright = Image.new("RGB", (48, 32), "navy")
    upright.paste("white", (0, 0, 24, 16))
    upright.paste("red", (24, 0, 48, 16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    how = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    upright.transpose(Image.Transpose[TURNED[orientation]]).save(file, kind, exif=exif, **how)
    for shown in (open_rgb(file.getvalue()), open_rgb(canonical(file.getvalue()))):
        assert shown.size == upright.size
        assert np.abs(np.asarray(shown, dtype=int) - np.asarray(upright)).max() < 12
