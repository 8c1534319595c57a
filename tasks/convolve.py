"""Convolution with filters that vary over the image: overlap-save FFTs on small tiles."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft

from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.parallel import over_strips

Transfer = np.ndarray
"""(n, side, side // 2 + 1) complex64, zero shift: what rfft2 of a centred filter gives."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Overlapping square tiles: a filter acts on ``inner`` pixels and reads ``margin`` around."""

    shape: tuple[int, int]
    inner: int
    margin: int

    @classmethod
    def around(cls, shape: tuple[int, int], half_width: int) -> "Tiles":
        """Tiles for filters of this half width whose side suits the FFT."""
        side = fft.next_fast_len(8 * half_width, real=True)
        side += side % 2
        return cls(shape, side - 2 * half_width, half_width)

    @property
    def side(self) -> int:
        """Of the FFT."""
        return self.inner + 2 * self.margin

    @property
    def x(self) -> Floats:
        """(nx_tiles,) centres."""
        return _centres(self.shape[1], self.inner)

    @property
    def y(self) -> Floats:
        """(ny_tiles,) centres."""
        return _centres(self.shape[0], self.inner)

    def convolve(self, image: Image, transfer: Callable[[int], Transfer]) -> Image:
        """The image convolved; ``transfer(row)`` gives the filters of a row of tiles.

        Outside its border the image counts as continuing its edge pixels. Must be finite.
        """
        out = np.empty(self.shape, np.float32)
        ny = self.shape[0]

        def rows(first: int, end: int) -> None:
            for row in range(first, end):
                batch = self._cut(image, row * self.inner)
                spectrum = fft.rfft2(batch, overwrite_x=True)
                spectrum *= transfer(row)
                done = fft.irfft2(spectrum, s=(self.side, self.side), overwrite_x=True)
                y0 = row * self.inner
                height = min(self.inner, ny - y0)
                for column, tile in enumerate(done):
                    part = out[y0 : y0 + height, column * self.inner : (column + 1) * self.inner]
                    part[:] = tile[self.margin :, self.margin :][: part.shape[0], : part.shape[1]]

        over_strips(rows, self.y.size, rows_per_strip=1)
        return out

    def _cut(self, image: Image, y0: int) -> Image:
        """(nx_tiles, side, side) the tiles of the row whose inner part starts at ``y0``."""
        ny, nx = self.shape
        columns = self.x.size
        rows = slice(y0 - self.margin, y0 + self.inner + self.margin)
        if rows.start >= 0 and rows.stop <= ny:
            inside = image[rows]
        else:
            inside = image[np.clip(np.arange(rows.start, rows.stop), 0, ny - 1)]
        strip = np.empty((self.side, columns * self.inner + 2 * self.margin), np.float32)
        strip[:, : self.margin] = inside[:, :1]
        strip[:, self.margin : self.margin + nx] = inside
        strip[:, self.margin + nx :] = inside[:, -1:]
        tiles = np.lib.stride_tricks.sliding_window_view(strip, self.side, axis=1)
        return np.ascontiguousarray(tiles[:, :: self.inner].swapaxes(0, 1))


def centred_rfft(filters: Floats, side: int) -> Transfer:
    """(n, side, side // 2 + 1) transforms of (n, k, k) filters, k odd, middle at zero shift."""
    n, k, _ = filters.shape
    if k == 1:
        return np.repeat(np.repeat(filters, side, 1), side // 2 + 1, 2).astype(np.complex64)
    padded = np.zeros((n, side, side), np.float32)
    padded[:, :k, :k] = filters
    padded = np.roll(padded, (-(k // 2), -(k // 2)), axis=(1, 2))
    result: Transfer = fft.rfft2(padded)
    return result


def _centres(n: int, inner: int) -> Floats:
    first = np.arange(0, n, inner)
    return (first + np.minimum(first + inner, n) - 1) / 2.0
