"""Checks a user's image files before it decodes them, and converts them to RGB.

Source: ours.
"""

import base64
import io
import re
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from saferflow.data.values import SHOWN, brief, is_empty
from saferflow.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
VIDEOS = (".mp4", ".avi", ".mov", ".webm", ".mkv", ".m4v")
BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0AK")
"""First characters of a file in base64, in the order of `FORMATS`; TIFF has two."""
PATH = 100
"""A text that begins so and is longer than this, in characters, is no path."""
LONGEST_PATH = 4096
ADDRESS = 200
"""The head of a data URI ends within this many characters."""
TEXT_CHUNK = 64 * 2**20
"""Largest unpacked size in bytes of a PNG file's text; PIL's 1 MiB refuses pictures of tools that write long ones."""
MAX_ASPECT = 200
"""Largest ratio of the sides; Qwen2.5-VL's image processor raises on more."""
UNREADABLE = 0
"""The orientation of a picture with a broken EXIF block."""


def path_of(value: Any) -> str:
    """The path that a record names as its image; empty where it holds the image itself or names none."""
    if isinstance(value, list):
        given = [entry for entry in value if not is_empty(entry)]
        value = given[0] if len(given) == 1 else None
    if isinstance(value, dict):
        value = None if not is_empty(value.get("bytes")) else value.get("path")
    if not isinstance(value, str) or len(value) > LONGEST_PATH:
        return ""
    return "" if re.match(r"(?i)data:|[a-z][a-z0-9+.-]+://", value) else value


def take_image(value: Any, *, root: Path, max_bytes: int, max_pixels: int) -> bytes | None:
    """Read the image that a record holds or names: an encoded file, a path, or both as in Parquet files.

    Args:
        value: bytes, or a list of their numbers; a path relative to `root`; the file in base64, as a data URI or bare; an
            object of `bytes` and `path`, as `datasets` writes it, or of `url`, as OpenAI has it; a list of one of these; or
            nothing, in any of the ways in which data frames write that.

    Raises:
        DataError: as `read_image`; or the value is none of these.
    """
    if isinstance(value, list) and value and all(type(number) is int and 0 <= number < 256 for number in value):
        value = bytes(value)
    if isinstance(value, list):
        given = [entry for entry in value if not is_empty(entry)]
        value = given[0] if len(given) == 1 else given or None
    if isinstance(value, dict) and set(value) <= {"bytes", "path", "url", "detail"}:
        value = next((value[name] for name in ("bytes", "path", "url") if not is_empty(value.get(name))), None)
    if is_empty(value):
        return None
    if isinstance(value, str):
        value = _written(value, max_bytes)
    if isinstance(value, str):
        return read_image(value, root=root, max_bytes=max_bytes, max_pixels=max_pixels)
    if not isinstance(value, bytes | bytearray | memoryview):
        raise DataError(f"image is {brief(value)}; one path, or one encoded image, is expected")
    data = bytes(value)
    if len(data) > max_bytes:
        raise DataError(f"image has {len(data):,} bytes, more than data.max_image_bytes {max_bytes:,}")
    check_image(data, "of the row", max_pixels)
    return data


def _written(text: str, max_bytes: int) -> str | bytes:
    """The file that a text holds in base64; the text where it is a path.

    Raises:
        DataError: the text is an address, a broken data URI, or more than `max_bytes` of base64.
    """
    head, comma, body = text[:ADDRESS].partition(",")
    if re.match(r"(?i)data:", text):
        if not comma or not head.casefold().endswith(";base64"):
            raise DataError(f"image {brief(text)} is a data URI, and not of the form data:image/png;base64,...")
        body = text[len(head) + 1 :]
    elif re.match(r"(?i)[a-z][a-z0-9+.-]+://", text[:ADDRESS]):
        raise DataError(
            f"image {brief(text)} is an address; none is fetched: save it beside the rows and name its path"
        )
    elif text.startswith(BASE64) and len(text) > PATH and "." not in text[-10:]:
        body = text
    else:
        return text
    if len(body) * 3 // 4 > max_bytes + 3:
        raise DataError(f"image has about {len(body) * 3 // 4:,} bytes, more than data.max_image_bytes {max_bytes:,}")
    try:
        body = re.sub(r"[\s=]", "", body)
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except ValueError:
        raise DataError(f"image {brief(text)} is no base64") from None


def read_image(name: str, *, root: Path, max_bytes: int, max_pixels: int) -> bytes:
    """The bytes of an image file that a data file names.

    Args:
        name: a path relative to `root`; a path or link that leads out of `root` is refused.

    Raises:
        DataError: names what is wrong with the file, without its path.
    """
    if len(name) > LONGEST_PATH:
        raise DataError(f"image {brief(name)} cannot be read: no path is that long, and it is no base64 of a picture")
    if name.casefold().endswith(VIDEOS):
        raise DataError(f"image {brief(name)} is a video; a row takes one picture: cut a frame out")
    try:
        path = (root / name).resolve()
        if Path(name).is_absolute() or not path.is_relative_to(root.resolve()):
            raise DataError(f"image path {brief(name)} leaves the folder of the data file; put the image beside it")
        if not path.is_file():
            raise DataError(
                f"image {brief(name)} does not exist; paths are relative to the data file, and data add --images FOLDER brings "
                "pictures from elsewhere"
            )
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
            size = max(len(data), path.stat().st_size)
    except (OSError, ValueError, RuntimeError) as error:  # no permission, too long; a NUL character; a loop of links
        why = getattr(error, "strerror", None) or error
        raise DataError(f"image {brief(name)} cannot be read: {str(why)[:SHOWN]}") from None
    if size > max_bytes:
        raise DataError(f"image {brief(name)} has {size:,} bytes, more than data.max_image_bytes {max_bytes:,}")
    check_image(data, name, max_pixels)
    return data


def check_image(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse anything but a complete image of a known format; the header is checked before the pixels.

    `open_rgb` opens every image that passes.

    Raises:
        DataError: the image is damaged, too large, or of another format.
    """
    try:
        with _opened(data) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(
                    f"image {brief(name)} is {width} x {height}, more than data.max_image_pixels {max_pixels:,} pixels"
                )
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise DataError(
                    f"image {brief(name)} is {width} x {height}; one side may be {MAX_ASPECT} times the other"
                )
            image.load()
            _rgb(image)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"image {brief(name)} is none of {', '.join(FORMATS)}, or its header is broken") from None
    except Image.DecompressionBombError as error:
        raise DataError(
            f"image {brief(name)} has more pixels than data.max_image_pixels {max_pixels:,}: {error}"
        ) from None
    except Exception as error:  # PIL's decoders raise many kinds (OSError, SyntaxError, struct.error) on broken files
        raise DataError(f"image {brief(name)} is broken: {str(error)[:SHOWN]}") from None


def open_rgb(data: bytes) -> Image.Image:
    """Open the first frame as upright 8-bit RGB, with white in place of transparency."""
    with _opened(data) as image:
        return _rgb(image)


def canonical(data: bytes) -> bytes:
    """The image as tables store it: unchanged if every reader decodes it as `open_rgb` does, else a PNG of `open_rgb`."""
    with _opened(data) as image:
        plain = image.mode == "RGB" and not image.has_transparency_data and orientation(image) == 1
        plain &= image.format in ("PNG", "JPEG")
    if plain and not _has_much_text(data):
        return data
    buffer = io.BytesIO()
    open_rgb(data).save(buffer, format="PNG")
    return buffer.getvalue()


def _has_much_text(data: bytes) -> bool:
    """Whether other readers refuse a PNG file because of its texts."""
    if not any(chunk in data for chunk in (b"zTXt", b"iTXt", b"tEXt", b"iCCP")):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
    except ValueError:
        return True
    return False


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
        usual, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, TEXT_CHUNK
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                yield image
        finally:
            PngImagePlugin.MAX_TEXT_CHUNK = usual


def _rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        image = _grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF block says. The TIFF decoder turns a TIFF by itself and drops the orientation on loading."""
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
