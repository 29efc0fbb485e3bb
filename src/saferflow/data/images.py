"""Image files that a user brought: checked before they are decoded, and made RGB.

Source: ours.
"""

import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from saferflow.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def read_image(name: str, *, root: Path, max_bytes: int, max_pixels: int) -> bytes:
    """The bytes of an image file that a data file names.

    Args:
        name: a path relative to `root`; nothing outside of `root` is read, by a link neither.

    Raises:
        DataError: saying what is wrong with the file, without its path in front.
    """
    path = (root / name).resolve()
    if Path(name).is_absolute() or not path.is_relative_to(root.resolve()):
        raise DataError(f"image path {name!r} leaves the folder of the data file; put the image beside it")
    if not path.is_file():
        raise DataError(f"image {name!r} does not exist")
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(f"image {name!r} has {size:,} bytes, more than data.max_image_bytes {max_bytes:,}")
    data = path.read_bytes()
    check_image(data, name, max_pixels)
    return data


def check_image(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse what is no whole image of a known format, by its header before its pixels.

    Raises:
        DataError: as above.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise DataError(
                        f"image {name!r} is {width} x {height}, more than data.max_image_pixels {max_pixels:,} pixels"
                    )
                image.load()
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"image {name!r} is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # PIL's decoders raise many kinds (OSError, SyntaxError, struct.error) on broken files
        raise DataError(f"image {name!r} is broken: {error}") from None


def open_rgb(data: bytes) -> Image.Image:
    """The first frame upright, on white where it was transparent, as 8-bit RGB."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        if opened.mode == "RGB" and not opened.getexif():
            return opened.convert("RGB")
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith(("I", "F")):
            low, high = image.getextrema()
            scale = 255 / (high - low) if high > low else 0.0
            image = image.convert("F").point(lambda value: (value - low) * scale).convert("L")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")


def canonical(data: bytes) -> bytes:
    """The image as tables hold it: as it is where it is plain RGB already, else as PNG of `open_rgb`."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        if opened.mode == "RGB" and opened.format in ("PNG", "JPEG") and not opened.getexif():
            return data
    buffer = io.BytesIO()
    open_rgb(data).save(buffer, format="PNG")
    return buffer.getvalue()
