"""White noise for a difference image (ZOGY; Reiss & Lupton, DMTN-021), tile by tile."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from promptdia.tasks.convolve import Spectra, Tiles, VaryingFilter, centred_rfft
from promptdia.tasks.kernels.difference import blend_variances, block_medians, whiten
from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.model.psf import GridPsf, Psf
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.resampling import kept_variance, noise_power_2d

INNER = 224
MARGIN = 16
"""Tiles of the whitening filter, pixels; its wings are below 1e-3 beyond the margin."""
STATISTICS_SIDE = 64
SAMPLED = 4
"""Of a tile's variances every such row and column counts."""
HIGHEST_GAIN = 10.0
"""The filter amplifies no frequency more than this."""
PSF_LOSS = 1e-3
"""The stamps of the difference's PSF are as wide as needed to hold all but this of its light."""


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """White-noise level of an image in each pixel, and how interpolation has coloured it."""

    variance: Image
    """(ny, nx) of a pixel; not finite where unknown."""
    resampled: float
    """See promptdia.tasks.resampling."""

    def levels(self, tiles: Tiles) -> Floats:
        """(ny_tiles, nx_tiles) variance of the white noise behind it, median of each tile."""
        sample = np.ascontiguousarray(self.variance[:: SAMPLED // 2, ::SAMPLED])
        edges = [np.append(np.arange(0, n, tiles.inner), n) for n in self.variance.shape]
        rows, columns = -(-edges[0] // (SAMPLED // 2)), -(-edges[1] // SAMPLED)
        levels = np.empty((rows.size - 1, columns.size - 1), np.float32)
        # the medians take every second line
        block_medians(sample, np.isfinite(sample), rows, columns, 0.0, 0, len(levels), levels)
        levels[~np.isfinite(levels)] = np.nanmedian(levels)
        return levels.astype(float) / float(kept_variance(self.resampled)[0])


@dataclass(frozen=True, slots=True, eq=False)
class Whitened:
    """The difference with white noise, its variance and its PSF."""

    image: Image
    variance: Image
    psf: GridPsf


def decorrelate(
    difference: Image,
    science: Noise,
    template: Noise,
    filters: tuple[VaryingFilter, VaryingFilter],
    psf: Psf,
) -> Whitened:
    """Filter the difference so that its noise is white and fluxes stay.

    ``filters`` are those on science and template whose results were subtracted. The
    whitening filter of a tile is sqrt(P(0) / P(f)), P the noise power that the two filters and
    the tile's median variances predict: one at zero frequency, so a source keeps its flux and
    the PSF its sum. ``psf`` is the science image's; ``difference`` must be finite.
    """
    tiles = Tiles(difference.shape, INNER, MARGIN)
    noises = science, template
    levels = np.stack([noise.levels(tiles) for noise in noises], axis=-1)
    whitener = _Whitener(filters, (science.resampled, template.resampled), tiles.side)

    def act(spectra: Spectra, row: int, columns: slice) -> None:
        x = tiles.x[columns]
        whitener.change(spectra, x, np.full(x.size, tiles.y[row]), levels[row, columns])

    white = tiles.change(difference, act)
    weights, stamps = _statistics(tiles, levels, whitener, psf)
    variance = np.empty(difference.shape, np.float32)
    over_strips(
        lambda a, b: blend_variances(
            science.variance, template.variance, weights, INNER, a, b, variance
        ),
        difference.shape[0],
    )
    return Whitened(white, variance, GridPsf(_trim(stamps), tiles.x, tiles.y))


class _Whitener:
    """The whitening filter of any position and noise levels, for transforms of one side."""

    def __init__(
        self, filters: tuple[VaryingFilter, VaryingFilter], colours: tuple[float, float], side: int
    ) -> None:
        self.filters, self.colours, self.side = filters, colours, side
        self.amplitudes = [
            one.transfer(side, np.sqrt(noise_power_2d(side, colour)) if colour > 0 else None)
            for one, colour in zip(filters, colours)
        ]
        """Of each image the filter's spectrum times the colour interpolation gave its noise."""
        self._parts = [
            np.stack([a.spectra.real, a.spectra.imag], axis=1).reshape(len(a.spectra), 2, -1)
            for a in self.amplitudes
        ]

    def of_side(self, side: int) -> "_Whitener":
        """The same for another transform."""
        return _Whitener(self.filters, self.colours, side)

    def change(self, spectra: Spectra, x: Floats, y: Floats, levels: Floats) -> None:
        """Whiten spectra (n, side, side // 2 + 1), in place; ``levels`` (n, 2)."""
        weights = [one.weights(x, y).astype(np.float32) for one in self.filters]
        flat = spectra.view(np.float32).reshape(len(spectra), -1)
        least = np.float32(HIGHEST_GAIN**-2)
        (science, template), (own, other) = self._parts, weights
        whiten(flat, science, template, own, other, levels.astype(np.float32), least)


def _statistics(
    tiles: Tiles, levels: Floats, whitener: _Whitener, psf: Psf
) -> tuple[Image, Floats]:
    """For each tile the weights of ``blend_variances`` and the PSF of the difference."""
    own_filter = whitener.filters[0]
    reach = psf.size + own_filter.size + 2 * MARGIN
    side, wide = STATISTICS_SIDE, 2 * fft.next_fast_len(-(-reach // 2), real=True)
    small, large, own = whitener.of_side(side), whitener.of_side(wide), own_filter.transfer(wide)
    weights = np.empty((*levels.shape[:2], 4), np.float32)
    stamps = np.empty((*levels.shape[:2], wide - 1, wide - 1))

    def rows(row: int, _: int) -> None:
        x, y = tiles.x, np.full(tiles.x.size, tiles.y[row])
        white = np.ones((x.size, side, side // 2 + 1), np.complex64)
        small.change(white, x, y, levels[row])
        for image, (amplitude, colour) in enumerate(zip(small.amplitudes, whitener.colours)):
            taps = fft.irfft2(white * amplitude.at(x, y), s=(side, side)) ** 2
            kept = float(kept_variance(colour)[0])
            weights[row, :, 2 * image] = taps[:, 0, 0] / kept
            weights[row, :, 2 * image + 1] = (taps.sum(axis=(1, 2)) - taps[:, 0, 0]) / kept
        seen = own.at(x, y) * centred_rfft(psf.stamps(x, y), wide)
        large.change(seen, x, y, levels[row])
        stamp = np.roll(fft.irfft2(seen, s=(wide, wide)), (wide // 2, wide // 2), axis=(1, 2))
        stamps[row] = stamp[:, 1:, 1:]

    over_strips(rows, tiles.y.size, rows_per_strip=1)
    return weights, stamps


def _trim(stamps: Floats) -> Floats:
    """The smallest middle part that loses at most PSF_LOSS of the light, with the sum of all."""
    size = stamps.shape[-1]
    middle = size // 2
    light = stamps.sum(axis=(-2, -1), keepdims=True)
    for half in range(middle // 3, middle):
        core = slice(middle - half, middle + half + 1)
        kept = stamps[..., core, core].sum(axis=(-2, -1), keepdims=True)
        if np.abs(1.0 - kept / light).max() < PSF_LOSS:
            break
    else:
        core, kept = slice(0, size), light
    trimmed: Floats = stamps[..., core, core] * (light / kept)
    return trimmed
