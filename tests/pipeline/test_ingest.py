"""Frames as cameras and other pipelines write them come into a repository."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.time import Time
from numpy.testing import assert_allclose, assert_array_equal
from support.camera_files import (
    CAMERA,
    MOSAIC,
    NX,
    NY,
    calibrated_header,
    counts,
    foreign_header,
    make_repository,
    write_foreign,
)

from promptdia.pipeline.errors import ConfigError, InputError
from promptdia.pipeline.ingest import ingest
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.repository import Repository
from promptdia.tasks.isr import IsrConfig, RemoveSignature
from promptdia.tasks.model.calibrations import Calibrations
from promptdia.tasks.model.exposure import ScienceExposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import gaussian_stamp

VISIT = 2024030400007
"""Frame 7 of the night that began on 2024-03-04 (03:20 UT of the next day)."""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path)


def _refusal(repository: Repository, path: Path, kind: str | None = None) -> str:
    """The one sentence with which a file is refused."""
    result = ingest(repository, [path], kind)
    assert result.stored == []
    [(source, reason)] = result.refused
    assert source == path
    assert "\n" not in reason
    return reason


def _tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- raw frames


def test_a_foreign_header_is_read_by_the_rules_of_the_camera(
    repository: Repository, tmp_path: Path
) -> None:
    path = write_foreign(tmp_path / "a.fits", foreign_header())
    result = ingest(repository, [path])
    assert result.refused == []
    assert result.stored == [(path, "raw", repository.raw_path(VISIT, 4))]
    visit = repository.visit(VISIT)
    start = Time("2024-03-05T03:20:30.5", scale="utc").tai.mjd
    assert_allclose(visit.mjd_tai, start + 30 / 86400, atol=1e-9, rtol=0)
    assert visit.band == "r"
    assert visit.exposure_s == 60.0
    assert_allclose([visit.ra_deg, visit.dec_deg], [157.5, -15.5])
    assert visit.target_name == "M 104"
    assert visit.airmass == 1.0


def test_pixels_are_stored_as_they_came(repository: Repository, tmp_path: Path) -> None:
    pixels = counts(3)
    ingest(repository, [write_foreign(tmp_path / "a.fits", foreign_header(), pixels)])
    assert_array_equal(repository.raw(VISIT, 4).pixels, pixels)
    with fits.open(repository.raw_path(VISIT, 4)) as hdus:
        assert hdus[0].header["TELRA"] == "10:30:00.0"
        assert hdus[0].header["BITPIX"] == 16


def test_pointing_and_plate_scale_give_the_first_wcs(
    repository: Repository, tmp_path: Path
) -> None:
    ingest(repository, [write_foreign(tmp_path / "a.fits", foreign_header())])
    wcs = repository.raw(VISIT, 4).wcs
    x, y = np.array([(NX - 1) / 2, NX - 1.0]), np.array([(NY - 1) / 2] * 2)
    sky = SkyCoord(*wcs.pixel_to_sky(x, y), unit="deg")
    assert sky[0].separation(SkyCoord(157.5, -15.5, unit="deg")).arcsec < 1e-6
    assert_allclose(sky[0].separation(sky[1]).arcsec, 0.5 * (NX - 1) / 2, rtol=1e-6)


def test_a_wcs_in_the_header_is_kept(repository: Repository, tmp_path: Path) -> None:
    header = foreign_header()
    header.update(calibrated_header(CRVAL1=200.0))
    ingest(repository, [write_foreign(tmp_path / "a.fits", header)])
    ra, dec = repository.raw(2024030500007, 4).wcs.pixel_to_sky(
        np.array([(NX - 1) / 2]), np.array([(NY - 1) / 2])
    )
    assert_allclose([ra[0], dec[0]], [200.0, -15.5], atol=1e-9)


def test_a_compressed_file_is_read(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "a.fits.fz"
    pixels = counts(5)
    fits.CompImageHDU(
        pixels.astype(np.uint16), header=foreign_header(), compression_type="RICE_1"
    ).writeto(path)
    ingest(repository, [path])
    assert_array_equal(repository.raw(VISIT, 4).pixels, pixels)


def test_each_extension_becomes_its_own_detector(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, MOSAIC)
    primary = fits.Header({"VISIT": 2024030500001, "BAND": "i", "MJD-AVG": 60374.1})
    primary.update({"EXPTIME": 30.0, "BORE-RA": 10.0, "BORE-DEC": 0.0})
    chips = [counts(seed, overscan=0).astype(np.uint16) for seed in (1, 2)]
    path = tmp_path / "mosaic.fits"
    hdus = [fits.PrimaryHDU(header=primary)]
    hdus += [fits.ImageHDU(chip, name=name) for chip, name in zip(chips, ("IM1", "IM2"))]
    fits.HDUList(hdus).writeto(path)
    result = ingest(repository, [path])
    assert [kind for _, kind, _ in result.stored] == ["raw", "raw"]
    assert repository.detectors(2024030500001) == [1, 2]
    for number, chip in zip((1, 2), chips):
        frame = repository.raw(2024030500001, number)
        assert_array_equal(frame.pixels, chip)
        ra, _ = frame.wcs.pixel_to_sky(np.array([23.5]), np.array([19.5]))
        east = (ra[0] - 10.0 + 180) % 360 - 180
        # +x is west at rotation 0: detector 2 (centre +12 arcsec) lies west of the boresight
        assert_allclose(east * 3600, {1: 12.0, 2: -12.0}[number], atol=1e-3)


SPLIT = """
name: split
detectors:
  - id: 1
    size: [48, 40]
    pixel_scale: 0.5
    amplifiers:
      - {data: [2, 26, 0, 40], overscan: [26, 30, 0, 40], target: [0, 24, 0, 40],
         gain: 2, read_noise: 6, saturation: 6e4, extension: A}
      - {data: [2, 26, 0, 40], overscan: [26, 30, 0, 40], target: [24, 48, 0, 40],
         gain: 3, read_noise: 6, saturation: 6e4, extension: B, flip_x: true}
"""


def test_amplifiers_in_extensions_of_their_own_are_put_together(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, SPLIT)
    primary = fits.Header({"VISIT": 2024030500001, "BAND": "i", "MJD-AVG": 60374.1})
    primary.update({"EXPTIME": 30.0, "BORE-RA": 10.0, "BORE-DEC": 0.0, "DETECTOR": 1})
    parts = []
    for level, signal in ((900, 50), (1100, 80)):
        part = np.full((40, 32), level, np.uint16)
        part[:, 2:26] += (signal + np.arange(24)).astype(np.uint16)
        parts.append(part)
    hdus = [fits.PrimaryHDU(header=primary)]
    hdus += [fits.ImageHDU(part, name=name) for part, name in zip(parts, "AB")]
    path = tmp_path / "split.fits"
    fits.HDUList(hdus).writeto(path)
    assert ingest(repository, [path]).refused == []
    exposure = RemoveSignature(IsrConfig()).run(repository.raw(2024030500001, 1), Calibrations())
    row = np.concatenate([2.0 * (50 + np.arange(24)), 3.0 * (80 + np.arange(24)[::-1])])
    assert_allclose(exposure.image, np.tile(row, (40, 1)))
    hdus[2] = fits.ImageHDU(parts[1][:, :20], name="B")
    fits.HDUList(hdus).writeto(path, overwrite=True)
    [(_, reason)] = ingest(repository, [path]).refused
    assert "the image of amplifier 1 is (40, 20), detector 1 needs (40, 30)" in reason


def test_an_absent_extension_is_named(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, MOSAIC)
    path = tmp_path / "single.fits"
    fits.PrimaryHDU(counts(overscan=0).astype(np.uint16)).writeto(path)
    assert "single.fits has no extension IM1" in _refusal(repository, path)


def test_the_same_file_twice_is_the_same_repository(repository: Repository, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "a.fits", foreign_header())
    ingest(repository, [path])
    before = _tree(repository.root)
    ingest(repository, [path])
    assert _tree(repository.root) == before


def test_a_folder_is_taken_whole_and_one_bad_file_does_not_stop_it(
    repository: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    for frame in (1, 2, 3):
        write_foreign(folder / f"f{frame}.fits", foreign_header(frame=frame))
    (folder / "f2.fits").write_bytes(b"no FITS at all")
    (folder / "log.txt").write_text("clouds")
    result = ingest(repository, [folder])
    assert [p.name for p, _, _ in result.stored] == ["f1.fits", "f3.fits"]
    assert [p.name for p, _ in result.refused] == ["f2.fits"]
    assert len(repository.visits()) == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_file_is_refused_by_name(
    repository: Repository, tmp_path: Path, compressed: bool
) -> None:
    whole, path = tmp_path / "whole.fits", tmp_path / "cut.fits"
    data, header = counts().astype(np.uint16), foreign_header()
    if compressed:
        fits.CompImageHDU(data, header=header).writeto(whole)
    else:
        fits.PrimaryHDU(data, header=header).writeto(whole)
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) - 2880])
    assert "cut.fits is not a readable FITS file" in _refusal(repository, path)
    assert not (repository.root / "raw").exists()


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("EXPOSED", r"a\.fits has no EXPOSED \(exposure_s\); add the card or give header\."),
        ("TELRA", r"a\.fits has no TELRA \(ra\)"),
        ("UT", r"a\.fits has no DATE\+UT \(mjd_start\)"),
        ("FRAMENO", r"a\.fits has no FRAMENO \(sequence\)"),
        ("OBSTYPE", r"a\.fits has no OBSTYPE \(kind\)"),
        ("FILTER", r"a\.fits has no FILTER \(band\)"),
    ],
)
def test_a_missing_card_is_named_with_the_remedy(
    repository: Repository, tmp_path: Path, card: str, message: str
) -> None:
    path = write_foreign(tmp_path / "a.fits", foreign_header(**{card: None}))
    result = ingest(repository, [path])
    with pytest.raises(InputError, match=message):
        raise InputError(result.refused[0][1])
    assert "instrument hilltop" in result.refused[0][1]


@pytest.mark.parametrize(
    ("card", "value", "message"),
    [
        ("FILTER", "H-alpha", "band is 'H-alpha', the instrument knows Blue, Clear"),
        ("OBSTYPE", "FOCUS", "kind is 'FOCUS', the instrument knows DARK, OBJECT, SKYFLAT, ZERO"),
        ("TELRA", "ten hours", "ra is 'ten hours'"),
        ("DATE", "yesterday", "mjd_start is 'yesterdayT03:20:30.5'"),
        ("EXPOSED", 0.0, "exposure time is 0.0 s, must be > 0"),
        ("EXPOSED", -1.0, "exposure time is -1.0 s"),
        ("EXPOSED", "long", "exposure_s is 'long'"),
        ("FRAMENO", "seven", "sequence is 'seven'"),
    ],
)
def test_a_card_that_cannot_be_understood_is_quoted(
    repository: Repository, tmp_path: Path, card: str, value: object, message: str
) -> None:
    path = write_foreign(tmp_path / "a.fits", foreign_header(**{card: value}))
    assert message in _refusal(repository, path)


def test_a_detector_that_the_camera_lacks_is_refused(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, CAMERA.replace("{value: 4}", "{key: CHIP}"))
    path = write_foreign(tmp_path / "a.fits", foreign_header(CHIP=9))
    assert "instrument hilltop has no detector 9; it has 4" in _refusal(repository, path)


def test_a_frame_of_the_wrong_size_is_refused(repository: Repository, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "a.fits", foreign_header(), counts()[:-1])
    assert "(39, 52)" in _refusal(repository, path)


def test_a_file_without_image_is_refused(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(header=foreign_header()).writeto(path)
    assert "a.fits holds no 2-d image" in _refusal(repository, path)


def test_a_path_that_is_not_there_stops_at_once(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.fits does not exist"):
        ingest(repository, [tmp_path / "nowhere.fits"])


def test_an_unknown_kind_lists_the_known_ones(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot ingest as fringe; known are raw, calexp, bias"):
        ingest(repository, [tmp_path], "fringe")


def test_a_folder_that_cannot_be_written_is_named(repository: Repository, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "a.fits", foreign_header())
    (repository.root / "raw").write_text("a file where a folder must be")
    with pytest.raises(ConfigError, match=r"cannot write .*raw/2024030400007/4\.fits"):
        ingest(repository, [path])


def test_two_frames_with_one_id_are_not_taken_for_one(
    repository: Repository, tmp_path: Path
) -> None:
    first = write_foreign(tmp_path / "a.fits", foreign_header(), counts(1))
    second = write_foreign(tmp_path / "b.fits", foreign_header(), counts(2))
    result = ingest(repository, [first, second])
    assert [path for path, _, _ in result.stored] == [first]
    [(path, reason)] = result.refused
    assert path == second
    assert "would take the place of another frame" in reason
    assert_array_equal(repository.raw(VISIT, 4).pixels, counts(1))
    # a broken one is replaced
    repository.raw_path(VISIT, 4).write_bytes(b"SIMPLE")
    assert ingest(repository, [second]).refused == []


def test_an_ingested_frame_goes_through_isr(repository: Repository, tmp_path: Path) -> None:
    ingest(repository, [write_foreign(tmp_path / "a.fits", foreign_header())])
    exposure = RemoveSignature(IsrConfig()).run(repository.raw(VISIT, 4), Calibrations())
    assert exposure.shape == (NY, NX)
    assert_allclose(np.median(exposure.image), 200 * 2.0, rtol=0.02)


# ---- calibrated frames from elsewhere

LSST_BITS = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "NO_DATA": 8, "CROSSTALK": 9}
OTHER_BITS = {"BAD": 3, "SAT": 7, "CR": 0, "NO_DATA": 12, "CROSSTALK": 1, "STREAK": 20}


def _calibrated(
    path: Path, bits: dict[str, int] = OTHER_BITS, primary_image: bool = False, **cards: object
) -> tuple[Path, np.ndarray]:
    rng = np.random.default_rng(2)
    image = rng.normal(0, 10, (NY, NX)).astype(np.float32)
    mask = np.zeros((NY, NX), np.int32)
    for row, bit in enumerate(bits.values()):
        mask[row] = 1 << bit
    header = calibrated_header(**cards)
    masked = fits.ImageHDU(
        mask, header=fits.Header({f"HIERARCH MP_{n}": b for n, b in bits.items()}), name="MASK"
    )
    variance = fits.ImageHDU(np.full((NY, NX), 100, np.float32), name="VARIANCE")
    psf = fits.ImageHDU(gaussian_stamp(1.5, 21), name="PSF")
    if primary_image:
        hdus = [fits.PrimaryHDU(image, header=header), masked, variance, psf]
    else:
        plain = fits.ImageHDU(image, header=header, name="IMAGE")
        hdus = [fits.PrimaryHDU(), plain, masked, variance, psf]
    fits.HDUList(hdus).writeto(path)
    return path, image


PLAIN = CAMERA.split("header:")[0]
"""The camera without translation: files carry promptdia's own cards."""


@pytest.fixture
def plain(tmp_path: Path) -> Repository:
    return make_repository(tmp_path, PLAIN)


@pytest.mark.parametrize("primary_image", [False, True])
@pytest.mark.parametrize("bits", [LSST_BITS, OTHER_BITS])
def test_a_calibrated_frame_is_taken_in_njy_with_its_mask_by_name(
    plain: Repository, tmp_path: Path, bits: dict[str, int], primary_image: bool
) -> None:
    path, image = _calibrated(tmp_path / "c.fits", bits, primary_image)
    assert ingest(plain, [path], "calexp").refused == []
    stored = plain.calexp(2024030500007, 4)
    scale = 10 ** (0.4 * (31.4 - 27.0))
    assert_allclose(stored.image, image * scale, rtol=1e-5)
    assert_allclose(stored.variance, 100 * scale**2, rtol=1e-5)
    assert stored.photo_calib is not None
    assert_allclose(stored.photo_calib.zero_point, 27.0, atol=1e-6)
    for row, name in enumerate(bits):
        if name == "CROSSTALK":  # a plane we do not have
            assert not stored.mask[row].any()
        else:
            assert (stored.mask[row] == MaskPlane[name].value).all(), name
    assert not stored.mask[len(bits) :].any()
    assert_allclose(stored.require_psf().stamps(np.zeros(1), np.zeros(1))[0].sum(), 1.0)


def test_njy_needs_no_zero_point(plain: Repository, tmp_path: Path) -> None:
    path, image = _calibrated(tmp_path / "c.fits", PHOTZP=None, BUNIT="nJy")
    assert ingest(plain, [path], "calexp").refused == []
    assert_array_equal(plain.calexp(2024030500007, 4).image, image)


def test_date_avg_stands_in_for_mjd_avg(plain: Repository, tmp_path: Path) -> None:
    path, _ = _calibrated(tmp_path / "c.fits", MJD_AVG=None, DATE_AVG="2024-03-05T06:00:00.000")
    assert ingest(plain, [path], "calexp").refused == []
    assert_allclose(plain.visit(2024030500007).mjd_tai, 60374.25, atol=1e-8, rtol=0)


def test_mask_and_variance_can_be_made_from_saturation_and_gain(
    plain: Repository, tmp_path: Path
) -> None:
    image = np.random.default_rng(1).normal(50, 10, (NY, NX)).astype(np.float32)
    image[5, 6], image[9, 9] = 65000, np.nan
    path = tmp_path / "bare.fits"
    fits.PrimaryHDU(image, header=calibrated_header(GAIN=2.0, SATURATE=60000)).writeto(path)
    assert ingest(plain, [path], "calexp").refused == []
    stored = plain.calexp(2024030500007, 4)
    assert np.flatnonzero(has(stored.mask, MaskPlane.SAT)).tolist() == [5 * NX + 6]
    assert np.flatnonzero(has(stored.mask, MaskPlane.NO_DATA)).tolist() == [9 * NX + 9]
    assert stored.image[9, 9] == 0
    assert np.isinf(stored.variance[9, 9])
    scale = 10 ** (0.4 * 4.4)
    assert_allclose(np.median(stored.variance) / scale**2, 100, rtol=0.15)
    assert_allclose(stored.variance[5, 6] / scale**2, 100 + 64950 / 2, rtol=0.01)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"VISIT": None}, "c.fits has no VISIT (visit); add the card"),
        ({"BAND": None}, "c.fits has no BAND (band); add the card or give header.band in the"),
        ({"MJD_AVG": None}, "c.fits has no MJD-AVG (mjd_mid)"),
        ({"EXPTIME": None}, "c.fits has no EXPTIME (exposure_s)"),
        ({"PHOTZP": None}, "c.fits has neither BUNIT = 'nJy' nor PHOTZP"),
        ({"CTYPE1": None, "CTYPE2": None}, "c.fits has no celestial WCS (CTYPE1, CTYPE2)"),
        ({"DETECTOR": 3}, "instrument hilltop has no detector 3; it has 4"),
    ],
)
def test_what_a_calibrated_frame_lacks_is_one_sentence(
    plain: Repository, tmp_path: Path, cards: dict[str, object], message: str
) -> None:
    path, _ = _calibrated(tmp_path / "c.fits", **cards)
    assert message in _refusal(plain, path, "calexp")


def test_a_bare_calibrated_frame_names_the_card_it_needs(plain: Repository, tmp_path: Path) -> None:
    path = tmp_path / "bare.fits"
    image = np.zeros((NY, NX), np.float32)
    fits.PrimaryHDU(image, header=calibrated_header()).writeto(path)
    reason = _refusal(plain, path, "calexp")
    assert "bare.fits has neither a MASK extension nor the card SATURATE" in reason
    fits.PrimaryHDU(image, header=calibrated_header(SATURATE=6e4)).writeto(path, overwrite=True)
    reason = _refusal(plain, path, "calexp")
    assert "bare.fits has neither a VARIANCE extension nor the card GAIN" in reason


def test_planes_of_different_shape_are_refused(plain: Repository, tmp_path: Path) -> None:
    path, _ = _calibrated(tmp_path / "c.fits")
    with fits.open(path, mode="update") as hdus:
        hdus["VARIANCE"].data = np.ones((NY, NX - 1), np.float32)
    assert "c.fits: VARIANCE is (40, 47), detector 4 is (40, 48)" in _refusal(plain, path, "calexp")


def test_what_the_repository_wrote_it_reads_back_the_same(
    plain: Repository, tmp_path: Path
) -> None:
    path, _ = _calibrated(tmp_path / "c.fits")
    ingest(plain, [path], "calexp")
    first = plain.calexp(2024030500007, 4)
    copy = tmp_path / "copy.fits"
    shutil.copy(plain.calexp_path(2024030500007, 4), copy)
    ingest(plain, [copy], "calexp")
    again = read_exposure(plain.calexp_path(2024030500007, 4), plain.detector(4), ScienceExposure)
    assert_array_equal(first.image, again.image)
    assert_array_equal(first.mask, again.mask)
    assert first.visit == again.visit
