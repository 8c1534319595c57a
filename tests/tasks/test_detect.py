"""Detection on simulated differences of known noise and truth."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage
from support.dia_scene import DiaScene, grid_positions, moffat_psf

from promptdia.tasks.detect import (
    DetectConfig,
    DetectDiaSources,
    Detections,
    TooManyDetections,
    local_background,
)
from promptdia.tasks.errors import NoUsablePixels
from promptdia.tasks.matched_filter import cell_psf, signal_to_noise, trust
from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import constant_psf, gaussian_stamp
from promptdia.tasks.sky_sources import sky_fluxes
from promptdia.tasks.tails import StarsHaveTails

QUIET = DetectConfig(streaks=None)


def detect(scene: DiaScene, config: DetectConfig = QUIET) -> Detections:
    return DetectDiaSources(config).run(*scene.exposures())


def distances(found: Detections, x: Floats, y: Floats) -> Floats:
    """From each true position to the nearest peak."""
    peaks = found.peaks
    return np.hypot(peaks["x"] - x[:, None], peaks["y"] - y[:, None]).min(axis=1)


def test_the_filter_is_the_correlation_with_the_psf_over_its_noise() -> None:
    random = np.random.default_rng(3)
    image = random.standard_normal((150, 170)).astype(np.float32)
    variance = random.uniform(0.5, 2.0, image.shape).astype(np.float32)
    good = random.random(image.shape) > 0.05
    filters = cell_psf(moffat_psf(3.5), image.shape, 64)
    snr = signal_to_noise(image, variance, good, filters)
    assert filters.stamps.shape[:2] == (2, 3)
    stamp = filters.stamps[0, 0].astype(float)
    signal = ndimage.correlate(np.where(good, image, 0.0).astype(float), stamp, mode="constant")
    power = ndimage.correlate(
        np.where(good, variance, 0.0).astype(float), stamp**2, mode="constant"
    )
    # separation into factors keeps all but a thousandth of the energy
    assert_allclose(snr, signal / np.sqrt(power), atol=0.06)
    assert np.std(snr - signal / np.sqrt(power)) < 0.03


def test_a_varying_psf_is_followed() -> None:
    narrow, wide = gaussian_stamp(1.2, 25), gaussian_stamp(2.4, 25)
    psf = replace(
        constant_psf(narrow), nodes=np.stack([narrow, wide])[None], x=np.array([0, 255.0])
    )
    filters = cell_psf(psf, (64, 256), 64)
    widths = 1 / (filters.stamps.astype(float) ** 2).sum(axis=(2, 3))[0]
    assert filters.stamps.shape[:2] == (1, 4)
    assert np.all(np.diff(widths) > 0)


def test_trust_is_low_on_the_flanks_and_peaks_of_template_stars_only() -> None:
    scene = DiaScene(shape=(64, 64), noise=10.0)
    flux = scene.flux_of(2000.0)
    scene.add_star(32.0, 32.0, template=flux)
    difference, _, matched = scene.exposures()
    good = np.ones(scene.shape, bool)
    filters = cell_psf(difference.require_psf(), scene.shape, 64)
    x, y = np.array([32, 34, 5]), np.array([32, 32, 5])
    factors = trust(matched.image, difference.variance, good, filters, x, y, 0.03, 0.01)
    # on the peak only the flux error counts: 1 % of S/N 2000
    assert_allclose(factors[0], 1 / np.hypot(1, 20.0), rtol=0.03)
    assert factors[1] < 0.1
    assert_allclose(factors[2], 1.0, atol=0.01)
    # against a direct sum at the flank
    stamp = filters.stamps[0, 0].astype(float)
    static = ndimage.correlate(matched.image.astype(float), stamp, mode="constant")
    slope = np.gradient(static)[1][32, 34], np.gradient(static)[0][32, 34]
    power = difference.variance[0, 0] * (stamp**2).sum()
    extra = 0.03**2 * (slope[0] ** 2 + slope[1] ** 2) + (0.01 * static[32, 34]) ** 2
    assert_allclose(factors[1], np.sqrt(power / (power + extra)), rtol=1e-4)


def test_faint_sources_are_found_and_nothing_else() -> None:
    scene = DiaScene(shape=(768, 768), seed=7)
    x, y = grid_positions(12, 64, seed=8)
    snr = np.where(np.arange(x.size) % 3 == 0, -1, 1) * np.linspace(6.5, 40, x.size)
    for at_x, at_y, s in zip(x, y, snr):
        flux = scene.flux_of(abs(s))
        scene.add_star(at_x, at_y, *((flux, 0) if s > 0 else (0, flux)))
    found = detect(scene)
    hit = distances(found, x, y) < 2
    assert hit.mean() >= 0.97
    assert len(found.peaks) <= hit.sum() + 1
    nearest = np.hypot(found.peaks["x"] - x[:, None], found.peaks["y"] - y[:, None]).argmin(axis=1)
    assert np.all(np.sign(found.peaks["snr"][nearest[hit]]) == np.sign(snr[hit]))
    ratio = np.abs(found.peaks["snr"][nearest[hit]] / snr[hit])[np.abs(snr[hit]) > 15]
    # stars between pixels lose up to a tenth
    assert 0.95 < np.median(ratio) < 1.0
    assert ratio.min() > 0.8


def test_half_of_the_five_sigma_sources_are_found() -> None:
    scene = DiaScene(shape=(768, 768), seed=17)
    x, y = grid_positions(16, 48, seed=18)
    for at_x, at_y in zip(x, y):
        scene.add_star(at_x, at_y, scene.flux_of(5.0))
    hit = distances(detect(scene), x, y) < 3
    # noise lifts the highest of several pixels, the pixel grid costs a few per cent
    assert 0.35 < hit.mean() < 0.65


def test_pure_noise_has_unit_scatter_and_next_to_no_detections() -> None:
    found = detect(DiaScene(shape=(768, 768), seed=5))
    assert len(found.peaks) <= 1
    assert_allclose(found.difference.notes["detect.noiseScale"], 1.0, atol=0.015)
    assert found.difference.notes["detect.varianceRescaled"] == 1.0


def test_a_wrong_variance_plane_is_noticed_and_put_right() -> None:
    difference, science, matched = DiaScene(shape=(512, 512), seed=6).exposures()
    low = difference.replace(variance=difference.variance * np.float32(0.49))
    found = DetectDiaSources(QUIET).run(low, science, matched)
    assert_allclose(found.difference.notes["detect.noiseScale"], 1 / 0.7, rtol=0.02)
    assert_allclose(found.difference.variance, difference.variance, rtol=0.04)
    assert len(found.peaks) <= 1
    kept = DetectDiaSources(replace(QUIET, rescale_noise=False)).run(low, science, matched)
    assert len(kept.peaks) > 20
    assert kept.difference.notes["detect.varianceRescaled"] == 1.0


def test_residuals_of_a_slightly_misplaced_bright_star_do_not_fire() -> None:
    scene = DiaScene(seed=9)
    scene.add_dipole(128.3, 127.8, 0.03, 0.0, scene.flux_of(1500.0))
    assert len(detect(scene).peaks) == 0
    trusting = replace(QUIET, registration_error_px=0.0, flux_error=0.0)
    assert len(detect(scene, trusting).peaks) > 0


def test_lobes_of_opposite_sign_are_one_detection_with_both_peaks() -> None:
    scene = DiaScene(seed=10)
    scene.add_dipole(120.2, 130.7, 4.0, 3.0, scene.flux_of(60.0))
    (peak,) = detect(scene).peaks
    ends = {
        (peak["x"], peak["y"], np.sign(peak["snr"])),
        (peak["x2"], peak["y2"], np.sign(peak["snr2"])),
    }
    positive, negative = sorted(ends, key=lambda end: -end[2])
    assert positive[2] == 1
    assert negative[2] == -1
    assert positive[0] - negative[0] >= 4
    assert positive[1] - negative[1] >= 3


def test_touching_sources_of_one_sign_are_told_apart_when_they_stand_clear() -> None:
    scene = DiaScene(seed=11)
    for at_x in (100.0, 114.0):
        scene.add_star(at_x, 100.0, scene.flux_of(60.0))
    for at_x in (100.0, 103.0):
        scene.add_star(at_x, 180.0, scene.flux_of(60.0))
    peaks = detect(scene).peaks
    upper, lower = peaks[peaks["y"] > 140], peaks[peaks["y"] < 140]
    assert sorted(lower["x"]) == [100, 114]
    assert len(upper) == 1
    first, second = np.sort(lower, order="x")
    assert first["x1"] <= second["x0"] + 1


def test_a_trail_is_one_detection() -> None:
    scene = DiaScene(seed=12)
    scene.add_trail(128.0, 128.0, 50.0, 20.0, 8 * scene.flux_of(8.0))
    (peak,) = detect(scene).peaks
    assert peak["x1"] - peak["x0"] > 45


def test_footprints_and_planes_tell_the_same() -> None:
    scene = DiaScene(seed=13)
    scene.add_star(60.0, 70.0, science=scene.flux_of(30.0))
    scene.add_star(180.0, 170.0, template=scene.flux_of(30.0))
    found = detect(scene)
    mask = found.difference.mask
    marked = has(mask, MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE)
    assert set(found.pixels) == set(np.flatnonzero(marked))
    assert has(mask, MaskPlane.DETECTED)[70, 60]
    assert not has(mask, MaskPlane.DETECTED_NEGATIVE)[70, 60]
    assert has(mask, MaskPlane.DETECTED_NEGATIVE)[170, 180]
    assert found.starts[0] == 0
    assert found.peaks["area"].sum() == found.pixels.size


def test_saturated_stars_get_a_margin_that_grows_with_them() -> None:
    scene = DiaScene(seed=14)
    scene.mark(60, 60, 4, MaskPlane.SAT)
    scene.mark(180, 180, 20, MaskPlane.SAT)
    near = has(detect(scene).difference.mask, MaskPlane.NEAR_BRIGHT)
    small = np.flatnonzero(near[60, 64:]).max()
    large = np.flatnonzero(near[180, 200:]).max()
    assert small == pytest.approx(3.6 + 1.2, abs=2.5)
    assert large == pytest.approx(3.6 + 6.0, abs=2.5)
    assert not near[20, 200]


def test_bad_pixels_neither_fire_nor_blank_their_neighbours() -> None:
    scene = DiaScene(seed=15)
    scene.add_star(100.0, 100.0, scene.flux_of(30.0))
    scene.mark(101, 100, 1, MaskPlane.BAD)
    scene.science[200:203, 50:60] = 1e6
    scene.mask[200:203, 50:60] = MaskPlane.CR.value
    scene.science[20, 20] = np.nan
    scene.mask[20, 20] = MaskPlane.NO_DATA.value
    peaks = detect(scene).peaks
    assert len(peaks) == 1
    assert np.hypot(peaks["x"][0] - 100, peaks["y"][0] - 100) < 3


def test_a_smooth_background_is_taken_off() -> None:
    scene = DiaScene(shape=(512, 512), seed=16)
    y, x = np.mgrid[:512, :512] / 511.0
    slope = (3 * x - 2 * y + 4).astype(np.float32)
    found = local_background(slope, np.ones(slope.shape, bool), 64)
    assert np.abs(found - slope).max() < 0.06
    scene.science += 10 * slope
    assert len(detect(scene).peaks) <= 1


def test_what_cannot_be_searched_is_said() -> None:
    difference, science, matched = DiaScene().exposures()
    blind = difference.replace(mask=np.full(difference.shape, MaskPlane.NO_DATA.value, np.int32))
    with pytest.raises(NoUsablePixels, match="difference"):
        DetectDiaSources(QUIET).run(blind, science, matched)
    scene = DiaScene(shape=(256, 256))
    for at_x in (40.0, 90.0, 140.0):
        scene.add_star(at_x, 128.0, scene.flux_of(20.0))
    with pytest.raises(TooManyDetections, match="found 3 detections"):
        detect(scene, replace(QUIET, max_detections=2))


def test_stars_that_all_stand_aside_are_noise_and_a_new_star_is_found() -> None:
    scene = DiaScene(shape=(512, 512), seed=61)
    x, y = grid_positions(8, 64, seed=62)
    for k in range(x.size):
        scene.add_dipole(x[k], y[k], 0.4, 0.0, scene.flux_of(300.0))
    scene.add_star(256.0, 256.0, scene.flux_of(25.0))
    config = replace(QUIET, max_tail=None)
    trusting = detect(scene, replace(config, max_doubt=1.0))
    found = detect(scene, config)
    assert len(trusting.peaks) > 30
    assert len(found.peaks) <= 3
    assert distances(found, np.array([256.0]), np.array([256.0])) < 2
    assert found.difference.notes["detect.doubtScale"] > 5


def test_frames_that_fit_are_not_doubted_more() -> None:
    scene = DiaScene(shape=(512, 512), seed=63)
    for x, y in zip(*grid_positions(8, 64, seed=64)):
        scene.add_star(x, y, scene.flux_of(500.0), scene.flux_of(500.0))
    assert detect(scene).difference.notes["detect.doubtScale"] == 1.0


def test_sky_sources_tell_whether_noise_and_background_are_right() -> None:
    scene = DiaScene(shape=(512, 512), seed=71)
    difference = scene.exposures()[0]
    empty = np.ones(scene.shape, bool)
    right = sky_fluxes(difference, empty, 400, 6.0)
    assert right["sky.nSources"] == 400
    assert abs(right["sky.fluxOverError"]) < 0.2
    assert 0.88 < right["sky.fluxPull"] < 1.12
    double = sky_fluxes(difference.replace(variance=difference.variance / 4), empty, 400, 6.0)
    assert_allclose(double["sky.fluxPull"], 2 * right["sky.fluxPull"], rtol=1e-4)
    assert sky_fluxes(difference, ~empty, 400, 6.0) == {"sky.nSources": 0}


def test_detection_takes_sky_sources_away_from_its_detections() -> None:
    scene = DiaScene(shape=(512, 512), seed=72)
    for x, y in zip(*grid_positions(8, 64, seed=73)):
        scene.add_star(x, y, scene.flux_of(30.0))
    notes = detect(scene).difference.notes
    assert notes["sky.nSources"] == 100
    assert abs(float(notes["sky.fluxOverError"])) < 0.4


def tailed(tail: float) -> DiaScene:
    """Stars that stand still, on science with a ghost beside each."""
    scene = DiaScene(shape=(640, 640), seed=81)
    for x, y in zip(*grid_positions(10, 64, seed=82)):
        flux = scene.flux_of(3000.0)
        scene.add_star(x, y, flux, flux)
        scene.add_star(x + 8.0, y - 4.0, tail * flux)
    return scene


def test_stars_with_tails_fail_the_frame() -> None:
    with pytest.raises(StarsHaveTails, match="did the telescope move"):
        detect(tailed(0.01))
    passed = detect(tailed(0.01), replace(QUIET, max_tail=None)).difference.notes
    assert 0.003 < float(passed["detect.tail"]) < 0.01
    assert detect(tailed(0.0)).difference.notes["detect.tail"] == 0.0


def test_stars_that_all_brighten_have_no_tails() -> None:
    scene = DiaScene(shape=(640, 640), seed=83)
    for x, y in zip(*grid_positions(10, 64, seed=84)):
        flux = scene.flux_of(3000.0)
        scene.add_star(x, y, 1.1 * flux, flux)
    assert detect(scene).difference.notes["detect.tail"] < 0.0005
