"""Simulated pairs of science image and template, everything about them known.

Electrons throughout (1 electron counts as 1 nJy). Moffat PSFs of beta 3 that vary over the
field; stars, and exponential discs convolved exactly with the PSF, so that what a subtraction
leaves is never the simulator's fault. Every pair has: science FWHM varying by 8 % over the
field, registration changing by 0.1 px from side to side, a flux ratio and a background that
change over the field, a template of nine science-like exposures, saturated stars with bleed
trails, transients of S/N 3 to 50 of which a third sit on galaxies, negative ones, and
cosmic rays that nothing has masked.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from promptdia.tasks.kernels.render import add_stamps
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image, Mask
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.exposure import Exposure, ScienceExposure, TemplateExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.photo_calib import PhotoCalib
from promptdia.tasks.model.psf import GridPsf, effective_area
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import nominal_wcs
from promptdia.tasks.parallel import over_strips

SKY, READ_NOISE, DEPTH, SATURATION = 875.0, 9.0, 9.0, 1e5
ZERO_POINT = 32.0
"""AB magnitude of one electron: 24 mag are 1,600 electrons, S/N about 8."""
OVERSAMPLING = 4
DISC_RADII = (0.0, 1.0, 2.2, 4.0)
"""Scale lengths in pixels; 0 is a star."""
FAINT_HALF, BRIGHT_HALF = 20, 64
BRIGHT = 2e5
"""Electrons from which the far wings are drawn."""
NODES = 3
PSF_SIZE = 35


@dataclass(frozen=True)
class Kind:
    """What sets a pair apart."""

    name: str
    objects_to_24: int
    """On 4096 x 4096 pixels, stars and galaxies."""
    star_fraction: float
    fwhm_science: float
    fwhm_template: float


KINDS = (
    Kind("sparse", 5_200, 0.4, 3.75, 3.25),
    Kind("worse", 5_200, 0.4, 3.25, 3.75),
    Kind("crowded", 60_000, 0.9, 3.75, 3.25),
)


@dataclass(frozen=True, eq=False)
class Pair:
    """What is given to a method, and what is true."""

    kind: Kind
    science: ScienceExposure
    template: TemplateExposure
    sources: Catalog
    """The science image's catalogue, SOURCE rows above S/N 10."""
    truth: Catalog
    """Transients: x, y, flux (signed, electrons), on_galaxy."""
    bright: Floats
    """(n, 2) x, y of unsaturated stars of S/N above 200."""
    objects: Floats
    """(n, 2) x, y of everything brighter than 24 mag."""
    rays: Floats
    """(n, 2) x, y of the pixels of cosmic rays."""
    empty: Bools
    """Pixels without noticeable light."""
    science_noise: Image
    template_noise: Image
    """What was drawn of it: the oracle's only handicap."""
    change: Image
    """Noiseless transients, as the science image shows them."""


TRUTH = np.dtype([("x", float), ("y", float), ("flux", float), ("on_galaxy", bool)])


def make_pair(kind: Kind, side: int, seed: int) -> Pair:
    """One pair of ``side`` x ``side`` pixels."""
    rng = np.random.default_rng([seed, side, [k.name for k in KINDS].index(kind.name)])
    area = (side / 4096) ** 2
    optics = [
        _Optics(fwhm, side, tilt)
        for fwhm, tilt in ((kind.fwhm_science, 0.04), (kind.fwhm_template, -0.02))
    ]
    sky = _population(rng, side, round(kind.objects_to_24 * area), kind.star_fraction)
    ratio = 0.97 * (1 + 0.01 * _unit(sky["x"], side) + 0.008 * _unit(sky["y"], side))
    moved = _registration(sky["x"], sky["y"], side)
    static = optics[0].draw(sky["x"], sky["y"], sky["flux"], sky["disc"])
    older = optics[1].draw(*moved, sky["flux"] / ratio, sky["disc"])
    truth = _transients(rng, sky, optics[0], side, max(20, round(200 * area)))
    new, gone = truth[truth["flux"] > 0], truth[truth["flux"] < 0]
    appeared = optics[0].draw_points(new["x"], new["y"], new["flux"])
    change = appeared + optics[0].draw_points(gone["x"], gone["y"], gone["flux"])
    science_model = static + appeared
    template_model = older + optics[1].draw_points(gone["x"], gone["y"], -gone["flux"] / 0.97)
    science_sd = np.sqrt(science_model + SKY + READ_NOISE**2)
    template_sd = np.sqrt((template_model + SKY + READ_NOISE**2) / DEPTH)
    science_noise, template_noise = (
        rng.standard_normal((side, side), np.float32) * sd for sd in (science_sd, template_sd)
    )
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    background = 3 + 2 * ramp[:, None] - 1.5 * ramp[None, :] + ramp[:, None] * ramp[None, :]
    saturated = _saturated(science_model), _saturated(template_model)
    rays, charge = _rays(rng, side, max(3, round(30 * area)))
    science_image = science_model + science_noise + background
    science_image[rays[:, 1], rays[:, 0]] += charge
    planes = (
        (science_image, 1.0, saturated[0]),
        (template_model + template_noise, DEPTH, saturated[1]),
    )
    made = [_exposure(side, *plane, o.psf()) for plane, o in zip(planes, optics)]
    catalogue = _catalogue(sky, truth, optics[0], made[0].mask, side)
    light = ndimage.uniform_filter(static[::2, ::2], 7) < 2.0
    signal = sky["flux"] / np.sqrt(_sky_variance(optics[0], sky["x"], sky["y"]) + sky["flux"])
    inside = (np.abs(_unit(sky["x"], side)) < 0.97) & (np.abs(_unit(sky["y"], side)) < 0.97)
    bright = (signal > 200) & (sky["disc"] == 0) & inside
    seen = sky["flux"] > _electrons(24.0)
    return Pair(
        kind,
        ScienceExposure.of(made[0]),
        TemplateExposure.of(made[1]),
        catalogue,
        truth,
        np.stack([sky["x"], sky["y"]], 1)[bright],
        np.stack([sky["x"], sky["y"]], 1)[seen],
        rays.astype(float),
        np.repeat(np.repeat(light, 2, 0), 2, 1)[:side, :side],
        science_noise,
        template_noise,
        change,
    )


def sky_variance(psf: GridPsf, x: Floats, y: Floats) -> Floats:
    """(n,) variance of a PSF flux on empty sky of the science image."""
    result: Floats = (SKY + READ_NOISE**2) * effective_area(psf.stamps(x, y))
    return result


class _Optics:
    """A PSF that is bilinear between 3 x 3 nodes, and objects seen through it."""

    def __init__(self, fwhm: float, side: int, tilt: float) -> None:
        self.side = side
        self.at = np.linspace(0, side - 1, NODES)
        unit = np.linspace(-1, 1, NODES)
        self.profiles = [
            (fwhm * (1 + tilt * u), 0.03 * v * np.sign(tilt)) for v in unit for u in unit
        ]
        self.discs = _plates(self.profiles, DISC_RADII, FAINT_HALF)
        self.wings = _plates(self.profiles, (0.0,), BRIGHT_HALF)

    def psf(self) -> GridPsf:
        """The true PSF as stamps."""
        stamps = []
        for node in range(NODES**2):
            one = np.zeros((PSF_SIZE, PSF_SIZE), np.float32)
            middle = np.array([PSF_SIZE // 2], float)
            plate, weight = np.full((1, 4), node), np.array([[1.0, 0, 0, 0]])
            add_stamps(one, middle, middle, plate, weight, self.discs, OVERSAMPLING, PSF_SIZE // 2)
            stamps.append(one / one.sum())
        nodes = np.stack(stamps).reshape(NODES, NODES, PSF_SIZE, PSF_SIZE).astype(float)
        return GridPsf(nodes, self.at, self.at)

    def draw(self, x: Floats, y: Floats, flux: Floats, disc: np.ndarray) -> Image:
        """Noiseless image of point sources and discs (``disc`` is a row of DISC_RADII)."""
        image = np.zeros((self.side, self.side), np.float32)
        node, mix = self._nodes(x, y)
        weight = mix * flux[:, None]
        large = (np.abs(flux) > BRIGHT) & (disc == 0)
        for some, plates, half, plate in (
            (~large, self.discs, FAINT_HALF, node + NODES**2 * disc[:, None]),
            (large, self.wings, BRIGHT_HALF, node),
        ):
            rows = np.flatnonzero(some)
            rows = rows[np.argsort(y[rows], kind="stable")]
            _draw_strips(image, x[rows], y[rows], plate[rows], weight[rows], plates, half)
        return image

    def draw_points(self, x: Floats, y: Floats, flux: Floats) -> Image:
        """Noiseless image of point sources."""
        return self.draw(x, y, flux, np.zeros(x.size, int))

    def _nodes(self, x: Floats, y: Floats) -> tuple[np.ndarray, Floats]:
        step = self.at[1]
        i, j = (np.clip((v // step).astype(int), 0, NODES - 2) for v in (x, y))
        u, v = (np.clip(p / step - k, 0.0, 1.0) for p, k in ((x, i), (y, j)))
        node = np.stack([j * NODES + i, j * NODES + i + 1], 1)
        node = np.concatenate([node, node + NODES], 1)
        mix = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v], 1)
        return node, mix


def _draw_strips(
    image: Image,
    x: Floats,
    y: Floats,
    plate: np.ndarray,
    weight: Floats,
    plates: np.ndarray,
    half: int,
) -> None:
    """Objects sorted by y, on all threads: each strip of rows is drawn by one of them."""

    def work(first: int, end: int) -> None:
        rows = slice(*np.searchsorted(y, (first - half - 1, end + half + 1)))
        add_stamps(
            image[first:end], x[rows], y[rows] - first, plate[rows], weight[rows], plates,
            OVERSAMPLING, half,
        )  # fmt: skip

    over_strips(work, image.shape[0], 512)


def _plates(profiles: list[tuple[float, float]], radii: tuple[float, ...], half: int) -> np.ndarray:
    """(len(radii) x len(profiles), m, m) spline coefficients of light per pixel.

    What a PSF stamp holds of a point source counts as its flux.
    """
    m = 2 * OVERSAMPLING * (half + 1) + 5
    m += 1 - m % 2
    r = (np.arange(m) - m // 2) / OVERSAMPLING
    middle, reach = m // 2, PSF_SIZE * OVERSAMPLING // 2
    held = slice(middle - reach, middle + reach + 1)
    plates = []
    for radius in radii:
        disc = np.exp(-np.hypot(r[:, None], r) / radius) if radius else None
        for fwhm, ellipticity in profiles:
            alpha = fwhm / (2 * np.sqrt(2 ** (1 / 3) - 1))
            p = (r[None, :] / (1 + ellipticity)) ** 2 + (r[:, None] * (1 + ellipticity)) ** 2
            star = 2 / (np.pi * alpha**2) * (1 + p / alpha**2) ** -3
            star *= OVERSAMPLING**2 / star[held, held].sum()
            if disc is not None:
                star = _convolved(star, disc / disc.sum())
            plates.append(ndimage.spline_filter(star, order=3).astype(np.float32))
    return np.stack(plates)


def _convolved(image: Floats, kernel: Floats) -> Floats:
    side = fft.next_fast_len(2 * image.shape[0], real=True)
    product = fft.rfft2(image, (side, side)) * fft.rfft2(kernel, (side, side))
    middle = image.shape[0] // 2
    result: Floats = fft.irfft2(product, (side, side))[middle:, middle:]
    return result[: image.shape[0], : image.shape[1]]


def _population(rng: np.random.Generator, side: int, n_24: int, star_fraction: float) -> Catalog:
    """Counts rise by 10**0.25 per magnitude from 15 to 26 (a quarter of them past 24)."""
    slope = 0.25
    faintest, brightest = 25.5, 15.0
    n = round(n_24 * 10 ** (slope * (faintest - 24.0)))
    low = 10 ** (slope * (brightest - faintest))
    mag = faintest + np.log10(rng.uniform(low, 1, n)) / slope
    sky = np.zeros(n, [("x", float), ("y", float), ("flux", float), ("disc", int)])
    sky["x"], sky["y"] = rng.uniform(-20, side + 20, (2, n))
    sky["flux"] = _electrons(mag)
    # no galaxy outshines 18.5 mag
    star = (rng.random(n) < star_fraction) | (mag < 18.5)
    sky["disc"] = np.where(star, 0, rng.integers(1, len(DISC_RADII), n))
    return sky


def _electrons(mag: Floats | float) -> Floats:
    result: Floats = 10 ** (0.4 * (ZERO_POINT - np.asarray(mag)))
    return result


def _unit(v: Floats, side: int) -> Floats:
    return 2 * v / side - 1


def _registration(x: Floats, y: Floats, side: int) -> tuple[Floats, Floats]:
    """Positions in the template: 0.1 px of difference from left to right, some curvature."""
    u, v = _unit(x, side), _unit(y, side)
    return x + 0.05 * u + 0.01 * v**2, y - 0.03 * v + 0.01 * u * v


def _transients(
    rng: np.random.Generator, sky: Catalog, optics: _Optics, side: int, n: int
) -> Catalog:
    """Positive ones, a third on galaxies, and a tenth as many negative ones."""
    truth = np.zeros(n + max(2, n // 10), TRUTH)
    truth["x"], truth["y"] = rng.uniform(40, side - 40, (2, truth.size))
    inside = (np.abs(sky["x"] - side / 2) < side / 2 - 40) & (
        np.abs(sky["y"] - side / 2) < side / 2 - 40
    )
    hosts = np.flatnonzero((sky["disc"] > 0) & (sky["flux"] > _electrons(24.0)) & inside)
    hosts = rng.choice(hosts, min(n // 3, hosts.size), replace=False)
    rows = slice(0, hosts.size)
    truth["on_galaxy"][rows] = True
    for axis in "xy":
        truth[axis][rows] = sky[axis][hosts] + rng.normal(0, 1.5, hosts.size)
    snr = np.exp(rng.uniform(np.log(3), np.log(50), truth.size))
    noise = _sky_variance(optics, truth["x"], truth["y"]) * (1 + 1 / DEPTH)
    truth["flux"] = 0.5 * (snr**2 + np.sqrt(snr**4 + 4 * snr**2 * noise))
    truth["flux"][n:] *= -1
    return truth


def _sky_variance(optics: _Optics, x: Floats, y: Floats) -> Floats:
    return sky_variance(optics.psf(), x, y)


def _saturated(model: Image) -> Bools:
    """Saturated cores grown by 6 px, and bleed trails whose length goes with the excess."""
    over = model + SKY > SATURATION
    labels, _ = ndimage.label(over)
    grown = ndimage.binary_dilation(over, ndimage.generate_binary_structure(2, 1), 6)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[box] == label
        excess = float((model[box][inside] - SATURATION).sum()) / SATURATION
        x = (box[1].start + box[1].stop - 1) // 2
        half = int(excess / 6)
        y = (box[0].start + box[0].stop) // 2
        grown[max(0, y - half) : y + half + 1, max(0, x - 1) : x + 2] = True
    return np.asarray(grown, np.bool_)


def _rays(rng: np.random.Generator, side: int, n: int) -> tuple[np.ndarray, Floats]:
    """Pixels (x, y) and electrons of straight tracks."""
    pixels, charge = [], []
    for _ in range(n):
        length, angle = rng.integers(1, 25), rng.uniform(0, np.pi)
        start = rng.uniform(30, side - 30, 2)
        along = np.arange(length)[:, None] * np.array([np.cos(angle), np.sin(angle)])
        pixels.append(np.rint(start + along).astype(int).clip(0, side - 1))
        charge.append(np.full(length, rng.uniform(300, 5000)))
    return np.concatenate(pixels), np.concatenate(charge)


def _exposure(side: int, image: Image, depth: float, saturated: Bools, psf: GridPsf) -> Exposure:
    """Variance from the noisy counts, as a pipeline has it."""
    mask: Mask = np.where(saturated, MaskPlane.SAT.value, 0).astype(np.int32)
    variance = (np.maximum(image, 0) + (SKY + READ_NOISE**2)) / depth
    visit = Visit(2026010100001, "r", 61041.0, 30.0, 150.0, 2.0)
    detector = Detector(0, "sim", side, side, 0.2, ())
    image = np.minimum(image, SATURATION)
    wcs = nominal_wcs(visit, detector)
    planes = image.astype(np.float32), mask, variance.astype(np.float32)
    return Exposure(*planes, wcs, visit, detector, psf, PhotoCalib(1.0))


def _catalogue(sky: Catalog, truth: Catalog, optics: _Optics, mask: Mask, side: int) -> Catalog:
    """Objects and new sources above S/N 10, flags as the source finder sets them."""
    new = truth[truth["flux"] > 0]
    x, y, flux, disc = (
        np.concatenate([sky[name], new[name] if name != "disc" else np.zeros(new.size, int)])
        for name in ("x", "y", "flux", "disc")
    )
    error = np.sqrt(_sky_variance(optics, x, y) + flux)
    inside = (x > 1) & (x < side - 2) & (y > 1) & (y < side - 2)
    kept = inside & (flux > 10 * error)
    neighbours = cKDTree(np.stack([x, y], 1)[flux > 3 * error])
    near = neighbours.query_ball_point(np.stack([x, y], 1)[kept], 10.0, return_length=True)
    rows = SOURCE.empty(int(kept.sum()))
    rows["id"] = np.arange(1, rows.size + 1)
    rows["x"], rows["y"] = x[kept], y[kept]
    rows["psfFlux"], rows["psfFluxErr"] = flux[kept], error[kept]
    rows["extendedness"] = disc[kept] > 0
    column, line = np.rint(x[kept]).astype(int), np.rint(y[kept]).astype(int)
    rows["flag_saturated"] = (mask[line, column] & MaskPlane.SAT.value) != 0
    rows["flag_blended"] = near > 1
    return rows
