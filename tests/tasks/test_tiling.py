import hpgeom
import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.tasks.model.wcs import FitsWcs, pixel_scale_arcsec, tan_wcs
from promptdia.tasks.tiling import Patch, Tiling


def detector_wcs(ra: float, dec: float, angle_deg: float, scale: float = 0.2, n: int = 4096):
    a, s = np.deg2rad(angle_deg), scale / 3600
    cd = s * np.array([[-np.cos(a), np.sin(a)], [np.sin(a), np.cos(a)]])
    return tan_wcs(ra, dec, n / 2, n / 2, cd, (n, n))


@pytest.mark.parametrize(
    ("ra", "dec", "angle"), [(150.0, 2.0, 7.0), (0.01, -41.9, 45.0), (359.9, 89.95, 0.0)]
)
def test_every_detector_pixel_lies_well_inside_a_patch(ra, dec, angle):
    n = 4096
    wcs = detector_wcs(ra, dec, angle)
    rng = np.random.default_rng(3)
    sky = wcs.pixel_to_sky(*rng.uniform(-0.5, n - 0.5, (2, 3000)))
    covered = np.zeros(3000, bool)
    for patch in Tiling(0.2).patches_of(wcs, (n, n)):
        x, y = patch.wcs.sky_to_pixel(*sky)
        ny, nx = patch.shape
        covered |= (x > 20) & (x < nx - 21) & (y > 20) & (y < ny - 21)
    assert covered.all()


@pytest.mark.parametrize("scale", [0.2, 0.262, 0.31, 1.0, 2.5])
def test_patches_are_north_up_at_the_cameras_scale_and_not_too_large(scale):
    tiling = Tiling(scale)
    nside = 2**tiling.order
    rng = np.random.default_rng(1)
    for cell in rng.integers(0, 12 * nside**2, 20):
        patch = tiling.patch(4 * 4**tiling.order + int(cell))
        assert max(patch.shape) <= tiling.max_side_px + 3
        ra, dec = hpgeom.pixel_to_angle(nside, cell, nest=True)
        x, y = patch.wcs.sky_to_pixel(ra, dec)
        assert_allclose(pixel_scale_arcsec(patch.wcs, float(x), float(y)), scale, rtol=1e-5)
        up_ra, up_dec = patch.wcs.pixel_to_sky(x, y + 1)
        assert up_dec > dec
        assert abs((up_ra - ra) * np.cos(np.deg2rad(dec))) < 1e-3 * (up_dec - dec)


def test_neighbouring_patches_share_a_band_of_the_promised_width():
    tiling = Tiling(0.2)
    a = tiling.patches_of(detector_wcs(150.0, 2.0, 0.0), (4096, 4096))[0]
    nside = 2**tiling.order
    cell = a.id - 4 * 4**tiling.order
    edge_ra, edge_dec = hpgeom.boundaries(nside, cell, step=8, nest=True)
    x, y = a.wcs.sky_to_pixel(edge_ra, edge_dec)
    assert min(x.min(), y.min()) >= 49
    assert a.shape[1] - 1 - x.max() >= 49


def test_a_patch_is_the_same_from_whichever_detector_it_is_reached():
    tiling = Tiling(0.2)
    first = {p.id: p for p in tiling.patches_of(detector_wcs(150.0, 2.0, 0.0), (4096, 4096))}
    second = {p.id: p for p in tiling.patches_of(detector_wcs(150.05, 2.05, 90.0), (4096, 4096))}
    shared = sorted(first.keys() & second.keys())
    assert shared
    a, b = first[shared[0]], second[shared[0]]
    assert isinstance(a, Patch)
    assert isinstance(a.wcs, FitsWcs)
    assert a.shape == b.shape
    assert_allclose(a.wcs.pixel_to_sky(10.0, 20.0), b.wcs.pixel_to_sky(10.0, 20.0))


def test_a_patch_of_another_scale_is_refused_by_its_id():
    patch = Tiling(1.0).patches_of(detector_wcs(10.0, 0.0, 0.0, 1.0, 512), (512, 512))[0]
    with pytest.raises(ValueError, match="made for another pixel scale"):
        Tiling(0.2).patch(patch.id)
