"""Image files that a user brought: checked before they are decoded, and made RGB.

Source: ours.
"""

import io
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from saferflow.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_ASPECT = 200
"""Longer side over shorter; Qwen2.5-VL's image processor raises on more."""
UNREADABLE = 0
"""Stands for the orientation where the EXIF block is broken."""


def take_image(value: Any, *, root: Path, max_bytes: int, max_pixels: int) -> bytes | None:
    """The image that a record holds or names: an encoded file, a path, or both as Parquet files have them.

    Args:
        value: bytes; a path relative to `root`; an object of `bytes` and `path`, as `datasets` writes it; a list of one of
            these; or nothing.

    Raises:
        DataError: as `read_image`; or the value is none of these.
    """
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if isinstance(value, dict) and set(value) <= {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return read_image(value, root=root, max_bytes=max_bytes, max_pixels=max_pixels)
    if not isinstance(value, bytes):
        many = f"a list of {len(value)}" if isinstance(value, list) else f"a {type(value).__name__}"
        raise DataError(f"image is {many}; one path, or one encoded image, is expected")
    if len(value) > max_bytes:
        raise DataError(f"image has {len(value):,} bytes, more than data.max_image_bytes {max_bytes:,}")
    check_image(value, "of the row", max_pixels)
    return value


def read_image(name: str, *, root: Path, max_bytes: int, max_pixels: int) -> bytes:
    """The bytes of an image file that a data file names.

    Args:
        name: a path relative to `root`; nothing outside of `root` is read, by a link neither.

    Raises:
        DataError: saying what is wrong with the file, without its path in front.
    """
    try:
        path = (root / name).resolve()
        if Path(name).is_absolute() or not path.is_relative_to(root.resolve()):
            raise DataError(f"image path {name!r} leaves the folder of the data file; put the image beside it")
        if not path.is_file():
            raise DataError(f"image {name!r} does not exist")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
            size = max(len(data), path.stat().st_size)
    except (OSError, ValueError, RuntimeError) as error:  # no permission, too long; a NUL character; a loop of links
        raise DataError(f"image {name[:80]!r} cannot be read: {error}") from None
    if size > max_bytes:
        raise DataError(f"image {name!r} has {size:,} bytes, more than data.max_image_bytes {max_bytes:,}")
    check_image(data, name, max_pixels)
    return data


def check_image(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse what is no whole image of a known format, by its header before its pixels.

    What passes, `open_rgb` opens.

    Raises:
        DataError: as above.
    """
    try:
        with _opened(data) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(
                    f"image {name!r} is {width} x {height}, more than data.max_image_pixels {max_pixels:,} pixels"
                )
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise DataError(f"image {name!r} is {width} x {height}; one side may be {MAX_ASPECT} times the other")
            image.load()
            _rgb(image)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"image {name!r} is none of {', '.join(FORMATS)}, or its header is broken") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"image {name!r} has more pixels than data.max_image_pixels {max_pixels:,}: {error}") from None
    except Exception as error:  # PIL's decoders raise many kinds (OSError, SyntaxError, struct.error) on broken files
        raise DataError(f"image {name!r} is broken: {error}") from None


def open_rgb(data: bytes) -> Image.Image:
    """The first frame upright, on white where it was transparent, as 8-bit RGB."""
    with _opened(data) as image:
        return _rgb(image)


def canonical(data: bytes) -> bytes:
    """The image as tables hold it: as it is where any reader sees `open_rgb` in it, else as PNG of `open_rgb`."""
    with _opened(data) as image:
        plain = image.mode == "RGB" and not image.has_transparency_data and orientation(image) == 1
        if plain and image.format in ("PNG", "JPEG"):
            return data
    buffer = io.BytesIO()
    open_rgb(data).save(buffer, format="PNG")
    return buffer.getvalue()


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none, `UNREADABLE` where the EXIF block is broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above; a picture with broken notes is still a picture
        return UNREADABLE


@contextmanager
def _opened(data: bytes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of what is checked here, and of odd EXIF blocks
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image


def _rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        image = _grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF block says; a TIFF is turned by its decoder, which drops the orientation when it is loaded."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block, as in `orientation`
        return image


def _grey(image: Image.Image) -> Image.Image:
    """8 bits from 16, 32 or floating point: white is the full scale of 16 bits, elsewhere the least usual one that holds
    every value, so that a plain area keeps its brightness."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
    scales = (65535,) if image.mode.startswith("I;16") else (1, 255, 65535) if image.mode == "F" else (255, 65535)
    highest = float(values.max())
    white = next((scale for scale in scales if highest <= scale), highest)
    return Image.fromarray((np.clip(values / white, 0, 1) * 255).round().astype(np.uint8))
