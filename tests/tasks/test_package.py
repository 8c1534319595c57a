import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.alerts import NX, NY, VISIT, exposures, tables

from promptdia.tasks.package import PackageAlerts, PackageConfig

package = PackageAlerts(PackageConfig()).run


def test_each_source_gets_its_own_object_and_history() -> None:
    sources, objects, prv, forced, _, _ = tables(5, 4)
    alerts = package(sources, objects, prv, forced, *exposures())
    assert [a.id for a in alerts] == list(sources["diaSourceId"])
    for alert in alerts:
        object_id = alert.source["diaObjectId"][0]
        assert alert.object["diaObjectId"].tolist() == [object_id]
        assert set(alert.prv_sources["diaObjectId"]) == {object_id}
        assert set(alert.prv_forced["diaObjectId"]) == {object_id}
        assert alert.prv_sources.size == alert.prv_forced.size == 4
        assert np.all(np.diff(alert.prv_sources["midpointMjdTai"]) > 0)
        assert alert.ss_source.size == alert.orbit.size == 0


def test_the_history_has_neither_the_source_itself_nor_its_visit() -> None:
    sources, objects, prv, forced, _, _ = tables(2, 3)
    prv = np.concatenate([prv, sources])
    for alert in package(sources, objects, prv, forced, *exposures()):
        assert alert.id not in alert.prv_sources["diaSourceId"]
        assert VISIT.id not in alert.prv_sources["visit"]


def test_forced_photometry_of_the_visit_itself_is_carried() -> None:
    sources, objects, prv, forced, _, _ = tables(1, 3)
    now = forced[:1].copy()
    now["visit"], now["midpointMjdTai"], now["diaForcedSourceId"] = VISIT.id, VISIT.mjd_tai, 1
    (alert,) = package(sources, objects, prv, np.concatenate([now, forced]), *exposures())
    assert alert.prv_forced["visit"][-1] == VISIT.id
    assert alert.prv_forced.size == 4


def test_history_older_than_the_window_or_later_than_the_source_is_left_out() -> None:
    sources, objects, prv, forced, _, _ = tables(1, 5)
    prv = prv[np.argsort(prv["midpointMjdTai"])]
    prv["midpointMjdTai"][0] = VISIT.mjd_tai - 366
    prv["midpointMjdTai"][-1] = VISIT.mjd_tai + 1
    (alert,) = package(sources, objects, prv, forced, *exposures())
    assert_array_equal(alert.prv_sources["diaSourceId"], prv["diaSourceId"][1:-1])


def test_a_visit_appears_once_in_a_history() -> None:
    sources, objects, prv, forced, _, _ = tables(1, 4)
    twin = prv[:1].copy()
    twin["diaSourceId"] += 1_000_000
    (alert,) = package(sources, objects, np.concatenate([prv, twin]), forced, *exposures())
    assert np.unique(alert.prv_sources["visit"]).size == alert.prv_sources.size == 4


def test_a_solar_system_object_has_its_circumstances_and_orbit_instead_of_a_history() -> None:
    *all_tables, ss_sources, orbits = tables(3, 2, n_sso=2)
    alerts = package(*all_tables, *exposures(), ss_sources, orbits)
    assert [a.object.size for a in alerts] == [1, 0, 0]
    for alert in alerts[1:]:
        assert alert.prv_sources.size == alert.prv_forced.size == 0
        assert alert.ss_source["diaSourceId"] == alert.id
        assert alert.orbit["designation"] == alert.ss_source["designation"]


@pytest.mark.parametrize("both", [0, 99])
def test_a_source_with_two_owners_or_none_is_refused(both: int) -> None:
    sources, objects, prv, forced, _, _ = tables(2, 1)
    sources["diaObjectId"][1] *= both > 0
    sources["ssObjectId"][1] = both
    with pytest.raises(ValueError, match="either a DiaObject or a Solar System object"):
        package(sources, objects, prv, forced, *exposures())


def test_a_source_whose_object_is_missing_is_refused() -> None:
    sources, objects, prv, forced, _, _ = tables(2, 1)
    gone = sources["diaObjectId"][0]
    with pytest.raises(ValueError, match=f"diaObjectId {gone}"):
        package(sources, objects[objects["diaObjectId"] != gone], prv, forced, *exposures())


def test_no_sources_give_no_alerts() -> None:
    sources, objects, prv, forced, _, _ = tables(1, 1)
    assert package(sources[:0], objects, prv, forced, *exposures()) == []


@pytest.mark.parametrize(("bbox", "side"), [(5, 30), (30, 30), (47, 47), (102, 102), (900, 102)])
def test_the_cutout_is_as_wide_as_the_footprint_within_limits(bbox: int, side: int) -> None:
    sources, objects, prv, forced, _, _ = tables(1, 0)
    sources["bboxSize"] = bbox
    (alert,) = package(sources, objects, prv, forced, *exposures())
    assert alert.science.image.shape == alert.template.variance.shape == (side, side)


def test_all_three_cutouts_show_the_same_pixels_with_the_source_in_the_middle() -> None:
    sources, objects, prv, forced, _, _ = tables(6, 0)
    science, template, difference = exposures()
    for alert in package(sources, objects, prv, forced, science, template, difference):
        frame = alert.science.frame
        side = alert.science.image.shape[0]
        box = np.s_[frame.y0 : frame.y0 + side, frame.x0 : frame.x0 + side]
        for cutout, exposure in (
            (alert.science, science),
            (alert.template, template),
            (alert.difference, difference),
        ):
            assert_array_equal(cutout.image, exposure.image[box])
            assert_array_equal(cutout.variance, exposure.variance[box])
            assert_allclose(cutout.psf.sum(), 1, atol=1e-9)
        middle = (side - 1) / 2
        assert abs(frame.x - frame.x0 - middle) <= 0.5
        assert abs(frame.y - frame.y0 - middle) <= 0.5
    assert alert.template.psf.shape == (51, 51)


def test_the_box_is_where_rubin_puts_it() -> None:
    # of alert 170094456272322680: x, y, CUTMINX + 1, CUTMINY + 1
    from promptdia.tasks.package import _corner

    assert _corner(1213.8035888671875, 2275.350830078125, 30) == (1199, 2261)


@pytest.mark.parametrize(("x", "y"), [(2.2, 100.0), (NX - 1.3, NY - 0.6), (0.0, 0.0)])
def test_a_source_at_the_edge_gets_a_cutout_filled_up_with_nan(x: float, y: float) -> None:
    sources, objects, prv, forced, _, _ = tables(1, 0)
    sources["x"], sources["y"], sources["bboxSize"] = x, y, 40
    science, template, difference = exposures()
    (alert,) = package(sources, objects, prv, forced, science, template, difference)
    cutout, frame = alert.science, alert.science.frame
    assert cutout.image.shape == (40, 40)
    yy, xx = np.mgrid[frame.y0 : frame.y0 + 40, frame.x0 : frame.x0 + 40]
    inside = (xx >= 0) & (xx < NX) & (yy >= 0) & (yy < NY)
    assert 0 < inside.sum() < 1600
    assert_array_equal(cutout.image[inside], science.image[yy[inside], xx[inside]])
    assert np.isnan(cutout.image[~inside]).all()
    assert np.isinf(cutout.variance[~inside]).all()


def test_the_frame_maps_neighbouring_pixels_to_the_sky_as_the_image_does() -> None:
    sources, objects, prv, forced, _, _ = tables(1, 0)
    science, template, difference = exposures()
    (alert,) = package(sources, objects, prv, forced, science, template, difference)
    frame = alert.science.frame
    east, north = frame.cd @ [10.0, -5.0]
    ra, dec = science.wcs.pixel_to_sky(frame.x + 10.0, frame.y - 5.0)
    assert_allclose((ra - frame.ra) * np.cos(np.deg2rad(frame.dec)), east, atol=1e-7)
    assert_allclose(dec - frame.dec, north, atol=1e-7)
