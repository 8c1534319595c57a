import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.pairs import Seeing, exposure_on, render

from promptdia.tasks.errors import NoUsablePixels, NoWork
from promptdia.tasks.kernels.coadd import HALO, combine_rows
from promptdia.tasks.model.exposure import Exposure, ScienceExposure, TemplateExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import fwhm_px
from promptdia.tasks.model.wcs import FitsWcs, tan_wcs
from promptdia.tasks.resampling import RESAMPLED
from promptdia.tasks.template import (
    BuildCoadd,
    CoaddConfig,
    MakeTemplate,
    TemplateConfig,
    WrongBand,
)
from promptdia.tasks.tiling import Patch
from promptdia.tasks.warp import warp

SHAPE = (260, 280)
SCALE = 0.2 / 3600
SIGMA = 20.0


def wcs_at(angle_deg: float, x: float, y: float) -> FitsWcs:
    a = np.deg2rad(angle_deg)
    cd = SCALE * np.array([[-np.cos(a), np.sin(a)], [np.sin(a), np.cos(a)]])
    return tan_wcs(150.0, 2.0, x, y, cd, SHAPE)


PATCH = Patch(77, wcs_at(0.0, 140.0, 130.0), SHAPE)


def star_positions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    x, y = rng.uniform(20, 240, (2, 25))
    return x, y, 10 ** rng.uniform(3.5, 5.2, 25)


def visit(seed: int, wcs: FitsWcs, fwhm: float = 3.6, band: str = "r") -> Exposure:
    """A noisy image of the stars on the grid of ``wcs``."""
    rng = np.random.default_rng(seed)
    x, y, flux = star_positions()
    there = wcs.sky_to_pixel(*PATCH.wcs.pixel_to_sky(x, y))
    seeing = Seeing(fwhm, 0.0, 0.0)
    clean = render(SHAPE, *there, flux, seeing)
    variance = SIGMA**2 + np.maximum(clean, 0)
    exposure = exposure_on(SHAPE, wcs)(clean + np.sqrt(variance) * rng.normal(size=SHAPE), variance)
    v = exposure.visit
    changed = type(v)(v.id + seed, band, v.mjd_tai, v.exposure_s, v.ra_deg, v.dec_deg)
    return exposure.replace(visit=changed, psf=seeing.psf(SHAPE, 25))


def warps(n: int, fwhms: tuple[float, ...] = (3.6,)) -> list[Exposure]:
    rng = np.random.default_rng(5)
    return [
        warp(
            visit(i, wcs_at(rng.uniform(-3, 3), *rng.uniform(125, 150, 2)), fwhms[i % len(fwhms)]),
            PATCH.wcs,
            SHAPE,
        )
        for i in range(n)
    ]


def clean_patch(fwhm: float = 3.6) -> np.ndarray:
    return render(SHAPE, *star_positions(), Seeing(fwhm, 0.0, 0.0))


def test_the_coadd_has_the_right_brightness_noise_and_notes():
    coadd = BuildCoadd(CoaddConfig()).run(warps(4), PATCH)
    x0, y0 = int(coadd.notes["x0"]), int(coadd.notes["y0"])
    ny, nx = coadd.shape
    residual = coadd.image - clean_patch()[y0 : y0 + ny, x0 : x0 + nx]
    inner = (slice(40, -40), slice(40, -40))
    scatter = (residual / np.sqrt(coadd.variance))[inner]
    assert_allclose(scatter.std(), 1.0, atol=0.05)
    assert abs(residual[inner].mean()) < 4 * SIGMA / 2 / np.sqrt(residual[inner].size)
    assert_allclose(np.median(coadd.variance[inner]), 0.81 * SIGMA**2 / 4, rtol=0.05)
    assert coadd.notes["inputs"] == 4
    assert coadd.notes["visits"] == ",".join(str(2026010100001 + i) for i in range(4))
    assert_allclose(coadd.notes[RESAMPLED], 1.0, atol=0.1)
    ra, dec = coadd.wcs.pixel_to_sky(5.0, 6.0)
    assert_allclose(PATCH.wcs.sky_to_pixel(ra, dec), (x0 + 5.0, y0 + 6.0), atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_artefacts_of_one_visit_leave_no_trace(n):
    inputs = warps(n, (3.4, 3.8, 4.3))
    clean = BuildCoadd(CoaddConfig()).run(inputs, PATCH)
    image = inputs[1].image.copy()
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.abs(rows - 0.3 * columns - 60) / np.hypot(1, 0.3)
    image += (1500 * np.exp(-0.5 * (distance / 1.5) ** 2)).astype(np.float32)  # satellite
    image[150, 100] += 5e4  # cosmic ray
    image += render(SHAPE, np.array([200.0]), np.array([180.0]), np.array([3e4]), Seeing(3.8, 0, 0))
    dirty = [inputs[0], inputs[1].replace(image=image.astype(np.float32)), *inputs[2:]]
    coadd = BuildCoadd(CoaddConfig()).run(dirty, PATCH)
    change = (coadd.image - clean.image) / np.sqrt(clean.variance)
    x0, y0 = int(coadd.notes["x0"]), int(coadd.notes["y0"])
    ny, nx = coadd.shape
    box = (slice(y0, y0 + ny), slice(x0, x0 + nx))
    # on steep flanks of stars, and where one visit is alone, nobody can tell
    fair = clean_patch()[box] < 200
    fair[:40], fair[-40:], fair[:, :40], fair[:, -40:] = False, False, False, False
    assert np.abs(change[fair]).max() < 9.0
    touched = fair & (distance[box] < 3)
    assert touched.sum() > 500
    assert np.mean(np.abs(change[touched])) < 0.9  # against some 60 / sqrt(n) unclipped


def test_seeing_that_changes_does_not_clip_stars():
    inputs = warps(5, (3.2, 3.6, 4.6))
    coadd = BuildCoadd(CoaddConfig()).run(inputs, PATCH)
    x, y, flux = star_positions()
    x0, y0 = int(coadd.notes["x0"]), int(coadd.notes["y0"])
    for i in np.argsort(-flux)[:6]:
        cx, cy = round(x[i]) - x0, round(y[i]) - y0
        if min(cx, cy) < 12 or cx > coadd.shape[1] - 13 or cy > coadd.shape[0] - 13:
            continue
        box = (slice(cy - 10, cy + 11), slice(cx - 10, cx + 11))
        # the mean of all five, had nothing been clipped
        plain = np.mean([w.image[y0:, x0:][box] for w in inputs], axis=0)
        assert_allclose(coadd.image[box].max(), plain.max(), rtol=0.02)


def test_the_coadds_psf_is_the_mean_of_its_inputs():
    coadd = BuildCoadd(CoaddConfig()).run(warps(2, (3.0, 5.0)), PATCH)
    assert coadd.psf is not None
    at = np.array([100.0]), np.array([100.0])
    parts = [Seeing(f, 0.0, 0.0).psf(SHAPE, 25).stamps(*at)[0] for f in (3.0, 5.0)]
    assert_allclose(coadd.psf.stamps(*at)[0], np.mean(parts, axis=0), atol=0.01 * parts[0].max())


def test_saturation_is_kept_and_holes_have_no_data():
    inputs = warps(3)
    masks = [w.mask.copy() for w in inputs]
    masks[0][100:104, 100:104] |= MaskPlane.SAT.value
    for m in masks:
        m[120:130, 60:80] = MaskPlane.NO_DATA.value
    masks[1][150, 50] |= MaskPlane.CR.value
    changed = [w.replace(mask=m) for w, m in zip(inputs, masks)]
    coadd = BuildCoadd(CoaddConfig()).run(changed, PATCH)
    x0, y0 = int(coadd.notes["x0"]), int(coadd.notes["y0"])
    mask = np.pad(coadd.mask, ((y0, 0), (x0, 0)))
    assert (mask[100:104, 100:104] & MaskPlane.SAT.value).all()
    assert (mask[120:130, 60:80] == MaskPlane.NO_DATA.value).all()
    assert mask[150, 50] == 0
    assert np.isinf(coadd.variance[coadd.mask & MaskPlane.NO_DATA.value != 0]).all()


def test_the_strip_kernel_equals_a_plain_weighted_mean_where_nothing_is_clipped():
    rng = np.random.default_rng(0)
    n, rows, nx = 4, 12, 20
    images = rng.normal(size=(n, rows, nx)).astype(np.float32)
    variances = rng.uniform(0.5, 2, (n, rows, nx)).astype(np.float32)
    weights = np.array([1, 2, 0.5, 1], np.float32)
    out = [np.zeros((rows - 2 * HALO, nx), t) for t in (np.float32, np.float32, np.int32, np.int32)]
    combine_rows(
        images, variances, np.zeros((n, rows, nx), np.int32), weights, np.zeros(n, np.float32),
        0, 256, 50.0, 40.0, *out,
    )  # fmt: skip
    core = (slice(None), slice(HALO, -HALO))
    w = weights[:, None, None] / weights.sum()
    assert_allclose(out[0], (w * images[core]).sum(axis=0), rtol=1e-4, atol=1e-5)
    assert_allclose(out[1], (w**2 * variances[core]).sum(axis=0), rtol=1e-4)
    assert (out[3] == n).all()


def science_at(wcs: FitsWcs, band: str = "r") -> ScienceExposure:
    return ScienceExposure.of(visit(50, wcs, band=band))


def test_the_template_joins_its_patches_on_the_science_grid():
    left = Patch(1, wcs_at(0.0, 240.0, 130.0), SHAPE)
    right = Patch(2, wcs_at(0.0, 60.0, 130.0), SHAPE)
    coadds = [
        BuildCoadd(CoaddConfig()).run(
            [warp(visit(i, PATCH.wcs), p.wcs, SHAPE) for i in range(3)], p
        )
        for p in (left, right)
    ]
    science = science_at(wcs_at(1.0, 141.0, 129.0))
    template = MakeTemplate(TemplateConfig()).run(science, coadds)
    assert isinstance(template, TemplateExposure)
    assert template.shape == science.shape
    assert template.wcs is science.wcs
    assert template.notes["coverage"] > 0.95
    x, y, flux = star_positions()
    there = science.wcs.sky_to_pixel(*PATCH.wcs.pixel_to_sky(x, y))
    truth = render(SHAPE, *there, flux, Seeing(3.6, 0.0, 0.0))
    z = ((template.image - truth) / np.sqrt(template.variance))[20:-20, 20:-20]
    assert 0.85 < np.median(np.abs(z)) / 0.6745 < 1.15
    assert np.abs(z).max() < 9
    assert template.psf is not None
    assert_allclose(fwhm_px(template.psf, 100.0, 100.0), fwhm_px(science.psf, 100, 100), rtol=0.03)


def test_half_a_template_says_so():
    coadd = BuildCoadd(CoaddConfig()).run(warps(3), PATCH)
    science = science_at(wcs_at(0.0, 280.0, 130.0))
    template = MakeTemplate(TemplateConfig()).run(science, [coadd])
    assert_allclose(template.notes["coverage"], 0.48, atol=0.08)
    empty = template.mask & MaskPlane.NO_DATA.value != 0
    assert_allclose(1 - empty.mean(), template.notes["coverage"], atol=1e-9)
    assert (template.image[empty] == 0).all()
    assert np.isinf(template.variance[empty]).all()


def test_much_noisier_parts_are_flagged():
    coadd = BuildCoadd(CoaddConfig()).run(warps(3), PATCH)
    variance = coadd.variance.copy()
    variance[100:170, 100:170] *= 10
    template = MakeTemplate(TemplateConfig()).run(
        science_at(PATCH.wcs), [coadd.replace(variance=variance)]
    )
    flagged = template.mask & MaskPlane.HIGH_VARIANCE.value != 0
    assert flagged[130:160, 130:160].all()
    assert flagged.mean() < 0.12


def test_no_overlap_is_no_work_and_a_wrong_band_an_error():
    coadd = BuildCoadd(CoaddConfig()).run(warps(3), PATCH)
    far = tan_wcs(20.0, -30.0, 140, 130, np.diag([-SCALE, SCALE]), SHAPE)
    with pytest.raises(NoWork, match="none of 1 template patches overlaps"):
        MakeTemplate(TemplateConfig()).run(science_at(far), [coadd])
    with pytest.raises(NoWork, match="none of 0"):
        MakeTemplate(TemplateConfig()).run(science_at(PATCH.wcs), [])
    with pytest.raises(WrongBand, match="in band 'r', needs 'g'"):
        MakeTemplate(TemplateConfig()).run(science_at(PATCH.wcs, band="g"), [coadd])
    with pytest.raises(WrongBand, match="in band 'i', needs 'r'"):
        BuildCoadd(CoaddConfig()).run(
            [*warps(1), warp(visit(3, PATCH.wcs, band="i"), PATCH.wcs, SHAPE)], PATCH
        )
    empty = warps(1)[0]
    empty = empty.replace(mask=np.full(SHAPE, MaskPlane.NO_DATA.value, np.int32))
    with pytest.raises(NoUsablePixels, match="patch 77"):
        BuildCoadd(CoaddConfig()).run([empty], PATCH)


@pytest.mark.parametrize(("snr", "left"), [(12.0, 0.7), (35.0, 0.2)])
def test_little_of_a_mover_in_one_visit_of_four_stays(snr, left):
    inputs = warps(4)
    psf_area = 4 * np.pi * (3.6 / 2.3548) ** 2
    flux = snr * SIGMA * np.sqrt(psf_area)
    x, y = (v.ravel() for v in np.meshgrid(np.arange(70.0, 200, 25), np.arange(70.0, 200, 25)))
    x, y = x + 0.3, y + 0.4
    light = render(SHAPE, x, y, np.full(x.size, flux), Seeing(3.6, 0, 0)).astype(np.float32)
    moved = inputs[2].replace(image=inputs[2].image + light)
    stacks = ([*inputs[:2], moved, inputs[3]], inputs)
    with_mover, without = (BuildCoadd(CoaddConfig()).run(stack, PATCH) for stack in stacks)
    x0, y0 = int(without.notes["x0"]), int(without.notes["y0"])
    ny, nx = without.shape
    box = (slice(y0, y0 + ny), slice(x0, x0 + nx))
    dark = clean_patch()[box] < 40
    dark &= light[box] > 0.02 * light.max()
    leak = ((with_mover.image - without.image) * dark).sum() / (0.25 * light[box] * dark).sum()
    assert abs(leak) < left
