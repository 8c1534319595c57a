"""Cameras described in YAML."""

from pathlib import Path

import pytest

from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.instrument import known_instruments, load_instrument
from promptdia.tasks.model.visit import Box

MINIMAL = """
name: mine
detectors:
  - id: 3
    size: [100, 80]
    pixel_scale: 0.5
    amplifiers:
      - {data: [0, 100, 0, 80], target: [0, 100, 0, 80],
         gain: 1.5, read_noise: 5.0, saturation: 60000}
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    return path


def test_a_camera_is_one_short_file(tmp_path: Path) -> None:
    camera = load_instrument(_write(tmp_path, MINIMAL))
    assert camera.detector(3).shape == (80, 100)
    assert camera.detector(3).gain == 1.5


@pytest.mark.parametrize("name", known_instruments())
def test_every_shipped_camera_covers_its_detectors(name: str) -> None:
    camera = load_instrument(name)
    for detector in camera.detectors.values():
        covered = sum(
            (a.target.x1 - a.target.x0) * (a.target.y1 - a.target.y0) for a in detector.amplifiers
        )
        assert covered == detector.nx * detector.ny


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pixel_scale", "pixel_scael", r"detectors\.0\.pixel_sca"),
        ("gain: 1.5", "gain: high", r"detectors\.0\.amplifiers\.0\.gain"),
        ("name: mine", "nmae: mine", r"nmae: unknown key"),
        ("[100, 80]", "[100]", r"detectors\.0\.size"),
    ],
)
def test_a_wrong_key_or_value_is_named_by_its_path(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_instrument(_write(tmp_path, MINIMAL.replace(old, new)))


def test_an_unknown_camera_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no instrument named nosuch; known are .*lux2713"):
        load_instrument("nosuch")


def test_an_unknown_detector_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instrument mine has no detector 7; it has 3"):
        load_instrument(_write(tmp_path, MINIMAL)).detector(7)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"camera\.yaml is not valid YAML"):
        load_instrument(_write(tmp_path, "name: [unclosed"))


def test_a_binned_camera_is_the_same_file_with_one_line_more(tmp_path: Path) -> None:
    camera = load_instrument(_write(tmp_path, MINIMAL + "binning: 2\n"))
    detector = camera.detector(3)
    assert detector.shape == (40, 50)
    assert detector.pixel_scale_arcsec == 1.0
    assert detector.amplifiers[0].data == Box(0, 50, 0, 40)
    with pytest.raises(ConfigError, match="100 pixels cannot be binned by 3 without a rest"):
        load_instrument(_write(tmp_path, MINIMAL + "binning: 3\n"))


AMPLIFIER = """      - {data: [0, 50, 0, 80], overscan: [50, 54, 0, 80], target: [0, 50, 0, 80],
         gain: 1.5, read_noise: 5.0, saturation: 60000, extension: A1}
      - {data: [4, 54, 0, 80], overscan: [0, 4, 0, 80], target: [50, 100, 0, 80],
         gain: 1.5, read_noise: 5.0, saturation: 60000, linearity: [-1.0e-7]}
"""


def test_electronics_are_read_and_checked(tmp_path: Path) -> None:
    head = MINIMAL[: MINIMAL.index("      - {data")]
    text = head + AMPLIFIER.replace(", linearity", ", extension: A2, linearity")
    camera = load_instrument(_write(tmp_path, text + "    crosstalk: [[0, 1.0e-4], [2.0e-4, 0]]\n"))
    first, second = camera.detector(3).amplifiers
    # the second amplifier's boxes lie behind the first one's
    assert (first.data, second.data) == (Box(0, 50, 0, 80), Box(58, 108, 0, 80))
    assert second.overscan == Box(54, 58, 0, 80)
    assert second.linearity == (-1e-7,)
    assert camera.detector(3).crosstalk == ((0.0, 1e-4), (2e-4, 0.0))
    assert camera.extensions == {3: ("A1", "A2")}
    with pytest.raises(ConfigError, match="for the detector or for each of its amplifiers"):
        load_instrument(_write(tmp_path, head + AMPLIFIER))
    with pytest.raises(ConfigError, match="linearity counts from the overscan, give both"):
        load_instrument(_write(tmp_path, text.replace("overscan: [0, 4, 0, 80], ", "")))
    with pytest.raises(ConfigError, match="crosstalk must be 2 rows of 2"):
        load_instrument(_write(tmp_path, text + "    crosstalk: [[0, 1.0e-4]]\n"))
