from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import shift
from scipy.signal import fftconvolve
from support.pairs import Pair, Seeing, exposure_on, simulate_pair

from promptdia.tasks.errors import NoWork, TooFewStars
from promptdia.tasks.matching_kernel import KernelConfig
from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.exposure import DifferenceExposure, TemplateExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.parallel import get_threads, set_threads
from promptdia.tasks.resampling import RESAMPLED
from promptdia.tasks.subtract import SubtractConfig, Subtraction, SubtractTemplate, WrongTemplate
from promptdia.tasks.warp import warp

SHARP, BLURRED = Seeing(3.25, 0.0), Seeing(3.75, 0.03)
ORDERS = {"template sharper": (BLURRED, SHARP), "template worse": (SHARP, BLURRED)}


@lru_cache(maxsize=4)
def pair(order: str, seed: int = 1) -> Pair:
    science, template = ORDERS[order]
    return simulate_pair(seed, 768, 260, science, template, n_transients=120)


@lru_cache(maxsize=4)
def subtracted(order: str, seed: int = 1) -> Subtraction:
    p = pair(order, seed)
    return SubtractTemplate(SubtractConfig()).run(p.science, p.template, p.sources)


def psf_fluxes(difference: DifferenceExposure, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Flux and error of each source with the difference's PSF, sky-limited."""
    psf = difference.require_psf()
    half = min(psf.size // 2, 10)
    rows = []
    for a, b in zip(x, y):
        i, j = round(a), round(b)
        stamp = psf.stamps(np.array([a]), np.array([b]))[0]
        stamp = shift(stamp, (b - j, a - i), order=5)
        core = slice(psf.size // 2 - half, psf.size // 2 + half + 1)
        stamp = stamp[core, core]
        box = (slice(j - half, j + half + 1), slice(i - half, i + half + 1))
        power = (stamp**2).sum()
        flux = (difference.image[box] * stamp).sum() / power
        rows.append((flux, np.sqrt(np.median(difference.variance[box]) / power)))
    return tuple(np.array(rows).T)  # type: ignore[return-value]


def snr_map(difference: DifferenceExposure) -> Floats:
    stamp = difference.require_psf().stamps(np.array([300.0]), np.array([300.0]))[0]
    image = np.where(np.isfinite(difference.variance), difference.image, 0)
    typical = np.median(difference.variance)
    variance = np.where(np.isfinite(difference.variance), difference.variance, typical)
    noise = fftconvolve(variance, stamp[::-1, ::-1] ** 2, mode="same")
    signal = fftconvolve(image, stamp[::-1, ::-1], mode="same")
    result: Floats = signal / np.sqrt(np.maximum(noise, 0.01 * typical * (stamp**2).sum()))
    return result


def empty_sky(p: Pair) -> np.ndarray:
    light = fftconvolve(p.clean_science, np.ones((15, 15)), mode="same")
    empty: np.ndarray = light < 15 * 15 * 2.0
    empty[:12], empty[-12:], empty[:, :12], empty[:, -12:] = False, False, False, False
    return empty


def scatter(values: Floats) -> float:
    low, high = np.percentile(values, [25, 75])
    return float((high - low) / 1.349)


@pytest.mark.parametrize("order", ORDERS)
def test_noise_on_empty_sky_is_white_and_as_the_variance_says(order):
    p, result = pair(order), subtracted(order)
    empty = empty_sky(p)
    z = result.difference.image / np.sqrt(result.difference.variance)
    assert_allclose(scatter(z[empty]), 1.0, atol=0.02)
    assert_allclose(scatter(snr_map(result.difference)[empty]), 1.0, atol=0.05)
    both = empty[:, 1:] & empty[:, :-1]
    assert abs(np.mean((z[:, 1:] * z[:, :-1])[both])) < 0.01
    assert_allclose(result.metrics["noise"], 1.0, atol=0.02)
    assert_allclose(result.metrics["noise_matched"], 1.0, atol=0.09)
    assert abs(result.metrics["correlation"]) < 0.01
    assert result.metrics["convolved_science"] == (order == "template worse")


@pytest.mark.parametrize("order", ORDERS)
def test_injected_sources_keep_their_flux_and_their_errors_are_true(order):
    ratios, weights, pulls = [], [], []
    for seed in (1, 2):
        x, y, flux = pair(order, seed).transients.T
        measured, error = psf_fluxes(subtracted(order, seed).difference, x, y)
        ratios.append(measured / flux)
        weights.append((flux / error) ** 2)
        pulls.append((measured - flux) / error)
    ratio, weight = np.concatenate(ratios), np.concatenate(weights)
    assert_allclose((ratio * weight).sum() / weight.sum(), 1.0, atol=0.01)
    assert 0.85 < scatter(np.concatenate(pulls)) < 1.2  # 240 sources, with photon noise


@pytest.mark.parametrize(("order", "median", "tenth"), [
    ("template sharper", 1.06, 1.3), ("template worse", 1.25, 1.8),
])  # fmt: skip
def test_bright_stars_leave_little_but_noise(order, median, tenth):
    p, result = pair(order), subtracted(order)
    z = result.difference.image / np.sqrt(result.difference.variance)
    bright = p.sources[p.sources["psfFlux"] > 200 * p.sources["psfFluxErr"]]
    inside = (np.abs(bright["x"] - 384) < 350) & (np.abs(bright["y"] - 384) < 350)
    chi2 = [
        np.mean(z[round(y) - 7 : round(y) + 8, round(x) - 7 : round(x) + 8] ** 2)
        for x, y in zip(bright["x"][inside], bright["y"][inside])
    ]
    assert len(chi2) > 15
    assert np.median(chi2) < median
    assert np.percentile(chi2, 90) < tenth


@pytest.mark.parametrize("order", ORDERS)
def test_the_matched_template_is_on_the_science_scale(order):
    p, result = pair(order), subtracted(order)
    assert isinstance(result.matched, TemplateExposure)
    assert_allclose(result.metrics["kernel_sum"], 0.97 if order == "template sharper" else 1 / 0.97,
                    rtol=5e-3)  # fmt: skip
    stars = p.sources[p.sources["psfFlux"] > 100 * p.sources["psfFluxErr"]]
    ratios = []
    for x, y in zip(np.rint(stars["x"]).astype(int), np.rint(stars["y"]).astype(int)):
        box = (slice(max(y - 9, 0), y + 10), slice(max(x - 9, 0), x + 10))
        ratios.append(result.matched.image[box].sum() / p.science.image[box].sum())
    assert_allclose(np.median(ratios), 1.0, atol=0.015)


def test_a_delta_basis_matches_stars_that_are_elongated_in_opposite_ways():
    p = simulate_pair(
        9, 512, 300, Seeing(3.5, 0.0, 0.06), Seeing(3.5, 0.0, -0.06), n_transients=0, depth=4.0
    )
    chi2 = {}
    for basis in ("gauss-hermite", "delta"):
        config = SubtractConfig(kernel=KernelConfig(basis=basis))
        result = SubtractTemplate(config).run(p.science, p.template, p.sources)
        assert_allclose(result.metrics["kernel_sum"], 0.97, rtol=0.01)
        assert result.metrics["noise"] < 1.05
        z = result.difference.image / np.sqrt(result.difference.variance)
        bright = p.sources[p.sources["psfFlux"] > 200 * p.sources["psfFluxErr"]]
        inside = (np.abs(bright["x"] - 256) < 225) & (np.abs(bright["y"] - 256) < 225)
        boxes = [
            z[round(y) - 5 : round(y) + 6, round(x) - 5 : round(x) + 6]
            for x, y in zip(bright["x"][inside], bright["y"][inside])
        ]
        chi2[basis] = np.median([np.mean(box**2) for box in boxes])
    assert chi2["delta"] < 1.3
    assert chi2["delta"] < 1.1 * chi2["gauss-hermite"]


def test_the_psf_has_unit_sum_and_is_centred():
    psf = subtracted("template worse").difference.require_psf()
    stamps = psf.stamps(np.array([50.0, 400.0, 700.0]), np.array([50.0, 400.0, 700.0]))
    assert_allclose(stamps.sum(axis=(1, 2)), 1.0, rtol=1e-6)
    middle = psf.size // 2
    assert (np.array([np.unravel_index(s.argmax(), s.shape) for s in stamps]) == middle).all()


def test_the_result_does_not_depend_on_the_number_of_threads():
    p, before = simulate_pair(7, 400, 90, BLURRED, SHARP, n_transients=0), get_threads()
    results = []
    for n in (1, 3):
        set_threads(n)
        results.append(SubtractTemplate(SubtractConfig()).run(p.science, p.template, p.sources))
    set_threads(before)
    assert (results[0].difference.image == results[1].difference.image).all()
    assert results[0].metrics == results[1].metrics


def saturate(exposure, level: float):
    image, mask = exposure.image.copy(), exposure.mask.copy()
    hot = image > level
    image[hot] = level
    mask[hot] |= MaskPlane.SAT.value
    return exposure.replace(image=image, mask=mask)


@pytest.mark.parametrize("order", ORDERS)
def test_masked_pixels_paint_no_ring_of_detections(order):
    p = pair(order)
    science, template = saturate(p.science, 1e4), saturate(p.template, 1e4)
    image, mask, variance = (a.copy() for a in (template.image, template.mask, template.variance))
    image[:, 300], mask[:, 300] = 5e4, MaskPlane.BAD.value
    image[500:520, 100:140] = np.nan
    variance[500:520, 100:140] = np.inf
    mask[500:520, 100:140] = MaskPlane.NO_DATA.value
    template = template.replace(image=image, mask=mask, variance=variance)
    sources = p.sources.copy()
    sources["flag_saturated"] = sources["psfFlux"] > 1e5
    result = SubtractTemplate(SubtractConfig()).run(science, template, sources)
    d = result.difference
    planes = {plane: d.mask & plane.value != 0 for plane in MaskPlane}
    assert planes[MaskPlane.NO_DATA][505:515, 105:135].all()
    assert np.isinf(d.variance[planes[MaskPlane.NO_DATA]]).all()
    assert np.isfinite(d.image).all()
    assert planes[MaskPlane.BAD][10:490, 300].all()
    assert planes[MaskPlane.SAT_TEMPLATE].any()
    unmasked = d.mask == 0
    assert unmasked.mean() > 0.9
    snr = snr_map(d.replace(image=np.where(unmasked, d.image, 0)))
    for x, y, _ in p.transients:
        snr[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9] = 0
    near = unmasked & (fftconvolve(~unmasked, np.ones((25, 25)), mode="same") > 0.5)
    near[:25], near[-25:], near[:, :25], near[:, -25:] = False, False, False, False
    assert near.mean() > 0.05
    assert (np.abs(snr[near]) > 5.5).sum() <= 4


def test_a_template_warped_twice_still_gives_true_noise():
    p = simulate_pair(6, 640, 200, BLURRED, SHARP, n_transients=0, depth=3.0)
    wcs = p.template.wcs.wcs.deepcopy()
    angle = np.deg2rad(2.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = wcs.wcs.cd @ turn
    there = warp(p.template, type(p.template.wcs)(wcs), p.template.shape)
    back = TemplateExposure.of(warp(there, p.science.wcs, p.science.shape))
    assert back.notes[RESAMPLED] > 1.8
    result = SubtractTemplate(SubtractConfig(scale_variance=False)).run(p.science, back, p.sources)
    covered = empty_sky(p) & (result.difference.mask == 0)
    z = result.difference.image / np.sqrt(result.difference.variance)
    assert_allclose(scatter(z[covered]), 1.0, atol=0.03)
    assert_allclose(scatter(snr_map(result.difference)[covered]), 1.0, atol=0.06)
    assert_allclose(result.metrics["variance_scale"], 1.0)


def test_a_wrong_variance_is_scaled_and_reported():
    p = pair("template sharper")
    science = p.science.replace(variance=p.science.variance * 2)
    template = p.template.replace(variance=p.template.variance * 2)
    result = SubtractTemplate(SubtractConfig()).run(science, template, p.sources)
    assert_allclose(result.metrics["variance_scale"], 0.5, rtol=0.03)
    assert_allclose(result.difference.variance, subtracted("template sharper").difference.variance,
                    rtol=0.05)  # fmt: skip


def test_misregistration_is_taken_up_by_the_kernel():
    p = simulate_pair(8, 512, 120, BLURRED, SHARP, n_transients=0, shift_px=(-0.5, 0.3))
    result = SubtractTemplate(SubtractConfig()).run(p.science, p.template, p.sources)
    assert_allclose((result.metrics["shift_x"], result.metrics["shift_y"]), (0.5, -0.3), atol=0.1)
    assert result.metrics["kernel_chi2"] < 1.15


def test_coverage_band_and_stars_are_checked_by_name():
    p, task = pair("template sharper"), SubtractTemplate(SubtractConfig())
    mask = np.full(p.template.shape, MaskPlane.NO_DATA.value, np.int32)
    mask[:, :50] = 0
    with pytest.raises(NoWork, match=r"covers 0\.065 of the detector"):
        task.run(p.science, p.template.replace(mask=mask), p.sources)
    visit = replace(p.template.visit, band="g")
    with pytest.raises(WrongTemplate, match="band 'g', science in 'r'"):
        task.run(p.science, p.template.replace(visit=visit), p.sources)
    small = TemplateExposure.of(exposure_on((50, 50))(np.zeros((50, 50)), np.ones((50, 50))))
    with pytest.raises(WrongTemplate, match="shape"):
        task.run(p.science, small, p.sources)
    with pytest.raises(TooFewStars, match="found 0 usable stars"):
        task.run(p.science, p.template, SOURCE.empty())
    mask[:, :130] = 0
    with pytest.raises(NoWork, match=r"covers 0\.169 of the detector: .*found 0 usable stars"):
        task.run(p.science, p.template.replace(mask=mask), SOURCE.empty())


def test_pixels_that_are_not_numbers_stay_where_they_are():
    p = pair("template sharper")
    rng = np.random.default_rng(8)
    planes = []
    for exposure in (p.science, p.template):
        image, mask = exposure.image.copy(), exposure.mask.copy()
        y, x = rng.integers(40, 700, (2, 60))
        image[y, x], mask[y, x] = np.nan, MaskPlane.NO_DATA.value
        planes.append(exposure.replace(image=image, mask=mask))
    difference = SubtractTemplate(SubtractConfig()).run(*planes, p.sources).difference
    assert np.isfinite(difference.image).all()
    assert np.isinf(difference.variance).sum() < 120 * 60
    left = empty_sky(p) & (difference.mask == 0)
    z = difference.image / np.sqrt(difference.variance)
    assert_allclose(scatter(z[left]), 1.0, atol=0.02)


def test_half_a_template_gives_half_a_difference():
    p = pair("template sharper")
    mask, image, variance = (
        a.copy() for a in (p.template.mask, p.template.image, p.template.variance)
    )
    mask[:, 400:], image[:, 400:], variance[:, 400:] = MaskPlane.NO_DATA.value, 0.0, np.inf
    template = p.template.replace(mask=mask, image=image, variance=variance)
    result = SubtractTemplate(SubtractConfig()).run(p.science, template, p.sources)
    assert_allclose(result.metrics["coverage"], 400 / 768, atol=1e-6)
    assert np.isinf(result.difference.variance[:, 400:]).all()
    left = empty_sky(p) & (result.difference.mask == 0)
    z = result.difference.image / np.sqrt(result.difference.variance)
    assert_allclose(scatter(z[left]), 1.0, atol=0.02)
