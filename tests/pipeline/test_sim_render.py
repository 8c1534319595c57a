"""What the simulator draws, against GalSim's own drawing and against plain sums."""

from dataclasses import replace

import galsim
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import map_coordinates

from promptdia.pipeline.sim import SURVEYS, SimulatedSurvey
from promptdia.pipeline.sim.optics import PsfGrid
from promptdia.pipeline.sim.plates import Plates, galaxy_plates, star_plates
from promptdia.pipeline.sim.scene import Frame, Placed, clip_trail, light, trail_points
from promptdia.pipeline.sim.truth import TRUTH_OBJECT
from promptdia.tasks.kernels.render import add_stamps

EXACT = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-4, maximum_fft_size=8192)


@pytest.fixture(scope="module")
def survey() -> SimulatedSurvey:
    return SimulatedSurvey(SURVEYS["tiny"], 7)


@pytest.fixture(scope="module")
def frame(survey: SimulatedSurvey) -> Frame:
    return survey.frame(survey.science_visits[0], 1)


@pytest.fixture(scope="module")
def stars(survey: SimulatedSurvey, frame: Frame) -> Plates:
    return star_plates(survey.psf(frame))


def drawn_by_galsim(grid: PsfGrid, x: float, y: float, shape: galsim.GSObject | None) -> np.ndarray:
    """A unit flux at (x, y) on the detector, the mix of the four nodes' PSFs."""
    nodes, weights = grid.mix(np.array([x]), np.array([y]))
    total = np.zeros(grid.detector.shape)
    for node, weight in zip(nodes[0], weights[0]):
        profile = grid.drawable(grid.profiles[node])
        if shape is not None:
            profile = galsim.Convolve(shape, profile)
        image = galsim.ImageD(grid.detector.nx, grid.detector.ny)
        centre = galsim.PositionD(x + 1, y + 1)
        total += weight * profile.withGSParams(EXACT).drawImage(image, scale=1, center=centre).array
    return total


def one(x: float, y: float, flux: float, kind: str = "star", **columns: float) -> Placed:
    objects = TRUTH_OBJECT.empty(1)
    objects["kind"] = kind
    for name, value in columns.items():
        objects[name] = value
    return Placed(objects, np.array([x]), np.array([y]), np.array([flux]), np.zeros(1), np.zeros(1))


@pytest.mark.parametrize(("x", "y"), [(100.3, 250.8), (256.0, 256.0), (400.5, 60.25)])
def test_a_star_is_what_galsim_draws(stars: Plates, x: float, y: float) -> None:
    image = np.zeros(stars.grid.detector.shape, np.float32)
    stars.add(image, np.array([x]), np.array([y]), np.array([1e6]), np.zeros(1, np.int64))
    truth = 1e6 * drawn_by_galsim(stars.grid, x, y, None)
    inside = image > 0
    assert_allclose(image[inside].sum(), truth[inside].sum(), rtol=1e-4)
    assert_allclose(image.sum(), 1e6, rtol=1e-3)
    assert_allclose(image[inside], truth[inside], atol=2e-4 * truth.max())


def test_a_galaxy_is_what_galsim_draws(survey: SimulatedSurvey, frame: Frame) -> None:
    shapes = [
        galsim.Exponential(half_light_radius=0.5).shear(g=0.3, beta=0.4 * galsim.radians),
        galsim.Sersic(2.5, half_light_radius=0.8).shear(g=0.2, beta=2.0 * galsim.radians),
    ]
    scale = frame.detector.pixel_scale_arcsec
    jacobian = np.array([[-scale, 0.0], [0.0, scale]])
    plates = galaxy_plates(survey.psf(frame), shapes, jacobian)
    local = galsim.JacobianWCS(*jacobian.ravel())
    for n, shape in enumerate(shapes):
        image = np.zeros(frame.detector.shape, np.float32)
        plates.add(image, np.array([200.3]), np.array([300.6]), np.array([1.0]), np.array([n]))
        truth = drawn_by_galsim(plates.grid, 200.3, 300.6, local.toImage(shape))
        # a Sersic profile's far wings end with the stamp, a disc's do not reach it
        assert_allclose(image.sum(), 1.0, atol=(1e-3, 1e-2)[n])
        assert_allclose(image, truth, atol=2e-3 * truth.max())


def test_stamps_are_the_spline_evaluated_at_the_pixels(rng: np.random.Generator) -> None:
    oversampling, half = 3, 5
    m = 2 * (oversampling * (half + 1) + 2) + 1
    plates = rng.normal(size=(5, m, m)).astype(np.float32)
    x, y = np.array([12.4, 1.7, 19.5]), np.array([9.9, 15.2, 22.3])
    plate = rng.integers(0, 5, (3, 4))
    weight = rng.random((3, 4))
    image = np.zeros((24, 20), np.float32)
    add_stamps(image, x, y, plate, weight, plates, oversampling, half)

    twin = np.zeros(image.shape)
    for n in range(3):
        mixed = np.tensordot(weight[n], plates[plate[n]].astype(float), axes=1)
        py, px = np.mgrid[:24, :20].astype(float)
        at = [m // 2 + oversampling * (py - y[n]), m // 2 + oversampling * (px - x[n])]
        near = np.abs(py - np.floor(y[n] + 0.5)) <= half
        near &= np.abs(px - np.floor(x[n] + 0.5)) <= half
        twin[near] += map_coordinates(mixed, [a[near] for a in at], order=3, prefilter=False)
    assert_allclose(image, twin, atol=2e-5)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_a_bright_star_keeps_its_wings(
    survey: SimulatedSurvey, frame: Frame, stars: Plates
) -> None:
    star = one(255.2, 250.4, 3e8 / frame.electrons_per_njy)
    none = star.only(np.array([False]))
    galaxies = galaxy_plates(stars.grid, [galsim.Gaussian(0.3)], np.eye(2) * 0.3)
    image = light(frame, star, none, stars, galaxies) - light(frame, none, none, stars, galaxies)
    nodes, weights = stars.grid.mix(np.array([255.2]), np.array([250.4]))
    edge = 250 + stars.half
    for row in (edge - 1, edge, edge + 1, edge + 30, 250 - stars.half - 1):
        truth = 3e8 * sum(
            weight * stars.grid.drawable(stars.grid.profiles[node]).xValue(-15.2, row - 250.4)
            for node, weight in zip(nodes[0], weights[0])
        )
        assert_allclose(image[row, 240], truth, rtol=0.02)
    assert_allclose(image.sum(), 3e8, rtol=2e-4)


def test_a_trail_spreads_its_flux_evenly_along_its_length(frame: Frame, stars: Plates) -> None:
    trail = replace(one(250.0, 250.0, 100.0, "trail"), dx=np.array([30.0]), dy=np.array([-40.0]))
    points = trail_points(frame, trail, 0.5, 10)
    assert_allclose(points.flux_njy.sum(), 100.0)
    assert_allclose([points.x.mean(), points.y.mean()], [250.0, 250.0], atol=1e-9)
    assert_allclose(points.x.max() - points.x.min(), 60.0, atol=0.4)
    assert_allclose((points.y - 250.0) * 30.0, (points.x - 250.0) * -40.0, atol=1e-9)


def test_a_streak_is_cut_at_the_detector(frame: Frame) -> None:
    nx, ny = frame.detector.nx, frame.detector.ny
    row = {"dx": np.array([2000.0]), "dy": np.array([0.0])}
    streak = replace(one(100.0, 40.0, 5.0, "satellite"), **row)
    low, high = clip_trail(frame.detector, streak, 0.0)
    assert_allclose((high - low) * 4000.0, nx)
    total = trail_points(frame, streak, 0.5, 0).flux_njy.sum()
    assert_allclose(total, 5.0 * nx * frame.detector.pixel_scale_arcsec)
    beside = replace(one(100.0, ny + 40.0, 5.0, "satellite"), **row)
    assert clip_trail(frame.detector, beside, 0.0) == (0.0, 0.0)
