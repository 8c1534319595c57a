"""Rows of glints against chance."""

import numpy as np

from promptdia.tasks.glints import GlintConfig, find_glints

CONFIG = GlintConfig()


def test_a_row_among_scattered_sources_is_found() -> None:
    random = np.random.default_rng(1)
    x, y = random.uniform(0, 2000, (2, 60))
    t = np.linspace(0, 1, 8)
    row_x = 600 + 500 * t + random.normal(0, 0.7, 8)
    row_y = 700 + 300 * t + random.normal(0, 0.7, 8)
    glint = find_glints(np.append(x, row_x), np.append(y, row_y), CONFIG)
    assert glint[60:].all()
    assert glint[:60].sum() <= 1


def test_random_skies_have_no_rows() -> None:
    random = np.random.default_rng(2)
    flagged = 0
    for n in (20, 100, 400):
        for _ in range(4):
            flagged += int(find_glints(*random.uniform(0, 2000, (2, n)), CONFIG).any())
    assert flagged == 0


def test_four_in_a_row_are_not_enough() -> None:
    t = np.arange(4.0)
    assert not find_glints(100 + 60 * t, 100 + 10 * t, CONFIG).any()
    assert not find_glints(np.zeros(0), np.zeros(0), CONFIG).any()
