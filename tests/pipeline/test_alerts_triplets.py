from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from support.alerts import exposures, make_alerts, tables
from support.data import data_dir

from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.io.avro import decode, encode_alerts
from promptdia.pipeline.report.triplets import draw_alert, draw_triplets
from promptdia.tasks.package import PackageAlerts, PackageConfig


def decoded(**options: int) -> list[dict[str, Any]]:
    return [decode(m) for m in encode_alerts(make_alerts(**options))]


@pytest.mark.parametrize(("n", "across", "rows"), [(1, 2, 1), (3, 2, 2), (3, 1, 3)])
def test_the_picture_grows_with_the_number_of_alerts(
    tmp_path: Path, n: int, across: int, rows: int
) -> None:
    draw_triplets(decoded(n=n), tmp_path / "t.png", across)
    height, width = imread(tmp_path / "t.png").shape[:2]
    assert height == pytest.approx(rows * 253, abs=3)
    assert width == pytest.approx(min(n, across) * 610, abs=3)


def test_an_edge_source_a_blank_image_and_a_first_detection_are_drawn(tmp_path: Path) -> None:
    sources, objects, prv, forced, _, _ = tables(2, 0)
    sources["x"] = [0.0, 100.0]
    science, template, difference = exposures()
    template = template.replace(image=np.full_like(template.image, np.nan))
    made = PackageAlerts(PackageConfig()).run(
        sources, objects, prv, forced, science, template, difference
    )
    alerts = [decode(m) for m in encode_alerts(made)]
    draw_triplets(alerts, tmp_path / "t.png")
    draw_alert(alerts[0], tmp_path / "a.png")
    assert imread(tmp_path / "a.png").std() > 0.05


def test_a_brightening_is_red_and_a_fading_blue(tmp_path: Path) -> None:
    sources, objects, prv, forced, _, _ = tables(1, 0)
    science, template, difference = exposures()
    for sign, strong in ((1, 0), (-1, 2)):
        image = np.zeros_like(difference.image)
        image += np.random.default_rng(2).normal(0, 1, image.shape).astype(np.float32)
        image += np.float32(sign * 300)
        bright = difference.replace(image=image - np.float32(sign * 150))
        (alert,) = PackageAlerts(PackageConfig()).run(
            sources, objects, prv, forced, science, template, bright
        )
        draw_triplets([decode(encode_alerts([alert])[0])], tmp_path / "t.png")
        picture = imread(tmp_path / "t.png")
        panel = picture[100:240, 420:590, :3].mean(axis=(0, 1))
        assert panel[strong] > panel[2 - strong] + 0.2


def test_the_seven_real_alerts_are_drawn(tmp_path: Path) -> None:
    path = data_dir("alerts_lsst") / "fink_lsst_v10_0_7alerts.avro"
    alerts = list(read_container(path))
    draw_triplets(alerts, tmp_path / "t.png")
    assert imread(tmp_path / "t.png").shape[0] == pytest.approx(4 * 253, abs=3)
    draw_alert(alerts[0], tmp_path / "a.png")
    assert imread(tmp_path / "a.png").std() > 0.1
