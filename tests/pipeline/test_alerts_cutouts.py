import io

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, VarianceUncertainty
from numpy.testing import assert_allclose, assert_array_equal
from support.alerts import exposures, make_alerts, tables

from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.cutouts import _digits, _value, cutouts_fits, read_cutout
from promptdia.tasks.package import PackageAlerts, PackageConfig

REAL_KEYWORDS = (
    "SIMPLE BITPIX NAXIS NAXIS1 NAXIS2 EXTEND CUTMINX CUTMINY ROTPA BUNIT WCSAXES CRPIX1 CRPIX2 "
    "PC1_1 PC1_2 PC2_1 PC2_2 CDELT1 CDELT2 CRVAL1 CRVAL2 LATPOLE MJDREF"
)


@pytest.mark.parametrize("look_alike", [False, True])
def test_astropy_finds_nothing_to_complain_about(look_alike: bool) -> None:
    for alert in make_alerts(3):
        for data in cutouts_fits(alert, look_alike):
            with fits.open(io.BytesIO(data)) as hdus:
                hdus.verify("exception")
                assert data.startswith(b"SIMPLE  =")  # as it is, not compressed
                assert [h.name for h in hdus] == ["PRIMARY", "UNCERT", "PSFIMAGE"]
                assert [h.header["BITPIX"] for h in hdus] == [-32, -32, -64]
                assert len(data) == sum(h.fileinfo()["datSpan"] for h in hdus) + 3 * 2880


def test_the_look_alike_has_exactly_the_cards_of_a_real_cutout() -> None:
    data = cutouts_fits(make_alerts(1)[0], look_alike=True)[0]
    with fits.open(io.BytesIO(data)) as hdus:
        assert " ".join(hdus[0].header) == REAL_KEYWORDS
        assert hdus[0].header["BUNIT"] == "nJy"
        assert hdus[1].header["UTYPE"] == "VarianceUncertainty"


def test_the_primary_header_is_one_block_of_at_most_36_cards() -> None:
    data = cutouts_fits(make_alerts(1)[0])[0]
    cards = [data[i : i + 80] for i in range(0, 2880, 80)]
    assert len(cards) == 36
    assert f"{'END':<80}".encode() in cards


def test_the_reference_pixel_is_the_source_s_and_counts_from_the_corner() -> None:
    for alert in make_alerts(3):
        source = alert.source[0]
        for data in cutouts_fits(alert):
            header = fits.getheader(io.BytesIO(data))
            corner = header["CUTMINX"], header["CUTMINY"]
            there = source["x"] - corner[0], source["y"] - corner[1]
            assert_allclose((header["CRPIX1"], header["CRPIX2"]), there, atol=1e-12)
            assert_allclose((header["CRVAL1"], header["CRVAL2"]), (source["ra"], source["dec"]),
                            rtol=0, atol=1e-12)  # fmt: skip


def test_ccddata_reads_image_variance_unit_and_a_celestial_wcs() -> None:
    alert = make_alerts(1)[0]
    for data, cutout in zip(cutouts_fits(alert), (alert.difference, alert.science, alert.template)):
        ccd = CCDData.read(io.BytesIO(data), format="fits")
        assert ccd.unit.to_string() == "nJy"
        assert isinstance(ccd.uncertainty, VarianceUncertainty)
        assert_array_equal(ccd.data, cutout.image)
        assert_array_equal(ccd.uncertainty.array, cutout.variance)
        frame = cutout.frame
        ra, dec = ccd.wcs.all_pix2world(frame.x - frame.x0, frame.y - frame.y0, 0)
        assert_allclose([ra, dec], [frame.ra, frame.dec], atol=1e-12)


def test_the_wcs_of_a_cutout_agrees_with_the_image_over_its_whole_width() -> None:
    science = exposures()[0]
    alert = make_alerts(1)[0]
    ccd = CCDData.read(io.BytesIO(cutouts_fits(alert)[1]), format="fits")
    frame = alert.science.frame
    corner = np.array([0.0, alert.science.image.shape[0] - 1.0])
    ra, dec = ccd.wcs.all_pix2world(corner, corner, 0)
    x, y = science.wcs.sky_to_pixel(ra, dec)
    assert_allclose(x, corner + frame.x0, atol=1e-3)
    assert_allclose(y, corner + frame.y0, atol=1e-3)


def test_without_ctype_ccddata_has_no_wcs_as_with_rubin() -> None:
    data = cutouts_fits(make_alerts(1)[0], look_alike=True)[0]
    assert CCDData.read(io.BytesIO(data), format="fits").wcs is None


def test_what_is_written_is_read_back() -> None:
    alert = make_alerts(1)[0]
    for data, cutout in zip(cutouts_fits(alert), (alert.difference, alert.science, alert.template)):
        back = read_cutout(data)
        assert_array_equal(back.image, cutout.image)
        assert_array_equal(back.variance, cutout.variance)
        assert_array_equal(back.psf, cutout.psf)
        assert (back.frame.x0, back.frame.y0) == (cutout.frame.x0, cutout.frame.y0)
        assert_allclose([back.frame.x, back.frame.y], [cutout.frame.x, cutout.frame.y], rtol=1e-12)
        assert_allclose(back.frame.cd, cutout.frame.cd, rtol=1e-12)
        assert back.frame.rotation_deg == cutout.frame.rotation_deg


def test_a_cutout_at_the_edge_and_the_widest_one_are_valid_fits_too() -> None:
    sources, objects, prv, forced, _, _ = tables(2, 0)
    sources["x"], sources["bboxSize"] = [0.3, 120.0], [30, 500]
    alerts = PackageAlerts(PackageConfig()).run(sources, objects, prv, forced, *exposures())
    for alert, side in zip(alerts, (30, 102)):
        data = cutouts_fits(alert)[1]
        with fits.open(io.BytesIO(data)) as hdus:
            hdus.verify("exception")
            assert hdus[0].data.shape == (side, side)
            assert hdus[0].header["CUTMINX"] == alert.science.frame.x0 - 1
    assert np.isnan(read_cutout(cutouts_fits(alerts[0])[1]).image).sum() == 14 * 30


@pytest.mark.parametrize(
    "value", [0.0, 1.0, -90.0, 41.5, 1e-300, -4.1743119329589123e-05, 359.99999999999994, 1e22]
)
def test_numbers_survive_the_twenty_columns_of_a_fits_card(value: float) -> None:
    text = _value(value)
    assert len(text) == 20
    header = fits.Header.fromstring(f"KEY     = {text:<70}{'END':<80}".ljust(2880))
    assert isinstance(header["KEY"], float)
    assert header["KEY"] == pytest.approx(value, rel=1e-13, abs=0)


def test_few_digits_keep_their_point() -> None:
    assert [_digits(v, 17) for v in (1.0, 1e20, 0.5)] == ["1.0", "1.0E+20", "0.5"]


def test_bytes_that_are_no_cutout_are_refused() -> None:
    data = cutouts_fits(make_alerts(1)[0])[0]
    image_only = data[: 2 * 2880 + 2880]
    for wrong in (b"", b"GIF89a", data[:3000], data[:-2880], image_only):
        with pytest.raises(InputError, match="cutout"):
            read_cutout(wrong)
