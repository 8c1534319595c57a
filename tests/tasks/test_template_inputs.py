import numpy as np
from numpy.testing import assert_allclose
from support.pairs import Seeing, exposure_on

from promptdia.tasks.model.psf import effective_area
from promptdia.tasks.template_inputs import Candidate, SelectConfig, select_visits


def candidate(visit: int, mjd: float = 61000.0, fwhm: float = 3.0, noise: float = 100.0):
    return Candidate(visit, mjd, fwhm, noise)


def test_the_sharpest_visits_are_taken():
    frames = [candidate(n, fwhm=3.0 + 0.1 * ((7 * n) % 20)) for n in range(20)]
    taken = select_visits(frames, SelectConfig(max_visits=5))
    best = sorted(frames, key=lambda f: f.fwhm)[:5]
    assert taken == {f.visit for f in best}


def test_a_visit_counts_with_all_its_frames():
    frames = [candidate(1, fwhm=3.0), candidate(1, fwhm=5.0), candidate(1, fwhm=5.0)]
    frames += [candidate(2, fwhm=4.0), candidate(2, fwhm=4.0)]
    assert select_visits(frames, SelectConfig(max_visits=1)) == {2}


def test_shallow_and_old_visits_are_left_out_whatever_their_seeing():
    frames = [candidate(n) for n in range(4)]
    frames += [candidate(10, fwhm=1.0, noise=250.0), candidate(11, mjd=61000.0 - 800, fwhm=1.0)]
    assert select_visits(frames, SelectConfig()) == {0, 1, 2, 3}
    assert select_visits(frames, SelectConfig(max_age_days=900.0)) == {0, 1, 2, 3, 11}


def test_one_visit_alone_is_taken():
    assert select_visits([candidate(5)], SelectConfig()) == {5}


def test_seeing_and_depth_are_those_of_the_frame():
    shape, seeing = (64, 64), Seeing(3.6, 0.0, 0.0)
    exposure = exposure_on(shape)(np.zeros(shape), np.full(shape, 25.0))
    exposure = exposure.replace(psf=seeing.psf(shape))
    found = Candidate.of(exposure)
    area = effective_area(seeing.psf(shape).stamps(np.array([32.0]), np.array([32.0])))[0]
    assert_allclose(found.noise, 5.0 * np.sqrt(area))
    assert found.visit == exposure.visit.id
