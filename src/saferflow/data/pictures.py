"""Near duplicates among pictures: recompressed, scaled, cut, framed, padded, turned, mirrored, inverted or marked.

A picture is hashed as the signs of the 63 lowest frequencies of its grey 64 x 64 thumbnail's cosine transform (pHash
without the mean). Frames of one colour are taken off first. The same matrices give the hashes of 51 cuttings in one
product, and a turn or mirror of the picture changes only signs and places of frequencies, so that each picture brings 51
hashes of parts and eight of the whole; an inverted picture's is the complement. Near hashes are then confirmed by the
correlation of the 255 lowest frequencies, each weighted by its height so that plain light and shade do not decide.
The choice among libraries' hashes is measured in docs/data.md. Source: ours; pHash after Zauner, 2010; turns by signs
after PDQ, Facebook, 2019.
"""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

READ = 256
"""Longer side, in pixels, to which a picture is scaled down first."""
SIDE = 64
LOW, HIGH = 8, 16
BITS = LOW * LOW - 1
CUTS = ((0, 1), (0, 0.9), (0.025, 0.925), (0.05, 0.95), (0.075, 0.975), (0.1, 1), (0, 0.8), (0.1, 0.9), (0.2, 1))
"""Parts of a side, as (start, end) in shares."""
PAIRS = [
    (down, across)
    for down, (top, bottom) in enumerate(CUTS)
    for across, (left, right) in enumerate(CUTS)
    if not down or not across or round(bottom - top, 9) == round(right - left, 9)
]
"""Crops, as pairs of indices of `CUTS`: equally much of both sides, or of one side alone; the whole picture is the first."""
PLAIN = 12
"""Largest difference of grey levels within a frame; JPEG changes those of a plain frame."""
PAGE_GREYS, PAGE_SHARE, PAGE_CORRELATION = 3, 0.5, 0.95
"""A picture is a page if at least this share of it is within some greys of one grey. Pages of different text correlate up to
0.93, copies of a page mostly over 0.96."""
FLAT = 1.0
"""A picture with a smaller standard deviation of grey levels counts as one grey."""
REMEMBERED = 4096
"""Prints kept in memory, so that pictures which rows share are read once."""
CORRELATION = 0.5
"""Least correlation of weighted frequencies; unrelated photographs with near hashes stay under 0.3."""
Array = np.ndarray


def _transform(low: float, high: float) -> Array:
    """Cosine transform of the part `low` to `high` of a side, `(HIGH, SIDE)`: averaged to 32, then the lowest frequencies."""
    edges = SIDE * np.linspace(low, high, 33)
    pixels = np.arange(SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    average = np.clip(covered, 0, None) / (edges[1] - edges[0])
    waves = np.cos(np.pi * np.arange(HIGH)[:, None] * (np.arange(32) + 0.5) / 32)
    return waves @ average


PARTS = np.stack([_transform(*cut) for cut in CUTS])  # (9, 16, 64)
LOW_PARTS = PARTS[:, :LOW].reshape(-1, SIDE)  # (72, 64)
SIGNS = (-1.0) ** np.arange(HIGH)
"""What mirroring does to the frequencies of a side."""
TURNS = [
    (transposed, down, across) for transposed in (False, True) for down in (False, True) for across in (False, True)
]
"""Transposed, then turned upside down, then mirrored."""
EVEN = 1e-6
"""Larger than the rounding error of an absent frequency."""
HEIGHT = 1 + np.hypot(*np.mgrid[:HIGH, :HIGH])


@dataclass(frozen=True)
class Print:
    """The features of a picture that are compared: without its frame, then, where it has one, with it."""

    thumbnails: Array
    """`(1 or 2, 64, 64)`, grey levels in bytes."""
    turned: Array
    """64-bit hashes of the eight turns without the frame; the first is not turned."""
    framed: Array
    """The same with the frame."""
    contrast: float
    """Standard deviation of the grey levels."""
    page: bool
    """Whether most of it is of one grey: type or a drawing on a plain ground."""

    @cached_property
    def parts(self) -> Array:
        """64-bit hashes of the crops without the frame, `(51,)`; computed on demand, for few pictures need them."""
        frequencies = LOW_PARTS @ self.thumbnails[0].astype(np.float64) @ LOW_PARTS.T  # (72, 72)
        blocks = frequencies.reshape(len(CUTS), LOW, len(CUTS), LOW).swapaxes(1, 2)  # (9, 9, 8, 8)
        return _hash(blocks[tuple(np.transpose(PAIRS))].reshape(-1, LOW * LOW))

    def part(self, number: int) -> Array:
        """The frequencies behind `parts[number]`, `(16, 16)`."""
        down, across = PAIRS[number]
        return PARTS[down] @ self.thumbnails[0] @ PARTS[across].T

    def whole(self, number: int) -> Array:
        """The frequencies behind `turned[number]`, `(16, 16)`."""
        return turn(PARTS[0] @ self.thumbnails[0] @ PARTS[0].T, *TURNS[number])

    def whole_framed(self, number: int) -> Array:
        """The frequencies behind `framed[number]`, `(16, 16)`."""
        return turn(PARTS[0] @ self.thumbnails[-1] @ PARTS[0].T, *TURNS[number])


def print_of(image: bytes) -> Print:
    """Compute the print of an encoded picture."""
    grey = _grey(image)
    left, top, right, bottom = box = without_frame(np.asarray(grey))
    views = [grey] if (right - left, bottom - top) == grey.size else [grey.crop(box), grey]
    thumbnails = np.stack([np.asarray(view.resize((SIDE, SIDE), Image.Resampling.BOX)) for view in views])
    pixels = thumbnails.astype(np.float64)
    whole = LOW_PARTS[:LOW] @ pixels @ LOW_PARTS[:LOW].T  # (n, 8, 8)
    turned = whole.reshape(-1, LOW * LOW)[:, TURNED_FROM] * TURNED_SIGNS  # (n, 8, 64)
    hashes = _hash(turned.reshape(-1, LOW * LOW)).reshape(-1, len(TURNS))
    greys = pixels[-1].ravel()
    variance = max(0.0, greys @ greys / greys.size - (greys.sum() / greys.size) ** 2)
    return Print(thumbnails, hashes[0], hashes[-1], variance**0.5, _is_page(thumbnails[0]))


def _is_page(thumbnail: Array) -> bool:
    """Whether enough pixels for a page lie near the median grey."""
    upto = np.cumsum(np.bincount(thumbnail.ravel(), minlength=256))
    half = thumbnail.size // 2
    middle = (np.searchsorted(upto, half) + np.searchsorted(upto, half, side="right")) / 2
    lowest, highest = int(np.ceil(middle - PAGE_GREYS)), int(middle + PAGE_GREYS)
    near = upto[min(highest, 255)] - (upto[lowest - 1] if lowest > 0 else 0)
    return float(near) >= PAGE_SHARE * thumbnail.size


def turn(frequencies: Array, transposed: bool, down: bool, across: bool) -> Array:
    """The frequencies of a picture that is transposed, then turned upside down, then mirrored, `(..., side, side)`."""
    size = frequencies.shape[-1]
    turned = frequencies.swapaxes(-1, -2) if transposed else frequencies
    turned = turned * SIGNS[:size, None] if down else turned
    return turned * SIGNS[:size] if across else turned


PLACES = np.arange(LOW * LOW, dtype=float).reshape(LOW, LOW)
TURNED_FROM = np.abs([turn(PLACES, *way) for way in TURNS]).astype(int).reshape(8, -1)
"""Which frequency stands at each place of a turn, `(8, 64)`."""
TURNED_SIGNS = np.array([turn(np.ones((LOW, LOW)), *way) for way in TURNS]).reshape(8, -1)
"""And with which sign."""


def without_frame(grey: Array) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, in pixels, of a picture without a frame of one grey; the whole picture if nothing is left.
    """
    rows = _inner(grey)
    columns = rows and _inner(grey[slice(*rows)].T)
    if not rows or not columns:
        return 0, 0, grey.shape[1], grey.shape[0]
    return columns[0], rows[0], columns[1], rows[1]


def _inner(grey: Array) -> tuple[int, int] | None:
    """First row and end of what is not a frame; None where a row or none is left."""
    first, last = _plain(grey), _plain(grey[::-1])
    return (first, len(grey) - last) if first + last < len(grey) - 1 else None


def _plain(grey: Array) -> int:
    """Rows from the first on that are of its one grey."""
    if int(grey[0].max()) - int(grey[0].min()) > PLAIN:
        return 0
    lowest, highest = grey.min(axis=1), grey.max(axis=1)
    spread = np.maximum(highest, highest[0]) - np.minimum(lowest, lowest[0])
    return int(np.argmin(np.append(spread <= PLAIN, False)))


def _grey(image: bytes) -> Image.Image:
    with Image.open(io.BytesIO(image)) as opened:
        opened.draft("L", (READ, READ))
        grey = opened.convert("L")
    if max(grey.size) > READ:
        grey.thumbnail((READ, READ), reducing_gap=2.0)
    return grey


def _hash(frequencies: Array) -> Array:
    """`(n, 64)` frequencies -> `(n,)` 64-bit numbers of the signs of all but the mean."""
    signs = frequencies > EVEN
    signs[:, 0] = False
    return np.packbits(signs, axis=1).view(np.uint64).ravel()


class Pictures:
    """An index of held-out pictures that finds those near to another picture."""

    def __init__(self, most: int):
        """Start an empty index.

        Args:
            most: largest number of differing bits, of 63, between hashes of near pictures.
        """
        self._most = most
        self._prints: list[Print] = []
        self._numbers: dict[bytes, int] = {}
        self._shown: OrderedDict[bytes, Print] = OrderedDict()

    def add(self, image: bytes) -> int:
        """Index an encoded picture; returns its number, the same one for the same bytes."""
        digest = _digest(image)
        if digest not in self._numbers:
            self._numbers[digest] = len(self._prints)
            self._prints.append(print_of(image))
        return self._numbers[digest]

    def same(self, image: bytes, settled: Container[int] = ()) -> list[int]:
        """The numbers of the held-out pictures that are this one as a whole: recompressed, scaled, framed, turned or marked.

        Crops are not looked for here: that would take fifty times as long.

        Args:
            settled: numbers to leave out.
        """
        digest, shown = self._print(image)
        own = self._numbers.get(digest)
        proposed = np.flatnonzero(self._fewest(shown) <= self._most).tolist()
        return [n for n in proposed if n not in settled and (n == own or confirmed(shown, self._prints[n]))]

    def distance(self, image: bytes, number: int) -> int | None:
        """Bits of 63 that differ between a picture and a held-out one, crops included; None where they are not near."""
        digest, shown = self._print(image)
        if self._numbers.get(digest) == number:
            return 0
        held = self._prints[number]
        views = ((held.parts, shown.turned), (shown.parts, held.turned), (held.framed[:1], shown.framed))
        bits = min(int(apart(parts[:, None], turned).min()) for parts, turned in views)
        return bits if bits <= self._most and confirmed(shown, held) else None

    def near(self, image: bytes) -> dict[int, int]:
        """Number -> differing bits, for every held-out picture near to a picture."""
        distances = {number: self.distance(image, number) for number in range(len(self._prints))}
        return {number: bits for number, bits in distances.items() if bits is not None}

    def _print(self, image: bytes) -> tuple[bytes, Print]:
        digest = _digest(image)
        if digest not in self._shown:
            self._shown[digest] = print_of(image)
            if len(self._shown) > REMEMBERED:
                self._shown.popitem(last=False)
        return digest, self._shown[digest]

    @cached_property
    def _wholes(self) -> tuple[Array, Array]:
        """Hashes of the held-out pictures without and with frames, `(held-out,)` each; no picture is added after a search."""
        bare = np.array([known.turned[0] for known in self._prints], dtype=np.uint64)
        return bare, np.array([known.framed[0] for known in self._prints], dtype=np.uint64)

    def _fewest(self, shown: Print) -> Array:
        """Bits between any turn of a picture and each held-out one, `(held-out,)`."""
        bare, framed = self._wholes
        views = [apart(bare, shown.turned[:, None]), apart(framed, shown.framed[:, None])]
        return np.concatenate(views).min(axis=0, initial=BITS)


def apart(left: Array, right: Array) -> Array:
    """Bits of 63 that differ between hashes, or between one and the other's complement if those are fewer."""
    bits = np.bitwise_count(left ^ right)
    return np.minimum(bits, BITS - bits)


def confirmed(left: Print, right: Print) -> bool:
    """Whether the nearest views of two pictures correlate, or both are of one grey."""
    if min(left.contrast, right.contrast) < FLAT:
        return max(left.contrast, right.contrast) < FLAT
    least = PAGE_CORRELATION if left.page and right.page else CORRELATION
    return _correlation(left, right) >= least or _correlation(right, left) >= least or _framed(left, right) >= least


def _correlation(cut: Print, turned: Print) -> float:
    """Correlation of the nearest crop and turn."""
    bits = apart(cut.parts[:, None], turned.turned)
    part, number = np.unravel_index(np.argmin(bits), bits.shape)
    return _cosine(cut.part(int(part)), turned.whole(int(number)))


def _framed(left: Print, right: Print) -> float:
    return _cosine(left.whole_framed(0), right.whole_framed(int(np.argmin(apart(left.framed[0], right.framed)))))


def _cosine(left: Array, right: Array) -> float:
    left, right = (left * HEIGHT).ravel()[1:], (right * HEIGHT).ravel()[1:]
    return abs(float(left @ right)) / float(np.sqrt((left @ left) * (right @ right)))


def _digest(image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=16).digest()
