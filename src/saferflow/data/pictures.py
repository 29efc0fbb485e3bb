"""Near duplicates among pictures: recompressed, scaled, cut, framed, padded, turned, mirrored, inverted or marked.

A picture is hashed as the signs of the 63 lowest frequencies of its grey 64 x 64 thumbnail's cosine transform (pHash
without the mean). Frames of one colour are taken off first. The same matrices give the hashes of 49 cuttings in one
product, and a turn or mirror of the picture changes only signs and places of frequencies, so that each picture brings 49
hashes of parts and eight of the whole; an inverted picture's is the complement. Near hashes are then confirmed by the
correlation of the 255 lowest frequencies, each weighted by its height so that plain light and shade do not decide.
The choice among libraries' hashes is measured in docs/data.md. Source: ours; pHash after Zauner, 2010; turns by signs
after PDQ, Facebook, 2019.
"""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

READ = 256
"""Pixels of the longer side that are looked at."""
SIDE = 64
LOW, HIGH = 8, 16
BITS = LOW * LOW - 1
CUTS = ((0.0, 1.0), (0.0, 0.9), (0.05, 0.95), (0.1, 1.0), (0.0, 0.8), (0.1, 0.9), (0.2, 1.0))
"""Parts of a side, each with each of the other side."""
PLAIN = 12
"""Grey levels by which the pixels of a frame differ at most; JPEG adds some to a plain one."""
PAGE_SHARE, PAGE_CORRELATION = 0.5, 0.95
"""From this share of one grey on a picture is a page: pages of other text correlate up to 0.93, copies of a page over 0.96."""
FLAT = 1.0
"""Standard deviation of the grey levels under which a picture is of one grey."""
REMEMBERED = 4096
"""Pictures that rows share are looked for once."""
CORRELATION = 0.5
"""Of weighted frequencies; unrelated photographs whose hashes are near stay under 0.3."""
PAGE_SHARE, PAGE_CORRELATION = 0.5, 0.95
"""From this share of one grey on a picture is a page: pages of other text correlate up to 0.93, copies of a page over 0.96."""
FLAT = 1.0
"""Standard deviation of the grey levels under which a picture is of one grey."""
REMEMBERED = 4096
"""Pictures that rows share are looked for once."""
CORRELATION = 0.55
"""Of weighted frequencies; unrelated photographs stay under 0.48, photographs cut between two cuttings over 0.6."""

Array = np.ndarray


def _transform(low: float, high: float) -> Array:
    """Cosine transform of the part `low` to `high` of a side, `(HIGH, SIDE)`: averaged to 32, then the lowest frequencies."""
    edges = SIDE * np.linspace(low, high, 33)
    pixels = np.arange(SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    average = np.clip(covered, 0, None) / (edges[1] - edges[0])
    waves = np.cos(np.pi * np.arange(HIGH)[:, None] * (np.arange(32) + 0.5) / 32)
    return waves @ average


PARTS = np.stack([_transform(*cut) for cut in CUTS])  # (7, 16, 64)
LOW_PARTS = PARTS[:, :LOW].reshape(-1, SIDE)  # (56, 64)
SIGNS = (-1.0) ** np.arange(HIGH)
"""What mirroring does to the frequencies of a side."""
TURNS = [
    (transposed, down, across) for transposed in (False, True) for down in (False, True) for across in (False, True)
]
EVEN = 1e-6
"""Above what rounding leaves of a frequency that is not there."""
PLACES = np.flatnonzero(np.arange(LOW * LOW))
POWERS = np.uint64(1) << np.arange(BITS, dtype=np.uint64)
HEIGHT = 1 + np.hypot(*np.mgrid[:HIGH, :HIGH])


@dataclass(frozen=True, slots=True)
class Print:
    """What is compared of a picture: first without its frame, then, where it has one, as it is."""

    thumbnails: Array
    """`(1 or 2, 64, 64)`, grey levels in bytes."""
    parts: Array
    """64-bit hashes: the 49 cuttings of the first thumbnail, then the second."""
    turned: Array
    """64-bit hashes of the thumbnails' eight turns, `(8 or 16,)`, a thumbnail after the other."""

    @property
    def contrast(self) -> float:
        return float(self.thumbnails[-1].std())

    @property
    def page(self) -> bool:
        """Whether most of it is of one grey: type or a drawing on a plain ground."""
        grey = self.thumbnails[0].astype(np.int16)
        return float((np.abs(grey - np.median(grey)) <= PLAIN).mean()) >= PAGE_SHARE

    def low(self, part: int) -> Array:
        """The frequencies behind `parts[part]`, `(16, 16)`."""
        thumbnail, part = (self.thumbnails[0], part) if part < len(CUTS) ** 2 else (self.thumbnails[1], 0)
        down, across = PARTS[part // len(CUTS)], PARTS[part % len(CUTS)]
        return down @ thumbnail @ across.T

    def whole(self, turned: int) -> Array:
        """The frequencies behind `turned[turned]`, `(16, 16)`."""
        frequencies = PARTS[0] @ self.thumbnails[turned // len(TURNS)] @ PARTS[0].T
        return turn(frequencies, *TURNS[turned % len(TURNS)])


def print_of(image: bytes) -> Print:
    """Read an encoded picture."""
    grey = _grey(image)
    bare = without_frame(grey)
    shown = [bare] if bare.shape == grey.shape else [bare, grey]
    thumbnails = np.stack([np.asarray(_thumbnail(view)) for view in shown])
    frequencies = LOW_PARTS @ thumbnails.astype(np.float64) @ LOW_PARTS.T  # (n, 56, 56)
    blocks = frequencies.reshape(-1, len(CUTS), LOW, len(CUTS), LOW).swapaxes(2, 3)  # (n, 7, 7, 8, 8)
    whole = blocks[:, 0, 0]
    turned = np.stack([turn(whole, *each) for each in TURNS], axis=1)  # (n, 8, 8, 8)
    cuttings = blocks[0].reshape(-1, LOW, LOW)
    return Print(thumbnails, _hash(np.concatenate([cuttings, whole[1:]])), _hash(turned.reshape(-1, LOW, LOW)))


def turn(frequencies: Array, transposed: bool, down: bool, across: bool) -> Array:
    """The frequencies of a picture that is transposed, then turned upside down, then mirrored, `(..., side, side)`."""
    size = frequencies.shape[-1]
    turned = frequencies.swapaxes(-1, -2) if transposed else frequencies
    turned = turned * SIGNS[:size, None] if down else turned
    return turned * SIGNS[:size] if across else turned


def without_frame(grey: Array) -> Array:
    """A picture without the rows and columns of one grey around it; as it is where nothing else is there."""
    for _ in range(2):
        top, bottom = _plain(grey), _plain(grey[::-1])
        if top + bottom >= len(grey) - 1:
            return grey
        grey = grey[top : len(grey) - bottom].T
    return grey


def _plain(grey: Array) -> int:
    """Rows from the first on that are of its one grey."""
    lowest, highest = grey.min(axis=1), grey.max(axis=1)
    spread = np.maximum(highest, highest[0]) - np.minimum(lowest, lowest[0])
    return int(np.argmin(np.append(spread <= PLAIN, False)))


def _grey(image: bytes) -> Array:
    with Image.open(io.BytesIO(image)) as opened:
        opened.draft("L", (READ, READ))
        grey = opened.convert("L")
    if max(grey.size) > READ:
        grey.thumbnail((READ, READ), reducing_gap=2.0)
    return np.asarray(grey)


def _thumbnail(grey: Array) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(grey)).resize((SIDE, SIDE), Image.Resampling.BOX)


def _hash(blocks: Array) -> Array:
    """`(n, 8, 8)` frequencies -> `(n,)` 64-bit numbers of the signs of all but the mean."""
    signs = blocks.reshape(len(blocks), -1)[:, PLACES] > EVEN
    return np.where(signs, POWERS, np.uint64(0)).sum(axis=1, dtype=np.uint64)


class Pictures:
    """Held-out pictures, made ready to be asked which of them another picture is near to."""

    def __init__(self, most: int):
        """Start with none.

        Args:
            most: bits of 63 by which the hashes of near pictures differ at most.
        """
        self._most = most
        self._prints: list[Print] = []
        self._numbers: dict[bytes, int] = {}
        self._searched: OrderedDict[bytes, tuple[Print, dict[int, int]]] = OrderedDict()

    def add(self, image: bytes) -> int:
        """Index an encoded picture; gives its number, the same one for the same bytes."""
        digest = _digest(image)
        if digest not in self._numbers:
            self._numbers[digest] = len(self._prints)
            self._prints.append(print_of(image))
        return self._numbers[digest]

    @cached_property
    def _columns(self) -> tuple["_Column", "_Column"]:
        """The hashes of parts and of turned wholes; no picture is added after the first search."""
        return _Column(each.parts for each in self._prints), _Column(each.turned for each in self._prints)

    def near(self, image: bytes, settled: Container[int] = ()) -> dict[int, int]:
        """The numbers of the held-out pictures that a picture is near to, each with the bits between their hashes.

        Args:
            settled: numbers that are left out.
        """
        digest = _digest(image)
        if digest not in self._searched:
            shown = print_of(image)
            self._searched[digest] = shown, self._search(shown)
            if len(self._searched) > REMEMBERED:
                self._searched.popitem(last=False)
        shown, proposed = self._searched[digest]
        own = self._numbers.get(digest)
        return {
            number: bits
            for number, bits in list(proposed.items())
            if number not in settled and (number == own or self._confirmed(digest, shown, number))
        }

    def _search(self, shown: Print) -> dict[int, int]:
        fewest = np.full(len(self._prints), BITS, dtype=np.uint8)
        parts, turned = self._columns
        parts.search(shown.turned, self._most, fewest)
        turned.search(shown.parts, self._most, fewest)
        return {int(number): int(fewest[number]) for number in np.flatnonzero(fewest <= self._most)}

    def _confirmed(self, digest: bytes, shown: Print, number: int) -> bool:
        proposed = self._searched[digest][1]
        if confirmed(shown, self._prints[number]):
            return True
        del proposed[number]
        return False


class _Column:
    """The hashes of every held-out picture, one after the other."""

    def __init__(self, hashes: Iterable[Array]):
        hashes = list(hashes)
        self._owners = np.repeat(np.arange(len(hashes)), [len(each) for each in hashes])
        self._hashes = np.concatenate([*hashes, np.empty(0, dtype=np.uint64)])

    def search(self, shown: Array, most: int, fewest: Array) -> None:
        """Lower each picture's number in `fewest` to the bits between any of its hashes and any that is shown."""
        for value in shown:
            bits = apart(self._hashes, value)
            near = np.flatnonzero(bits <= most)
            np.minimum.at(fewest, self._owners[near], bits[near])


def apart(left: Array, right: Array) -> Array:
    """Bits of 63 between hashes, or between the one and the other's complement."""
    bits = np.bitwise_count(left ^ right)
    return np.minimum(bits, BITS - bits)


def confirmed(one: Print, other: Print) -> bool:
    """Whether the nearest views of two pictures correlate, or both are of one grey."""
    if min(one.contrast, other.contrast) < FLAT:
        return max(one.contrast, other.contrast) < FLAT
    least = PAGE_CORRELATION if one.page and other.page else CORRELATION
    return max(_correlation(one, other), _correlation(other, one)) >= least


def _correlation(cut: Print, turned: Print) -> float:
    bits = apart(cut.parts[:, None], turned.turned)
    part, whole = np.unravel_index(np.argmin(bits), bits.shape)
    left, right = (HEIGHT * frequencies for frequencies in (cut.low(int(part)), turned.whole(int(whole))))
    left[0, 0] = right[0, 0] = 0.0
    return abs(float((left * right).sum())) / float(np.linalg.norm(left) * np.linalg.norm(right))


def _digest(image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=16).digest()
