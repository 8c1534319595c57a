"""Templates: coadds of earlier visits on sky patches, and their cut on the science grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from promptdia.tasks.errors import NoUsablePixels, NoWork, TaskError
from promptdia.tasks.kernels.coadd import HALO, add_piece, combine_rows, divide_sums, open_cells
from promptdia.tasks.kernels.warp import CELL
from promptdia.tasks.model.arrays import Bools, Floats, Image, Mask
from promptdia.tasks.model.exposure import Exposure, ScienceExposure, TemplateExposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import GridPsf
from promptdia.tasks.model.wcs import FitsWcs
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.resampling import RESAMPLED
from promptdia.tasks.tiling import Patch
from promptdia.tasks.warp import PSF_NODE_PX, input_grid, warp

AVOID = MaskPlane.BAD | MaskPlane.CR | MaskPlane.STREAK | MaskPlane.SUSPECT
"""Inputs with one of these count only where no input is without."""
STRIP_ROWS = 64


class WrongBand(TaskError):
    """Exposures of different bands were to be combined."""

    def __init__(self, found: str, needed: str) -> None:
        super().__init__(f"template input is in band {found!r}, needs {needed!r}")


@dataclass(frozen=True, slots=True)
class CoaddConfig:
    """How warps become a template coadd."""

    clip_sigma: float = 5.0
    """A pixel this many sigma from the median, beyond what seeing explains, is left out."""
    clip_neighbour_sigma: float = 2.5
    """The same for pixels next to one left out."""


@dataclass(frozen=True, slots=True)
class BuildCoadd:
    """Combine visits on one patch into a template without their artefacts."""

    config: CoaddConfig

    def run(self, warps: Sequence[Exposure], patch: Patch) -> TemplateExposure:
        """The clipped mean, trimmed to its filled bounding box.

        One weight per visit (inverse median variance), so that the PSF is the weighted mean
        of the inputs' PSFs. Notes: ``visits`` (ids, comma separated), ``inputs`` (their
        number), ``count_mean`` (mean inputs per filled pixel), ``patch``, ``x0`` and ``y0``
        (first pixel in the patch). NoUsablePixels when no warp has data.
        """
        warps = [w for w in warps if not has(w.mask, MaskPlane.NO_DATA).all()]
        if not warps:
            raise NoUsablePixels(f"patch {patch.id}", "no warp has data on it")
        for w in warps:
            if w.visit.band != warps[0].visit.band:
                raise WrongBand(w.visit.band, warps[0].visit.band)
            if w.shape != patch.shape:
                raise ValueError(f"warp has shape {w.shape}, patch {patch.id} {patch.shape}")
        weights = np.array([1.0 / _typical_variance(w) for w in warps])
        image, variance, mask, count = self._combine(warps, weights)
        box, x0, y0 = _filled_box(count)
        psf = mean_psf([Placed(w) for w in warps], weights, patch.shape)
        filled = count > 0
        notes: dict[str, str | float | int | bool] = {
            "visits": ",".join(str(v) for v in sorted({w.visit.id for w in warps})),
            "inputs": len(warps),
            "count_mean": float(count[filled].mean()),
            "patch": patch.id,
            "x0": x0,
            "y0": y0,
            RESAMPLED: float(
                np.average([float(w.notes.get(RESAMPLED, 0.0)) for w in warps], weights=weights)
            ),
        }
        return TemplateExposure.of(
            warps[0],
            image=image[box].copy(),
            variance=variance[box].copy(),
            mask=mask[box].copy(),
            wcs=patch.wcs.shifted(x0, y0),
            psf=None if psf is None else GridPsf(psf.nodes, psf.x - x0, psf.y - y0),
            notes=notes,
        )

    def _combine(
        self, warps: Sequence[Exposure], weights: Floats
    ) -> tuple[Image, Image, Mask, Mask]:
        shape = warps[0].shape
        image = np.zeros(shape, np.float32)
        variance = np.full(shape, np.inf, np.float32)
        mask = np.full(shape, MaskPlane.NO_DATA.value, np.int32)
        count = np.zeros(shape, np.int32)
        scaled = (weights / weights.max()).astype(np.float32)
        change = _peak_change(warps)

        def strip(first: int, end: int) -> None:
            rows = np.clip(np.arange(first - HALO, end + HALO), 0, shape[0] - 1)
            combine_rows(
                np.stack([w.image[rows] for w in warps]),
                np.stack([w.variance[rows] for w in warps]),
                np.stack([w.mask[rows] for w in warps]),
                scaled, change, AVOID.value, MaskPlane.NO_DATA.value,
                self.config.clip_sigma, self.config.clip_neighbour_sigma,
                image[first:end], variance[first:end], mask[first:end], count[first:end],
            )  # fmt: skip

        over_strips(strip, shape[0], STRIP_ROWS)
        return image, variance, mask, count


@dataclass(frozen=True, slots=True)
class TemplateConfig:
    """How coadds become the template of one detector."""

    high_variance_factor: float = 4.0
    """HIGH_VARIANCE is set where a block's median variance exceeds this times the median."""


@dataclass(frozen=True, slots=True)
class MakeTemplate:
    """Put the coadds of the patches around a detector on its pixel grid."""

    config: TemplateConfig

    def run(
        self, science: ScienceExposure, patches: Sequence[TemplateExposure]
    ) -> TemplateExposure:
        """The template on the science grid, NO_DATA where no patch reaches.

        Patches are taken in order; where several reach a pixel of a cell that the first did
        not fill, their inverse-variance weighted mean is taken, without counting the data
        twice in the variance. Notes: ``coverage`` (fraction of pixels with data), ``visits``.
        NoWork when nothing overlaps, WrongBand when a patch is of another band.
        """
        stack = _Stack(science.shape)
        placed: list[Placed] = []
        for patch in patches:
            if patch.visit.band != science.visit.band:
                raise WrongBand(patch.visit.band, science.visit.band)
            box = reach(patch, science.wcs, science.shape)
            if box is not None:
                wanted = open_cells(stack.weight[box], CELL)
                wcs = science.wcs.shifted(box[1].start, box[0].start)
                shape = box[0].stop - box[0].start, box[1].stop - box[1].start
                piece = warp(patch, wcs, shape, wanted=wanted)
                if stack.add(piece, box):
                    placed.append(Placed(piece, box[1].start, box[0].start))
        used = [p.exposure for p in placed]
        if not used:
            raise NoWork(f"none of {len(patches)} template patches overlaps the detector")
        image, variance, mask = stack.mean()
        covered = ~has(mask, MaskPlane.NO_DATA)
        mask[_high_variance(variance, self.config.high_variance_factor) & covered] |= (
            MaskPlane.HIGH_VARIANCE.value
        )
        visits = {v for p in used for v in str(p.notes.get("visits", p.visit.id)).split(",")}
        return TemplateExposure.of(
            used[0],
            image=image,
            variance=variance,
            mask=mask,
            wcs=science.wcs,
            visit=science.visit,
            detector=science.detector,
            psf=mean_psf(placed, np.ones(len(used)), science.shape),
            photo_calib=science.photo_calib,
            notes={
                "coverage": float(covered.mean()),
                "visits": ",".join(sorted(visits)),
                RESAMPLED: float(np.mean([float(p.notes[RESAMPLED]) for p in used])),
            },
        )


class _Stack:
    """Running weighted mean of warped patches."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.image = np.zeros(shape, np.float32)
        self.variance = np.zeros(shape, np.float32)
        self.weight = np.zeros(shape, np.float32)
        self.mask = np.zeros(shape, np.int32)

    def add(self, piece: Exposure, box: tuple[slice, slice]) -> bool:
        """Take a warped patch in that lies at ``box``; False when it has no pixel there."""
        added = add_piece(
            piece.image, piece.variance, piece.mask, MaskPlane.NO_DATA.value, box[0].start,
            box[1].start, self.image, self.variance, self.weight, self.mask,
        )  # fmt: skip
        return added > 0

    def mean(self) -> tuple[Image, Image, Mask]:
        """Image, variance and mask; 0, inf and NO_DATA where nothing was added."""
        divide_sums(self.image, self.variance, self.weight, self.mask, MaskPlane.NO_DATA.value)
        return self.image, self.variance, self.mask


class Placed(NamedTuple):
    """An exposure and where its first pixel lies on a larger grid."""

    exposure: Exposure
    x0: int = 0
    y0: int = 0


def reach(patch: Exposure, wcs: FitsWcs, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """The part of a grid that a patch may reach, in whole cells; None when it reaches none."""
    grid_x, grid_y = input_grid(patch, wcs, shape)
    ny, nx = patch.shape
    inside = (grid_x > -CELL) & (grid_x < nx + CELL) & (grid_y > -CELL) & (grid_y < ny + CELL)
    if not inside.any():
        return None
    sides = []
    for axis, n in enumerate(shape):
        nodes = np.flatnonzero(inside.any(axis=1 - axis))
        first, end = max(int(nodes[0]) - 1, 0) * CELL, (int(nodes[-1]) + 1) * CELL
        sides.append(slice(first, min(end, n)))
    return (sides[0], sides[1]) if all(s.stop > s.start for s in sides) else None


def mean_psf(placed: Sequence[Placed], weights: Floats, shape: tuple[int, int]) -> GridPsf | None:
    """The weighted mean PSF on a grid over ``shape``; None unless all have a PSF.

    At each node only exposures with data near it count; where none has, all do.
    """
    ny, nx = shape
    exposures = [p.exposure for p in placed]
    rows, columns = (np.linspace(0, n - 1, max(2, -(-n // PSF_NODE_PX) + 1)) for n in (ny, nx))
    y, x = (v.ravel() for v in np.meshgrid(rows, columns, indexing="ij"))
    size = max(e.psf.size if e.psf is not None else 0 for e in exposures)
    total, weight_sum = np.zeros((x.size, size, size)), np.zeros((x.size, 1, 1))
    fallback = np.zeros_like(total)
    for (exposure, x0, y0), weight in zip(placed, weights):
        if exposure.psf is None:
            return None
        pad = (size - exposure.psf.size) // 2
        here = exposure.psf.stamps(x - x0, y - y0)
        stamps = weight * np.pad(here, ((0, 0), (pad, pad), (pad, pad)))
        near = _has_data_near(exposure.mask, x - x0, y - y0)[:, None, None]
        total += stamps * near
        weight_sum += weight * near
        fallback += stamps
    alone = weight_sum == 0
    total = np.where(alone, fallback / np.sum(weights), total / np.where(alone, 1.0, weight_sum))
    return GridPsf(total.reshape(rows.size, columns.size, size, size), columns, rows)


def _has_data_near(mask: Mask, x: Floats, y: Floats) -> Bools:
    """Whether any of a coarse set of pixels half way to the next nodes has data."""
    steps = np.linspace(-PSF_NODE_PX / 2, PSF_NODE_PX / 2, 9)
    ys = np.rint(y[:, None, None] + steps[:, None]).astype(int)
    xs = np.rint(x[:, None, None] + steps[None, :]).astype(int)
    inside = (ys >= 0) & (ys < mask.shape[0]) & (xs >= 0) & (xs < mask.shape[1])
    ys, xs = np.clip(ys, 0, mask.shape[0] - 1), np.clip(xs, 0, mask.shape[1] - 1)
    near = inside & ~has(mask[ys, xs], MaskPlane.NO_DATA)
    return np.asarray(near.any(axis=(1, 2)), np.bool_)


def _typical_variance(exposure: Exposure) -> float:
    sample = exposure.variance[::7, ::7]
    sample = sample[np.isfinite(sample) & (sample > 0)]
    if sample.size == 0:
        raise NoUsablePixels(f"warp of visit {exposure.visit.id}", "no pixel has a variance")
    return float(np.median(sample))


def _peak_change(warps: Sequence[Exposure]) -> Image:
    """(n,) how far the peak of each PSF is from the median peak, as a fraction of it."""
    if any(w.psf is None for w in warps):
        return np.full(len(warps), 0.5, np.float32)
    ny, nx = warps[0].shape
    middle = np.array([nx / 2]), np.array([ny / 2])
    peaks = np.array([w.require_psf().stamps(*middle).max() for w in warps])
    change: Image = np.abs(peaks / np.sort(peaks)[(peaks.size - 1) // 2] - 1.0).astype(np.float32)
    return change


def _filled_box(filled: np.ndarray) -> tuple[tuple[slice, slice], int, int]:
    """Bounding box of the non-zero pixels, and its first x and y."""
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return box, int(columns[0]), int(rows[0])


def _high_variance(variance: Image, factor: float) -> Bools:
    """(ny, nx) True in 32-pixel blocks whose median variance is far above the typical one."""
    ny, nx = variance.shape
    by, bx = -(-ny // CELL), -(-nx // CELL)
    padded = np.pad(
        variance[::4, ::4], ((0, by * 8 - -(-ny // 4)), (0, bx * 8 - -(-nx // 4))), "edge"
    )
    blocks = padded.reshape(by, 8, bx, 8).swapaxes(1, 2).reshape(by, bx, 64)
    medians = np.partition(blocks, 32, axis=2)[:, :, 32]
    known = np.isfinite(medians)
    if not known.any():
        return np.zeros(variance.shape, np.bool_)
    high = known & (medians > factor * np.median(medians[known]))
    return np.repeat(np.repeat(high, CELL, axis=0), CELL, axis=1)[:ny, :nx]
