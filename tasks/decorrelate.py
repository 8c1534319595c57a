"""White noise for a difference image (ZOGY; Reiss & Lupton, DMTN-021), tile by tile."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft

from promptdia.tasks.convolve import Tiles, Transfer, centred_rfft
from promptdia.tasks.kernels.masks import blend_variances
from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.model.psf import GridPsf, Psf
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.resampling import kept_variance, noise_power_2d

INNER = 224
MARGIN = 16
"""Tiles of the whitening filter, pixels; its wings are below 1e-3 beyond the margin."""
STATISTICS_SIDE = 64
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
        levels = np.empty((tiles.y.size, tiles.x.size))
        for j in range(levels.shape[0]):
            for i in range(levels.shape[1]):
                y0, x0 = j * tiles.inner, i * tiles.inner
                block = self.variance[y0 : y0 + tiles.inner : 4, x0 : x0 + tiles.inner : 4]
                good = block[np.isfinite(block)]
                levels[j, i] = np.median(good) if good.size else np.nan
        levels[~np.isfinite(levels)] = np.nanmedian(levels)
        return levels / float(kept_variance(self.resampled)[0])


FiltersAt = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""(x, y) -> filters (n, k, k) on science and template whose results are subtracted; k may be 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Whitened:
    """The difference with white noise, its variance and its PSF."""

    image: Image
    variance: Image
    psf: GridPsf


def decorrelate(
    difference: Image, science: Noise, template: Noise, filters: FiltersAt, psf: Psf
) -> Whitened:
    """Filter the difference so that its noise is white and fluxes stay.

    The filter of a tile is sqrt(P(0) / P(f)), P the noise power that the two filters and the
    tile's median variances predict: one at zero frequency, so a source keeps its flux and
    the PSF its unit sum. ``psf`` is the science image's; ``difference`` must be finite.
    """
    tiles = Tiles(difference.shape, INNER, MARGIN)
    levels = np.stack([science.levels(tiles), template.levels(tiles)], axis=-1)
    colours = (science.resampled, template.resampled)

    def at(row: int) -> tuple[Floats, Floats]:
        return filters(tiles.x, np.full(tiles.x.size, tiles.y[row]))

    def transfer(row: int) -> Transfer:
        return _spectra(at(row), levels[row], colours, tiles.side)[0]

    white = tiles.convolve(difference, transfer)
    weights, stamps = zip(
        *(
            _statistics(at(row), levels[row], colours, _stamps(psf, tiles, row))
            for row in range(tiles.y.size)
        )
    )
    variance = np.empty(difference.shape, np.float32)
    table = np.stack(weights).astype(np.float32)
    over_strips(
        lambda a, b: blend_variances(
            science.variance, template.variance, table, INNER, a, b, variance
        ),
        difference.shape[0],
    )
    return Whitened(white, variance, GridPsf(_trim(np.stack(stamps)), tiles.x, tiles.y))


def _spectra(
    filters: tuple[Floats, Floats], levels: Floats, colours: tuple[float, float], side: int
) -> tuple[Transfer, list[Transfer]]:
    """The whitening filter, and for each image its filter times its noise amplitude / level."""
    power = np.zeros((levels.shape[0], side, side // 2 + 1), np.float32)
    amplitudes = []
    for image in range(2):
        amplitude = centred_rfft(filters[image], side)
        if colours[image] > 0:
            amplitude = amplitude * np.sqrt(noise_power_2d(side, colours[image])).astype(np.float32)
        squared = amplitude.real**2 + amplitude.imag**2
        power += levels[:, image, None, None].astype(np.float32) * squared
        amplitudes.append(amplitude)
    flat = power[:, :1, :1].copy()
    np.maximum(power, flat / HIGHEST_GAIN**2, out=power)
    return np.sqrt(flat / power), amplitudes


def _statistics(
    filters: tuple[Floats, Floats],
    levels: Floats,
    colours: tuple[float, float],
    stamps: Floats,
) -> tuple[Floats, Floats]:
    """For a row of tiles the weights of ``blend_variances`` and the PSF of the difference."""
    side = STATISTICS_SIDE
    white, amplitudes = _spectra(filters, levels, colours, side)
    weights = np.empty((levels.shape[0], 4))
    for image in range(2):
        taps = fft.irfft2(white * amplitudes[image], s=(side, side)) ** 2
        kept = float(kept_variance(colours[image])[0])
        weights[:, 2 * image] = taps[:, 0, 0] / kept
        weights[:, 2 * image + 1] = (taps.sum(axis=(1, 2)) - taps[:, 0, 0]) / kept
    side = fft.next_fast_len(stamps.shape[-1] + filters[0].shape[-1] + 2 * MARGIN, real=True)
    side += side % 2
    white, _ = _spectra(filters, levels, colours, side)
    seen = white * centred_rfft(filters[0], side) * centred_rfft(stamps, side)
    psf = np.roll(fft.irfft2(seen, s=(side, side)), (side // 2, side // 2), axis=(1, 2))
    return weights, psf[:, 1:, 1:].astype(float)


def _stamps(psf: Psf, tiles: Tiles, row: int) -> Floats:
    return psf.stamps(tiles.x, np.full(tiles.x.size, tiles.y[row]))


def _trim(stamps: Floats) -> Floats:
    """The smallest middle part that loses at most PSF_LOSS of the light, unit sum."""
    size = stamps.shape[-1]
    middle = size // 2
    for half in range(middle // 3, middle):
        core = slice(middle - half, middle + half + 1)
        lost = 1.0 - stamps[..., core, core].sum(axis=(-2, -1))
        if np.abs(lost).max() < PSF_LOSS:
            break
    else:
        core = slice(0, size)
    kept = stamps[..., core, core]
    unit: Floats = kept / kept.sum(axis=(-2, -1), keepdims=True)
    return unit
