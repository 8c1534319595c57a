"""The rules that stop detections."""

import numpy as np
import pytest

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.tasks.filter import FilterConfig, FilterDiaSources, rules
from promptdia.tasks.measure import MEASURED
from promptdia.tasks.model.arrays import Catalog


def clean(n: int) -> Catalog:
    """Sources that no rule stops."""
    sources = MEASURED.empty(n)
    sources["diaSourceId"] = np.arange(n) + 100
    sources["scienceFlux"], sources["scienceFluxErr"] = 500.0, 20.0
    sources["trailLength"], sources["trailLengthErr"] = 0.3, 0.2
    sources["sharpness"], sources["badFraction"] = 0.9, 0.0
    return sources


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("pixelFlags_offimage", True, "off_image"),
        ("pixelFlags_nodataCenter", True, "no_data_center"),
        ("edgeCenter", True, "edge_center"),
        ("pixelFlags_saturatedCenter", True, "saturated_center"),
        ("satTemplateCenter", True, "saturated_template_center"),
        ("badCenter", True, "bad_center"),
        ("pixelFlags_crCenter", True, "cosmic_ray_center"),
        ("interpolatedCenterAll", True, "interpolated_center"),
        ("spikeCenter", True, "spike_center"),
        ("highVarianceCenterAll", True, "high_variance_center"),
        ("psfFlux_flag_noGoodPixels", True, "no_good_pixels"),
        ("nearBrightCenter", True, "near_bright_star"),
        ("pixelFlags_streakCenter", True, "streak_center"),
        ("badFraction", 0.5, "bad_fraction"),
        ("trailLength", 13.0, "trail_length_arcsec"),
        ("isDipole", True, "dipole"),
        ("sharpness", 2.5, "sharper_than_psf"),
        ("centroid_flag", True, "centroid"),
        ("scienceFlux", -41.0, "science_snr"),
        ("glint_trail", True, "glint"),
    ],
)
def test_each_rule_stops_its_source_and_no_other(column: str, value: float, rule: str) -> None:
    sources = clean(3)
    sources[column][1] = value
    kept, rejected = FilterDiaSources(FilterConfig()).run(sources, 30.0)
    assert list(kept["diaSourceId"]) == [100, 102]
    assert list(rejected["diaSourceId"]) == [101]
    assert rejected["rule"][0] == rule
    assert kept.dtype == DIA_SOURCE.dtype
    assert rejected.dtype == REJECTED.dtype


def test_the_first_rule_is_named_with_value_and_limit() -> None:
    sources = clean(1)
    sources["trailLength"], sources["glint_trail"], sources["isDipole"] = 20.0, True, True
    (row,) = FilterDiaSources(FilterConfig()).run(sources, 30.0).rejected
    assert row["rule"] == "trail_length_arcsec"
    assert row["rule_value"] == 20.0
    assert row["rule_limit"] == pytest.approx(12.5)


def test_a_length_that_is_not_known_stops_nothing_but_a_shapeless_long_footprint_does() -> None:
    sources = clean(3)
    sources["trailLength"][0], sources["trailLengthErr"][0] = 20.0, 10.0
    sources["trailLength"][1:], sources["trail_flag"][1:] = np.nan, True
    sources["footprintLength"] = [30.0, 5.0, 30.0]
    kept, rejected = FilterDiaSources(FilterConfig()).run(sources, 30.0)
    assert list(kept["diaSourceId"]) == [100, 101]
    assert list(rejected["rule_value"]) == [30.0]


def test_kept_and_rejected_add_up_whatever_comes() -> None:
    random = np.random.default_rng(1)
    sources = clean(500)
    for column in MEASURED.columns:
        if column.dtype.kind == "b":
            sources[column.name] = random.random(500) < 0.01
        elif column.dtype.kind == "f":
            wild = random.random(500) < 0.05
            sources[column.name][wild] = random.choice([np.nan, -1e3, 1e3], wild.sum())
    kept, rejected = FilterDiaSources(FilterConfig()).run(sources, 30.0)
    both = np.concatenate([kept["diaSourceId"], rejected["diaSourceId"]])
    assert np.array_equal(np.sort(both), sources["diaSourceId"])
    assert np.all(rejected["rule"] != "")


def test_rules_can_be_switched_off() -> None:
    off = FilterConfig(False, False, False, False, None, None, None, None)
    names = {rule.name for rule in rules(off, 30.0)}
    everything = [rule.name for rule in rules(FilterConfig(), 30.0)]
    assert len(set(everything)) == len(everything)
    assert set(everything) - names == {
        "near_bright_star",
        "streak_center",
        "glint",
        "dipole",
        "science_snr",
        "bad_fraction",
        "sharper_than_psf",
        "trail_length_arcsec",
    }


def test_no_source_gives_two_empty_tables() -> None:
    kept, rejected = FilterDiaSources(FilterConfig()).run(MEASURED.empty(0), 30.0)
    assert len(kept) == len(rejected) == 0
