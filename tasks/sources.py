"""Stars and galaxies on a direct image, and its seeing."""

from dataclasses import dataclass

import numpy as np
import sep
from scipy.spatial import cKDTree

from promptdia.tasks.errors import NoUsablePixels, TaskError
from promptdia.tasks.kernels.clean_pixels import clean_pixels
from promptdia.tasks.kernels.moments import COLUMNS, measure_moments
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image, Ints, Mask
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import FWHM_PER_SIGMA
from promptdia.tasks.parallel import over_strips

UNKNOWN_SIGMA_PX = 1.5
"""Centroid window while the seeing is not known."""
MIN_SEEING_ROWS = 256
"""The middle quarter of the rows tells the seeing if it has at least so many ..."""
ENOUGH_PROFILES = 50
"""... and shows at least so many sources."""
DEFECTS = MaskPlane.BAD | MaskPlane.CR | MaskPlane.NO_DATA


@dataclass(frozen=True, slots=True)
class SourceConfig:
    threshold: float = 2.0
    """Of a pixel of the lightly smoothed image, in units of the pixel noise."""
    seeing_threshold: float = 5.0
    """The same, for the sources that tell the seeing."""
    seeing_sources: int = 300
    """How many of them, the brightest, are looked at."""
    min_area_px: int = 3
    """Connected pixels above the threshold."""
    deblend_levels: int = 32
    """Levels between the threshold and the peak at which a blend may fall apart."""
    deblend_contrast: float = 0.005
    """Part of a blend's light that a branch needs to count as a source."""
    aperture_fwhm: float = 2.0
    """Radius of the calibration aperture in FWHM."""
    blend_radius_fwhm: float = 2.5
    """A source with a neighbour nearer than this is called blended ..."""
    blend_flux_ratio: float = 0.02
    """... if the neighbour has at least this part of its flux."""
    max_pixel_fraction: float = 0.25
    """With more of the image above the threshold, in crowded fields, it is doubled."""


@dataclass(frozen=True, slots=True)
class DetectSources:
    """Find and measure the sources of a background-subtracted direct image."""

    config: SourceConfig

    def run(self, exposure: Exposure, fwhm_px: float | None) -> Catalog:
        """SOURCE rows, PSF flux and sky position still nan.

        Without ``fwhm_px`` the seeing is measured first. Raises TaskError when nothing
        is found.
        """
        fwhm = self.seeing(exposure) if fwhm_px is None else fwhm_px
        pixels = _Pixels.of(exposure)
        found, segments = self._extract(pixels, self.config.threshold)
        sources = SOURCE.empty(found.size)
        sources["id"] = np.arange(1, found.size + 1)
        sources["peak"] = found["peak"]
        moments = pixels.moments(found["x"], found["y"], fwhm / FWHM_PER_SIGMA)
        _fill_shapes(sources, moments)
        self._fill_apertures(sources, pixels, fwhm)
        _fill_flags(sources, found, segments, exposure, fwhm)
        sources["flag_blended"] |= self._has_neighbour(sources, fwhm)
        return sources

    def seeing(self, exposure: Exposure) -> float:
        """FWHM in pixels at which most bright sources agree; TaskError when there are none."""
        ny = exposure.shape[0]
        if ny > 4 * MIN_SEEING_ROWS:
            fwhm = self._profiles(exposure, slice(3 * ny // 8, 5 * ny // 8))
            if fwhm.size >= ENOUGH_PROFILES:
                return densest(fwhm, width=0.05)
        fwhm = self._profiles(exposure, slice(None))
        if fwhm.size == 0:
            raise TaskError("no unsaturated source has a measurable profile")
        return densest(fwhm, width=0.05)

    def _profiles(self, exposure: Exposure, rows: slice) -> Floats:
        """FWHM of the brightest unsaturated sources in some rows of the image."""
        pixels = _Pixels.of(exposure, rows)
        found, segments = self._extract(pixels, self.config.seeing_threshold)
        unsaturated = np.ones(found.size, bool)
        unsaturated[_touched(segments, has(exposure.mask[rows], MaskPlane.SAT))] = False
        brightest = np.argsort(-found["flux"] * unsaturated, kind="stable")
        bright = found[brightest[: min(self.config.seeing_sources, unsaturated.sum())]]
        moments = pixels.moments(bright["x"], bright["y"], UNKNOWN_SIGMA_PX)
        fwhm = _fwhm(moments)
        return fwhm[np.isfinite(fwhm) & (moments[:, 7] > 0)]

    def _extract(self, pixels: "_Pixels", threshold: float) -> tuple[Catalog, Image]:
        threshold, above = self._bearable(pixels, threshold)
        sep.set_extract_pixstack(max(300_000, above + pixels.image.size // 8))
        sep.set_sub_object_limit(20_000)
        found, segments = sep.extract(
            pixels.image,
            threshold,
            err=pixels.noise,
            mask=pixels.unusable,
            minarea=self.config.min_area_px,
            deblend_nthresh=self.config.deblend_levels,
            deblend_cont=self.config.deblend_contrast,
            filter_type="conv",
            clean=False,
            segmentation_map=True,
        )
        if found.size == 0:
            raise TaskError(
                f"no source above {threshold:g} sigma per pixel in "
                f"{np.count_nonzero(~pixels.unusable)} usable pixels"
            )
        return found, segments

    def _bearable(self, pixels: "_Pixels", threshold: float) -> tuple[float, int]:
        """A threshold, as low as wanted or crowding permits, and how many pixels lie above."""
        limit = self.config.max_pixel_fraction * pixels.image.size
        for factor in (1.0, 2.0, 4.0, 8.0):
            above = int(np.count_nonzero(pixels.image > factor * threshold * pixels.noise))
            if above <= limit:
                return factor * threshold, above
        raise TaskError(
            f"{above / pixels.image.size:.0%} of the pixels lie more than "
            f"{8 * threshold:g} sigma above zero; background or variance must be wrong"
        )

    def _fill_apertures(self, sources: Catalog, pixels: "_Pixels", fwhm: float) -> None:
        flux, error, _ = sep.sum_circle(
            pixels.image,
            sources["x"],
            sources["y"],
            self.config.aperture_fwhm * fwhm,
            var=pixels.variance,
            mask=pixels.unusable,
        )
        sources["apFlux"], sources["apFluxErr"] = flux, error

    def _has_neighbour(self, sources: Catalog, fwhm: float) -> Bools:
        tree = cKDTree(np.stack([sources["x"], sources["y"]], axis=1))
        pairs = tree.query_pairs(self.config.blend_radius_fwhm * fwhm, output_type="ndarray")
        blended = np.zeros(sources.size, bool)
        light = sources["peak"]
        for a, b in ((0, 1), (1, 0)):
            one, other = pairs[:, a], pairs[:, b]
            blended[one[light[other] > self.config.blend_flux_ratio * light[one]]] = True
        return blended


@dataclass(frozen=True, slots=True, eq=False)
class _Pixels:
    """The planes as the loops want them: contiguous, without nan or inf."""

    image: Image
    variance: Image
    noise: Image
    unusable: Bools

    @classmethod
    def of(cls, exposure: Exposure, rows: slice = slice(None)) -> "_Pixels":
        """The planes of some rows; raises NoUsablePixels when nothing is left."""
        image = np.ascontiguousarray(exposure.image[rows], np.float32)
        mask = np.ascontiguousarray(exposure.mask[rows], np.int32)
        variance = np.ascontiguousarray(exposure.variance[rows], np.float32)
        empty = np.empty_like
        pixels = cls(empty(image), empty(image), empty(image), np.empty(image.shape, bool))

        def work(first: int, end: int) -> None:
            part = slice(first, end)
            clean_pixels(
                image[part],
                mask[part],
                variance[part],
                DEFECTS.value,
                MaskPlane.INTRP.value,
                MaskPlane.NO_DATA.value,
                pixels.image[part],
                pixels.variance[part],
                pixels.noise[part],
                pixels.unusable[part],
            )

        over_strips(work, image.shape[0], 256)
        if pixels.unusable.all():
            raise NoUsablePixels("the image", "every pixel is masked or without variance")
        return pixels

    def moments(self, x: Floats, y: Floats, sigma: float) -> Floats:
        """(n, COLUMNS) as the kernel describes them."""
        x, y = np.ascontiguousarray(x, float), np.ascontiguousarray(y, float)
        out = np.empty((x.size, COLUMNS))

        def work(first: int, end: int) -> None:
            part = slice(first, end)
            measure_moments(
                self.image,
                self.variance,
                self.unusable,
                x[part],
                y[part],
                sigma,
                max(4.0 * sigma, 6.0),
                out[part],
            )

        if x.size:
            over_strips(work, x.size, 512)
        return out


def unusable(image: Image, mask: Mask, variance: Image) -> Bools:
    """True where nothing can be measured: no data, or a defect left as it was."""
    raw_defect = has(mask, DEFECTS) & ~has(mask, MaskPlane.INTRP)
    known = np.isfinite(image) & np.isfinite(variance) & (variance > 0)
    return raw_defect | has(mask, MaskPlane.NO_DATA) | ~known


def densest(values: Floats, width: float) -> float:
    """The value around which most values lie, in logarithm, within about ``width``.

    Mode of a Gaussian kernel density, then the median of what lies within twice the width.
    """
    logs = np.log(values[values > 0])
    if logs.size > 2000:
        logs = np.sort(logs)[:: logs.size // 2000 + 1]
    density = np.exp(-0.5 * ((logs[:, None] - logs[None, :]) / width) ** 2).sum(axis=1)
    mode = logs[np.argmax(density)]
    return float(np.exp(np.median(logs[np.abs(logs - mode) <= 2 * width])))


def _fwhm(moments: Floats) -> Floats:
    area = moments[:, 4] * moments[:, 5] - moments[:, 6] ** 2
    fwhm: Floats = FWHM_PER_SIGMA * np.clip(area, 0, None) ** 0.25
    return fwhm


def _fill_shapes(sources: Catalog, moments: Floats) -> None:
    for column, name in enumerate(("x", "y", "xErr", "yErr")):
        sources[name] = moments[:, column]
    good = moments[:, 7] > 0
    for column, name in ((4, "ixx"), (5, "iyy"), (6, "ixy")):
        sources[name] = np.where(good, moments[:, column], np.nan)
    sources["fwhm"] = np.where(good, _fwhm(moments), np.nan)


def _fill_flags(
    sources: Catalog, found: Catalog, segments: Image, exposure: Exposure, fwhm: float
) -> None:
    ny, nx = exposure.shape
    sources["flag_saturated"][_touched(segments, has(exposure.mask, MaskPlane.SAT))] = True
    sources["flag_blended"] = (found["flag"] & sep.OBJ_MERGED) != 0
    margin = fwhm
    x, y = sources["x"], sources["y"]
    sources["flag_edge"] = (
        (np.minimum(x, y) < margin)
        | (x > nx - 1 - margin)
        | (y > ny - 1 - margin)
        | ((found["flag"] & sep.OBJ_TRUNC) != 0)
    )
    sources["flag_bad"] = _near(has(exposure.mask, DEFECTS), x, y, max(1, round(fwhm / 2)))


def _touched(segments: Image, pixels: Bools) -> Ints:
    """Row numbers of the sources with one of the pixels in their footprint."""
    ids = np.unique(segments[pixels])
    return ids[ids > 0].astype(np.int64) - 1


def _near(pixels: Bools, x: Floats, y: Floats, reach: int) -> Bools:
    """Whether one of the pixels lies within ``reach`` of the position, along both axes."""
    ny, nx = pixels.shape
    cx, cy = np.rint(x).astype(int), np.rint(y).astype(int)
    near = np.zeros(x.size, bool)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            near |= pixels[np.clip(cy + dy, 0, ny - 1), np.clip(cx + dx, 0, nx - 1)]
    return near
