"""Tracks of satellites and aeroplanes: found by a Radon transform, confirmed in sections."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from promptdia.tasks.kernels.detect import bin_snr
from promptdia.tasks.model.arrays import Bools, Floats, Image
from promptdia.tasks.robust import MAD_TO_SIGMA

N_SECTIONS = 8
N_CHUNKS = 24
GRID_RISE_PX = 4.0
"""A line that rises less over its length is parallel to the pixel grid."""


@dataclass(frozen=True, slots=True)
class StreakConfig:
    """How faint and how short a streak may be."""

    bin_px: int = 8
    """Pixels are averaged in squares of this side before the search."""
    threshold: float = 8.0
    """S/N of a line of bins from which it is looked at."""
    min_bins: int = 24
    """Shortest line, in good bins along its steeper axis."""
    clip: float = 3.0
    """Pixel S/N is clipped here, so that stars do not make lines."""
    max_half_width_px: float = 40.0
    """Half width of the widest mask."""
    max_streaks: int = 8
    """How many are looked for; each costs one more transform."""


@dataclass(frozen=True, slots=True)
class Streak:
    """A straight band: x = offset + slope * y, or with x and y exchanged."""

    along_x: bool
    """True when the line is nearer to the x axis: y = offset + slope * x."""
    offset: float
    slope: float
    first: int
    """Where along the steeper axis it begins, pixels."""
    last: int
    half_width_px: float
    """Perpendicular to the line."""
    snr: float
    """Signed; negative for a streak of the template."""

    def mask(self, shape: tuple[int, int]) -> Bools:
        """(ny, nx) True on the streak."""
        ny, nx = shape[::-1] if self.along_x else shape
        on = np.zeros((ny, nx), bool)
        reach = self.half_width_px * np.hypot(1.0, self.slope)
        for y in range(self.first, self.last + 1):
            middle = self.offset + self.slope * y
            on[y, max(0, int(np.ceil(middle - reach))) : max(0, int(middle + reach) + 1)] = True
        return on.T if self.along_x else on


class _Pixels(NamedTuple):
    """Image, variance and the good pixels; contiguous."""

    image: Image
    variance: Image
    good: Bools

    def transposed(self) -> "_Pixels":
        return _Pixels(self.image.T, self.variance.T, self.good.T)


def find_streaks(image: Image, variance: Image, good: Bools, config: StreakConfig) -> list[Streak]:
    """Straight streaks of either sign that cross much of the image, strongest first.

    All arrays are (ny, nx); ``variance`` is positive and finite where ``good``. A line
    must be significant in the binned image and in several of its sections, which a few
    bright residuals in a row are not.
    """
    pixels = _Pixels(
        np.ascontiguousarray(image, np.float32),
        np.ascontiguousarray(variance, np.float32),
        np.array(good, np.bool_, order="C"),
    )
    streaks: list[Streak] = []
    while len(streaks) < config.max_streaks:
        streak = _strongest(pixels, config)
        if streak is None:
            break
        streaks.append(streak)
        pixels.good[streak.mask(pixels.good.shape)] = False
    return streaks


def is_charge_trail(streak: Streak, saturated: Bools) -> bool:
    """Whether a streak is the charge that a saturated star leaves along its row or column.

    ``saturated`` is (ny, nx). Such a trail is parallel to the pixel grid and passes through
    its star; a track in the sky is hardly ever both.
    """
    width = saturated.shape[1] if streak.along_x else saturated.shape[0]
    rise = abs(streak.slope) * (streak.last - streak.first)
    if rise > max(streak.half_width_px, GRID_RISE_PX):
        return False
    level = replace(streak, first=0, last=width - 1)
    return bool((saturated & level.mask(saturated.shape)).any())


def radon(image: Image) -> Image:
    """Sums along lines from the first to the last row that move right by 0..n-1 columns.

    ``image`` is (n, m), n a power of two. Returns (n, n + m): [d, n + x] is the sum from
    column x of the first row to column x + d of the last; columns outside count as zero.
    The approximate discrete Radon transform of Brady (1998) in n log n steps per column.
    """
    n, m = image.shape
    sums = np.zeros((n, 1, n + m), np.float32)
    sums[:, 0, n:] = image
    while sums.shape[0] > 1:
        low, high = sums[0::2], sums[1::2]
        wide = low.shape[1]
        joined = np.empty((low.shape[0], 2 * wide, n + m), np.float32)
        for d in range(wide):
            for extra in (0, 1):
                move = d + extra
                target = joined[:, 2 * d + extra]
                target[:] = low[:, d]
                target[:, : n + m - move] += high[:, d, move:]
        sums = joined
    result: Image = sums[0]
    return result


def _strongest(pixels: _Pixels, config: StreakConfig) -> Streak | None:
    all_bins, all_weight = _binned(pixels, config)
    best: Streak | None = None
    if np.count_nonzero(all_weight) < config.min_bins:
        return None
    for along_x in (False, True):
        turned = pixels.transposed() if along_x else pixels
        bins, weight = (_padded(a.T if along_x else a) for a in (all_bins, all_weight))
        for mirrored in (False, True):
            flip = slice(None, None, -1 if mirrored else 1)
            line = _best_line(bins[:, flip], weight[:, flip], config)
            if line is None or (best is not None and abs(line[0]) <= abs(best.snr)):
                continue
            snr, start, shift = line
            if mirrored:
                start, shift = bins.shape[1] - 1 - start, -shift
            slope = shift / max(bins.shape[0] - 1, 1)
            best = _refined(turned, along_x, snr, start, slope, config) or best
    return best


def _binned(pixels: _Pixels, config: StreakConfig) -> tuple[Floats, Floats]:
    """Bins of unit noise and their weight, 0 or 1."""
    shape = tuple(side // config.bin_px for side in pixels.image.shape)
    total, count = np.zeros(shape), np.zeros(shape)
    bin_snr(*pixels, config.bin_px, config.clip, total, count)
    weight = (count >= 0.5 * config.bin_px**2).astype(float)
    bins = total / np.sqrt(np.maximum(count, 1.0))
    seen = bins[weight > 0]
    if seen.size:
        middle = np.median(seen)
        scatter = MAD_TO_SIGMA * np.median(np.abs(seen - middle))
        bins = np.clip((bins - middle) / max(scatter, 1e-9), -4.0, 4.0) * weight
    return bins, weight


def _padded(bins: Floats) -> Floats:
    """More rows of zeros, up to a power of two."""
    rows = 1 << max(0, bins.shape[0] - 1).bit_length()
    return np.pad(bins, ((0, rows - bins.shape[0]), (0, 0)))


def _best_line(
    bins: Floats, weight: Floats, config: StreakConfig
) -> tuple[float, float, int] | None:
    """(signed S/N, start column, shift) of the most significant line that persists."""
    length = radon(weight.astype(np.float32))
    snr = radon(bins.astype(np.float32))
    snr /= np.sqrt(np.maximum(length, np.float32(1)))
    snr[length < config.min_bins] = 0.0
    snr /= _line_scatter(snr)
    shift, start = np.unravel_index(np.argmax(np.abs(snr)), snr.shape)
    value = float(snr[shift, start])
    if abs(value) < config.threshold:
        return None
    first = int(start) - bins.shape[0]
    return (value, first, int(shift)) if _persists(bins, weight, value, first, int(shift)) else None


def _line_scatter(snr: Image) -> np.float32:
    """Robust standard deviation of S/N over lines: more than 1 where the sky is uneven."""
    sample = snr[::3, ::3]
    sample = sample[sample != 0]
    if sample.size == 0:
        return np.float32(1)
    return np.float32(max(1.0, MAD_TO_SIGMA * float(np.median(np.abs(sample)))))


def _persists(bins: Floats, weight: Floats, snr: float, first: int, shift: int) -> bool:
    """Whether the signal comes from several sections of the line."""
    rows = np.arange(bins.shape[0])
    columns = np.rint(first + shift * rows / max(bins.shape[0] - 1, 1)).astype(int)
    total, count = np.zeros(rows.size), np.zeros(rows.size)
    for step in (-1, 0, 1):
        inside = (columns + step >= 0) & (columns + step < bins.shape[1])
        total[inside] += bins[rows[inside], columns[inside] + step]
        count[inside] += weight[rows[inside], columns[inside] + step]
    used = np.flatnonzero(count)
    sections = np.array_split(used, N_SECTIONS)
    sums = np.array([np.sign(snr) * total[s].sum() for s in sections])
    noise = np.array([np.sqrt(max(count[s].sum(), 1.0)) for s in sections])
    strong = int(np.count_nonzero(sums > 2.0 * noise))
    return bool(strong >= 3 and sums.max() < 0.5 * sums[sums > 0].sum())


def _refined(
    pixels: _Pixels, along_x: bool, snr: float, start: float, slope: float, config: StreakConfig
) -> Streak | None:
    """The streak at full resolution: line, width and ends from its profile."""
    side = config.bin_px
    offset = (start + 0.5) * side - 0.5 - slope * (0.5 * side - 0.5)
    sign = np.sign(snr)
    for reach in (3 * side, int(1.5 * side)):
        profile, noise, rows = _profiles(pixels, offset, slope, reach, config.clip)
        smooth = _boxcar(sign * profile, 5)
        weight = smooth.max(axis=1) / (np.median(noise, axis=1) / np.sqrt(5))
        weight[weight < 3.0] = 0.0
        if np.count_nonzero(weight) < 3:
            return None
        line = np.polyfit(rows, smooth.argmax(axis=1) - reach, 1, w=np.sqrt(weight))
        slope, offset = slope + line[0], offset + line[1]
    stretch = np.hypot(1.0, slope)
    reach = int(config.max_half_width_px * stretch) + 2
    profile, noise, rows = _profiles(pixels, offset, slope, reach, config.clip)
    half = _half_width(sign * profile, noise)
    band = slice(reach - half, reach + half + 1)
    level = sign * profile[:, band].sum(axis=1) / np.sqrt((noise[:, band] ** 2).sum(axis=1))
    seen = np.flatnonzero(level > 2.0)
    if seen.size < 3:
        return None
    n_rows = pixels.image.shape[0]
    return Streak(
        along_x,
        float(offset),
        float(slope),
        int(max(0, (seen[0] - 1) * n_rows / N_CHUNKS)),
        int(min(n_rows - 1, (seen[-1] + 2) * n_rows / N_CHUNKS)),
        float(min(half / stretch, config.max_half_width_px)),
        float(snr),
    )


def _profiles(
    pixels: _Pixels, offset: float, slope: float, reach: int, clip: float
) -> tuple[Floats, Floats, Floats]:
    """Mean S/N and its noise across N_CHUNKS pieces, (chunks, 2 reach + 1); their rows."""
    ny, nx = pixels.image.shape
    y = np.arange(ny)[:, None]
    x = np.rint(offset + slope * y).astype(int) + np.arange(-reach, reach + 1)
    inside = (x >= 0) & (x < nx)
    x = np.clip(x, 0, nx - 1)
    usable = inside & pixels.good[y, x]
    variance = np.where(usable, pixels.variance[y, x], 1.0)
    value = np.where(usable, pixels.image[y, x], 0.0) / np.sqrt(variance)
    first = np.arange(N_CHUNKS) * ny // N_CHUNKS
    count = np.add.reduceat(usable.astype(float), first, axis=0)
    mean = np.add.reduceat(np.clip(value, -clip, clip), first, axis=0) / np.maximum(count, 1.0)
    rows = (first + np.append(first[1:], ny) - 1) / 2
    return mean, np.where(count < 1, 1e3, 1.0 / np.sqrt(np.maximum(count, 1.0))), rows


def _boxcar(profile: Floats, width: int) -> Floats:
    kernel = np.ones(width) / width
    return np.stack([np.convolve(row, kernel, mode="same") for row in profile])


def _half_width(profile: Floats, noise: Floats) -> int:
    """Columns from the middle to where the mean profile sinks into its noise, plus two."""
    weight = 1.0 / noise**2
    mean = (profile * weight).sum(axis=0) / weight.sum(axis=0)
    error = 1.0 / np.sqrt(weight.sum(axis=0))
    middle = mean.size // 2
    floor = np.maximum(2.0 * error, 0.05 * mean[middle - 2 : middle + 3].max())
    low = mean < floor
    right = np.flatnonzero(low[middle + 2 :])
    left = np.flatnonzero(low[: middle - 1][::-1])
    reach = max(right[0] if right.size else middle, left[0] if left.size else middle)
    return int(min(reach + 4, middle))
