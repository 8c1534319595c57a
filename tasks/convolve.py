"""Convolution with filters that vary over the image: overlap-save FFTs on small tiles."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.parallel import over_strips

INNER = 48, 112
"""Pixels that one filter acts on: a sixteenth of the image, within these limits. With more the
steps between tiles' filters show in bright stars; FFTs of more are hardly cheaper."""
BATCH_PIXELS = 2**16
"""Transformed at a time, so that they stay in the cache."""

Spectra = np.ndarray
"""(n, side, side // 2 + 1) complex64, as rfft2 gives them."""


@dataclass(frozen=True, slots=True, eq=False)
class VaryingFilter:
    """A filter that is a weighted sum of fixed images, with weights that follow the position."""

    images: Floats
    """(n_images, k, k), k odd."""
    weights: Callable[[Floats, Floats], Floats]
    """(x, y), each (n,) -> (n, n_images)."""

    @classmethod
    def point(cls, weight: Callable[[Floats, Floats], Floats] | None = None) -> "VaryingFilter":
        """One pixel of this weight (x, y) -> (n,), or of 1."""
        return cls(
            np.ones((1, 1, 1)),
            lambda x, y: np.ones((x.size, 1)) if weight is None else weight(x, y)[:, None],
        )

    @property
    def size(self) -> int:
        """Side of the images."""
        return int(self.images.shape[-1])

    def transfer(self, side: int, factor: Floats | None = None) -> "Transfer":
        """Its spectra for a transform of this side, times ``factor`` (side, side // 2 + 1)."""
        spectra = centred_rfft(self.images, side)
        if factor is not None:
            spectra *= factor.astype(np.float32)
        return Transfer(spectra, self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """The spectrum of a varying filter."""

    spectra: Spectra
    weights: Callable[[Floats, Floats], Floats]

    def at(self, x: Floats, y: Floats) -> Spectra:
        """(n, side, side // 2 + 1) at these positions."""
        n, side, half = self.spectra.shape
        flat = self.spectra.view(np.float32).reshape(n, -1)
        mixed = self.weights(x, y).astype(np.float32) @ flat
        result: Spectra = mixed.view(np.complex64).reshape(-1, side, half)
        return result


@dataclass(frozen=True)
class Tiles:
    """Overlapping square tiles: a filter acts on ``inner`` pixels and reads ``margin`` around."""

    shape: tuple[int, int]
    inner: int
    margin: int

    @classmethod
    def around(cls, shape: tuple[int, int], half_width: int) -> "Tiles":
        """Tiles for filters of this half width whose side suits the FFT."""
        inner = min(max(INNER[0], max(shape) // 16), INNER[1])
        side = 2 * fft.next_fast_len(inner // 2 + half_width, real=True)
        return cls(shape, side - 2 * half_width, half_width)

    @property
    def side(self) -> int:
        """Of the FFT."""
        return self.inner + 2 * self.margin

    @cached_property
    def x(self) -> Floats:
        """(nx_tiles,) centres."""
        return _centres(self.shape[1], self.inner)

    @cached_property
    def y(self) -> Floats:
        """(ny_tiles,) centres."""
        return _centres(self.shape[0], self.inner)

    def convolve(self, image: Image, filters: VaryingFilter) -> Image:
        """The image convolved with the filter at each tile's centre; see ``change``."""
        transfer = filters.transfer(self.side)

        def multiply(spectra: Spectra, row: int, columns: slice) -> None:
            x = self.x[columns]
            spectra *= transfer.at(x, np.full(x.size, self.y[row]))

        return self.change(image, multiply)

    def change(self, image: Image, act: Callable[[Spectra, int, slice], None]) -> Image:
        """The image after ``act(spectra, row, columns)`` has changed its tiles' spectra.

        Outside its border the image counts as continuing its edge pixels. Must be finite.
        """
        out = np.empty(self.shape, np.float32)
        batch = max(1, BATCH_PIXELS // self.side**2)

        def rows(row: int, _: int) -> None:
            tiles = np.empty((batch, self.side, self.side), np.float32)
            for first in range(0, self.x.size, batch):
                columns = slice(first, min(first + batch, self.x.size))
                some = tiles[: columns.stop - first]
                for tile, column in zip(some, range(first, columns.stop)):
                    self._read(image, row, column, tile)
                spectra = fft.rfft2(some)
                act(spectra, row, columns)
                done = fft.irfft2(spectra, s=(self.side, self.side), overwrite_x=True)
                for tile, column in zip(done, range(first, columns.stop)):
                    y, x = row * self.inner, column * self.inner
                    part = out[y : y + self.inner, x : x + self.inner]
                    part[:] = tile[self.margin :, self.margin :][: part.shape[0], : part.shape[1]]

        over_strips(rows, self.y.size, rows_per_strip=1)
        return out

    def _read(self, image: Image, row: int, column: int, tile: Image) -> None:
        ny, nx = self.shape
        y, x = row * self.inner - self.margin, column * self.inner - self.margin
        if y >= 0 and x >= 0 and y + self.side <= ny and x + self.side <= nx:
            tile[:] = image[y : y + self.side, x : x + self.side]
        else:
            step = np.arange(self.side)
            rows, columns = np.clip(y + step, 0, ny - 1), np.clip(x + step, 0, nx - 1)
            tile[:] = image[rows[:, None], columns[None, :]]


def centred_rfft(filters: Floats, side: int) -> Spectra:
    """(n, side, side // 2 + 1) transforms of (n, k, k) filters, k odd, middle at zero shift."""
    n, k, _ = filters.shape
    padded = np.zeros((n, side, side), np.float32)
    padded[:, :k, :k] = filters
    padded = np.roll(padded, (-(k // 2), -(k // 2)), axis=(1, 2))
    result: Spectra = fft.rfft2(padded)
    return result


def _centres(n: int, inner: int) -> Floats:
    first = np.arange(0, n, inner)
    return (first + np.minimum(first + inner, n) - 1) / 2.0
