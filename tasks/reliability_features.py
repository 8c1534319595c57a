"""What the reliability model looks at: 60-odd numbers for each detection.

All are free of units: fluxes count in noise, lengths in FWHM. A source and its
negative have the same features: the difference is multiplied by the source's sign, and
"brighter" is the visit for a positive source, the template for a negative one.
"""

from collections.abc import Mapping

import numpy as np

from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure, TemplateExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.stamps import UNKNOWN, Stamps, cut_stamps, mean_fwhm_px

STAMPS_AT_ONCE = 256
"""Sources whose stamps are held in memory together."""

FLAGS = ("saturated", "suspect", "cr", "interpolated", "edge", "streak", "nodata")
"""pixelFlags_* columns that the model sees."""
MEASUREMENTS = (
    *("snr", "psfFlux", "psfFluxErr", "psfChi2", "psfNdata", "apFlux", "ixx", "iyy", "ixy"),
    *("ixxPSF", "iyyPSF", "extendedness", "trailLength", "isDipole", "dipoleLength"),
    *("dipoleFluxDiff", "dipoleMeanFlux", "scienceFlux", "scienceFluxErr", "templateFlux"),
    *("templateFluxErr", "bboxSize", "xErr", "yErr", "glint_trail"),
    *(f"pixelFlags_{name}" for name in FLAGS),
)
"""DIA_SOURCE columns that the model sees, besides isNegative."""
DIRECTIONS = np.deg2rad(np.arange(0.0, 180.0, 22.5))

Columns = dict[str, Floats]


def reliability_features(
    sources: Catalog,
    difference: DifferenceExposure,
    science: ScienceExposure,
    template: TemplateExposure,
) -> Floats:
    """(n, len(FEATURES)) for DIA_SOURCE rows; nan where a number cannot be had.

    The three exposures share the pixel grid; the template need not be PSF-matched.
    """
    rows = np.empty((len(sources), len(FEATURES)))
    seeing = mean_fwhm_px(template.psf, template.shape) / mean_fwhm_px(science.psf, science.shape)
    for first in range(0, len(sources), STAMPS_AT_ONCE):
        part = slice(first, first + STAMPS_AT_ONCE)
        stamps = cut_stamps(sources[part], difference, science, template)
        columns = {
            **_catalogue(sources[part], stamps),
            **_profile(stamps),
            **_surroundings(stamps),
            **_lines(stamps),
            **_images(stamps),
            **_subtraction(stamps),
            **_masks(stamps),
            "seeing_ratio": np.full(len(stamps.fwhm_px), seeing),
        }
        rows[part] = np.stack([columns[name] for name in FEATURES], axis=1)
    return rows


def _catalogue(sources: Catalog, stamps: Stamps) -> Columns:
    column = {name: sources[name].astype(float) for name in MEASUREMENTS}
    negative = np.asarray(sources["isNegative"], bool)
    visit = column["scienceFlux"], column["scienceFluxErr"]
    before = column["templateFlux"], column["templateFluxErr"]
    brighter = [np.where(negative, b, v) for v, b in zip(visit, before)]
    fainter = [np.where(negative, v, b) for v, b in zip(visit, before)]
    size, psf_size = column["ixx"] + column["iyy"], column["ixxPSF"] + column["iyyPSF"]
    psf_radius = np.sqrt(psf_size)
    return {
        "snr": np.abs(column["snr"]),
        "psf_snr": np.abs(_ratio(column["psfFlux"], column["psfFluxErr"])),
        "psf_chi2": _ratio(column["psfChi2"], column["psfNdata"]),
        "ap_to_psf": _ratio(column["apFlux"], column["psfFlux"]),
        "size": _ratio(size, psf_size),
        "ellipticity": _ratio(
            np.hypot(column["ixx"] - column["iyy"], 2.0 * column["ixy"]), np.abs(size)
        ),
        "extendedness": column["extendedness"],
        "trail_length": _ratio(column["trailLength"], psf_radius),
        "dipole": column["isDipole"],
        "dipole_length": _ratio(column["dipoleLength"], psf_radius),
        "dipole_balance": np.abs(_ratio(column["dipoleFluxDiff"], column["dipoleMeanFlux"])),
        "brighter_snr": _ratio(*brighter),
        "fainter_snr": _ratio(*fainter),
        "change_fraction": _ratio(np.abs(column["psfFlux"]), np.abs(brighter[0])),
        "box_size": column["bboxSize"] / stamps.fwhm_px,
        "centroid_error": np.hypot(column["xErr"], column["yErr"]) / stamps.fwhm_px,
        "glint": column["glint_trail"],
        **{f"flag_{name}": column[f"pixelFlags_{name}"] for name in FLAGS},
    }


def _profile(stamps: Stamps) -> Columns:
    """How the difference looks within 2.5 FWHM of the source."""
    change, r = stamps.change, stamps.distance
    core, inner = stamps.good & (r < 1.0), stamps.good & (r < 1.5)
    near = stamps.good & (r < 2.5)
    flux = {radius: _sum(change, stamps.good & (r < radius)) for radius in (0.5, 1.0, 1.5, 2.5)}
    peak = _max(change, core)
    lowest = -_max(-change, near)
    absolute = _sum(np.abs(change), inner)
    turned = np.abs(change - change[:, ::-1, ::-1])
    model = _fit(change, stamps.psf, inner)
    residual = change - model[:, None, None] * stamps.psf
    positive = np.where(inner, np.maximum(change, 0.0), 0.0)
    return {
        "peak": peak,
        "core_share": _ratio(flux[0.5], flux[1.0]),
        "growth_15": _ratio(flux[1.5], flux[1.0]),
        "growth_25": _ratio(flux[2.5], flux[1.0]),
        "sharpness": _sharpness(change, core),
        "psf_match": _cosine(change, stamps.psf, inner),
        "psf_residual": _mean(residual**2, core),
        "turned": _ratio(_sum(turned, inner), absolute),
        "balance": _ratio(flux[1.5], absolute),
        "lowest": lowest,
        "lowest_to_peak": _ratio(lowest, peak),
        "lowest_distance": _where_max(-change, near, r),
        "negative_share": _mean((change < -2.0).astype(np.float32), near),
        **_moments(positive, stamps),
    }


def _moments(positive: Image, stamps: Stamps) -> Columns:
    """Centroid and second moments of the positive pixels."""
    total = positive.sum(axis=(1, 2))
    x, y = (_ratio((positive * v).sum(axis=(1, 2)), total) for v in (stamps.dx, stamps.dy))
    u = stamps.dx - x[:, None, None].astype(np.float32)
    v = stamps.dy - y[:, None, None].astype(np.float32)
    xx, yy, xy = (_ratio((positive * p).sum(axis=(1, 2)), total) for p in (u * u, v * v, u * v))
    return {
        "offset": np.hypot(x, y),
        "spread": xx + yy,
        "stretch": _ratio(np.hypot(xx - yy, 2.0 * xy), xx + yy),
    }


def _surroundings(stamps: Stamps) -> Columns:
    """The difference between 1.5 and 3.5 FWHM from the source."""
    ring = stamps.good & (stamps.distance > 1.5) & (stamps.distance < 3.5)
    mean = _mean(stamps.change, ring)
    return {
        "ring_mean": mean,
        "ring_rms": np.sqrt(_mean(stamps.change**2, ring)),
        "ring_max": _max(stamps.change, ring),
        "ring_positive": _mean((stamps.change > 3.0).astype(np.float32), ring),
        "ring_negative": _mean((stamps.change < -3.0).astype(np.float32), ring),
    }


def _lines(stamps: Stamps) -> Columns:
    """Significance of straight features through the source, outside its core."""
    ring = stamps.good & (stamps.distance > 1.25) & (stamps.distance < 3.5)
    across = [
        np.abs(stamps.dx * np.float32(np.sin(a)) - stamps.dy * np.float32(np.cos(a)))
        for a in DIRECTIONS
    ]
    excess = np.stack([_excess(stamps.change, ring & (d < 0.3)) for d in across])
    pixel = (0.5 / stamps.fwhm_px).astype(np.float32)[:, None, None]
    return {
        "line_max": excess.max(axis=0),
        "line_min": excess.min(axis=0),
        "line_contrast": excess.max(axis=0) - np.median(excess, axis=0),
        "column": _excess(stamps.change, ring & (np.abs(stamps.dx) <= pixel)),
        "row": _excess(stamps.change, ring & (np.abs(stamps.dy) <= pixel)),
    }


def _images(stamps: Stamps) -> Columns:
    """The source and its neighbours in the two images."""
    r = stamps.distance
    inside, ring = r < 3.5, (r > 1.5) & (r < 3.5)
    columns: Columns = {}
    for name, image in (("brighter", stamps.brighter), ("fainter", stamps.fainter)):
        columns[f"{name}_peak"] = _max(image, r < 1.0)
        columns[f"{name}_max"] = _max(image, inside)
        columns[f"{name}_max_distance"] = _where_max(image, inside, r)
        columns[f"{name}_ring"] = _mean(image, ring)
        columns[f"{name}_core_share"] = _ratio(_sum(image, r < 0.5), _sum(image, r < 1.5))
    columns["noise_ratio"] = _ratio(stamps.fainter_noise, stamps.brighter_noise)
    columns["change_noise_ratio"] = _ratio(
        stamps.change_noise, np.hypot(stamps.brighter_noise, stamps.fainter_noise)
    )
    return columns


def _subtraction(stamps: Stamps) -> Columns:
    """How much of the difference looks like light subtracted amiss.

    A wrong position leaves the gradient of the other image, a wrong PSF its Laplacian, a
    wrong flux scale the image itself.
    """
    light = stamps.fainter
    good = stamps.good & (stamps.distance < 2.0)
    along_y, along_x = (np.asarray(g, np.float32) for g in np.gradient(light, axis=(1, 2)))
    curvature = -4.0 * light
    for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
        curvature += np.roll(light, shift, axis)
    return {
        "like_light": _cosine(stamps.change, light, good),
        "like_gradient": np.hypot(
            _cosine(stamps.change, along_x, good), _cosine(stamps.change, along_y, good)
        ),
        "like_curvature": _cosine(stamps.change, curvature, good),
    }


def _masks(stamps: Stamps) -> Columns:
    r, everywhere = stamps.distance, np.ones(stamps.good.shape, bool)
    unknown = ((stamps.mask & UNKNOWN.value) != 0).astype(np.float32)
    saturated = _has(stamps, MaskPlane.SAT | MaskPlane.SAT_TEMPLATE)
    farthest = float(r.max()) if r.size else 0.0
    to_saturated = np.where(saturated, r, farthest).min(axis=(1, 2))
    return {
        "unknown_core": _mean(unknown, r < 1.0),
        "unknown": _mean(unknown, everywhere),
        "saturated": _mean(saturated.astype(np.float32), everywhere),
        "saturated_distance": np.minimum(to_saturated, 5.0).astype(float),
        "repaired": _mean(_has(stamps, MaskPlane.CR | MaskPlane.INTRP).astype(np.float32), r < 1.5),
        "near_bright": _mean(
            _has(stamps, MaskPlane.NEAR_BRIGHT | MaskPlane.SPIKE).astype(np.float32), r < 1.5
        ),
        "fwhm": stamps.fwhm_px,
    }


def _has(stamps: Stamps, planes: MaskPlane) -> Bools:
    found: Bools = (stamps.mask & planes.value) != 0
    return found


def _ratio(part: Floats, whole: Floats) -> Floats:
    """nan where the divisor is 0 or either is unknown."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    result: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
    return result


def _sum(image: Image, where: Bools) -> Floats:
    result: Floats = np.einsum("nij,nij->n", image, where, dtype=np.float64)
    return result


def _mean(image: Image, where: Bools) -> Floats:
    return _ratio(_sum(image, where), where.sum(axis=(1, 2)))


def _excess(image: Image, where: Bools) -> Floats:
    """Sum over the pixels in units of its noise, each pixel having noise 1; 0 for no pixel."""
    number = np.maximum(where.sum(axis=(1, 2)), 1)
    result: Floats = _sum(image, where) / np.sqrt(number)
    return result


def _max(image: Image, where: Bools) -> Floats:
    """nan where there is no pixel."""
    highest = np.where(where, image, -np.inf).max(axis=(1, 2)).astype(float)
    return np.where(np.isfinite(highest), highest, np.nan)


def _where_max(image: Image, where: Bools, distance: Image) -> Floats:
    """Distance of the highest pixel; nan where there is no pixel."""
    flat = np.where(where, image, -np.inf).reshape(len(image), -1)
    place = flat.argmax(axis=1)
    found = distance.reshape(len(image), -1)[np.arange(len(image)), place].astype(float)
    return np.where(where.any(axis=(1, 2)), found, np.nan)


def _sharpness(change: Image, core: Bools) -> Floats:
    """1 - (mean of the eight pixels around the highest) / (the highest); 1 for one hot pixel."""
    side = change.shape[1]
    inner = core.copy()
    inner[:, [0, -1]] = inner[:, :, [0, -1]] = False
    place = np.where(inner, change, -np.inf).reshape(len(change), -1).argmax(axis=1)
    row, column = np.clip(np.divmod(place, side), 1, side - 2)
    n = np.arange(len(change))
    around = sum(
        change[n, row + i, column + j].astype(float)
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    )
    return 1.0 - _ratio(np.asarray(around) / 8.0, change[n, row, column])


def _fit(image: Image, model: Image, where: Bools) -> Image:
    """(n,) least-squares amplitude of the model."""
    amplitude = _ratio(_sum(image * model, where), _sum(model * model, where))
    return np.nan_to_num(amplitude).astype(np.float32)


def _cosine(image: Image, model: Image, where: Bools) -> Floats:
    """Cosine of the angle between two images seen as vectors, -1 to 1; nan when one is 0."""
    norm = np.sqrt(_sum(image * image, where) * _sum(model * model, where))
    return _ratio(_sum(image * model, where), norm)


_GROUPS: Mapping[str, tuple[str, ...]] = {
    "catalogue": (
        *("snr", "psf_snr", "psf_chi2", "ap_to_psf", "size", "ellipticity", "extendedness"),
        *("trail_length", "dipole", "dipole_length", "dipole_balance", "brighter_snr"),
        *("fainter_snr", "change_fraction", "box_size", "centroid_error", "glint"),
        *(f"flag_{name}" for name in FLAGS),
    ),
    "profile": (
        *("peak", "core_share", "growth_15", "growth_25", "sharpness", "psf_match"),
        *("psf_residual", "turned", "balance", "lowest", "lowest_to_peak", "lowest_distance"),
        *("negative_share", "offset", "spread", "stretch"),
    ),
    "surroundings": ("ring_mean", "ring_rms", "ring_max", "ring_positive", "ring_negative"),
    "lines": ("line_max", "line_min", "line_contrast", "column", "row"),
    "images": (
        *("brighter_peak", "brighter_max", "brighter_max_distance", "brighter_ring"),
        *("brighter_core_share", "fainter_peak", "fainter_max", "fainter_max_distance"),
        *("fainter_ring", "fainter_core_share", "noise_ratio", "change_noise_ratio"),
    ),
    "subtraction": ("like_light", "like_gradient", "like_curvature"),
    "masks": (
        *("unknown_core", "unknown", "saturated", "saturated_distance", "repaired"),
        *("near_bright", "fwhm"),
    ),
    "visit": ("seeing_ratio",),
}
FEATURES: tuple[str, ...] = tuple(name for names in _GROUPS.values() for name in names)
"""Names of the columns of ``reliability_features``, in order."""
