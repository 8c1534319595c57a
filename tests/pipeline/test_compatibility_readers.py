"""Published readers that we did not write, on our alerts and on Rubin's own.

Each test runs the reader's code on both, so that a reader that refuses ours and not theirs
shows. The readers are pinned in constraints.txt and tests/readers.txt.
"""

import io
from pathlib import Path
from typing import Any

import fink_client.visualisation as fink
import light_curve
import lsst.alert.packet
import numpy as np
import pytest
from antares_devkit.filters.lsst_ddf import In_LSSTDDF
from antares_devkit.filters.lsst_transient_quality_scimma import LsstTransientQualityFilterScimma
from antares_devkit.models import DevkitAlert, DevKitLocus
from astropy.nddata import CCDData
from support.packets import kinds, our_messages, real_messages

from promptdia.apdb.schema.lsst import VERSIONS
from promptdia.pipeline.io.avro import decode, identifier

CUTOUTS = ("cutoutDifference", "cutoutScience", "cutoutTemplate")
SETS = [*VERSIONS, "real"]


def messages_of(name: str) -> tuple[bytes, ...]:
    return real_messages() if name == "real" else our_messages(name)


@pytest.fixture(params=SETS)
def messages(request: pytest.FixtureRequest) -> tuple[bytes, ...]:
    return messages_of(request.param)


@pytest.fixture(scope="module", params=["11.0", "real"])
def alerts(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return [decode(m) for m in messages_of(request.param)]


def packet_schema(messages: tuple[bytes, ...]) -> lsst.alert.packet.Schema:
    major, minor = divmod(identifier(messages[0]), 100)
    folder = Path(lsst.alert.packet.get_schema_path(major, minor))
    return lsst.alert.packet.Schema.from_file(str(folder / f"lsst.v{major}_{minor}.alert.avsc"))


def test_our_alerts_are_of_every_kind_that_readers_stumble_over() -> None:
    assert [kind for kind, n in kinds(our_messages()).items() if n == 0] == []
    assert max(len(m) for m in our_messages()) < 1_000_000


def test_lsst_alert_packet_validates_them_and_gives_the_bytes_back(
    messages: tuple[bytes, ...],
) -> None:
    schema = packet_schema(messages)
    for message in messages:
        alert = schema.deserialize(message[5:])
        assert schema.validate(alert)
        assert schema.serialize(alert) == message[5:]


def test_lsst_alert_packet_reads_its_own_container_of_them(messages: tuple[bytes, ...]) -> None:
    schema = packet_schema(messages)
    stream = io.BytesIO()
    schema.store_alerts(stream, [schema.deserialize(m[5:]) for m in messages])
    stream.seek(0)
    read_schema, stored = schema.retrieve_alerts(stream)
    ids = [a["diaSourceId"] for a in stored]
    assert ids == [decode(m)["diaSourceId"] for m in messages]
    assert read_schema.get_schema_id() == identifier(messages[0])


def test_pittgoogle_tells_object_source_and_flux(
    messages: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "none")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "none")
    import pittgoogle

    for message in messages:
        decoded = pittgoogle.Schemas.get("lsst", alert_bytes=message).deserialize(message)
        alert = pittgoogle.Alert.from_dict(decoded, schema_name="lsst")
        source = decode(message)["diaSource"]
        # an asteroid has no DiaObject; Fink writes its missing ids as null, Rubin and we as 0
        assert alert.objectid == (source["diaObjectId"] or source["ssObjectId"])
        assert alert.sourceid == source["diaSourceId"]
        assert alert.get("flux") == source["psfFlux"]
        assert alert.get("filter") == source["band"]


def test_fink_reads_the_stamps(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        side = min(max(alert["diaSource"]["bboxSize"], 30), 102)
        for name in CUTOUTS:
            stamp = fink.readstamp(alert[name], gzipped=False)
            assert stamp.shape == (side, side)
            file = fink.readstamp(alert[name], return_type="FITS", gzipped=False)
            assert file.read(80).startswith(b"SIMPLE")
            assert np.isfinite(stamp).mean() > 0.4


def test_fink_draws_the_stamps_and_collects_the_history(alerts: list[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    longest = max(alerts, key=lambda a: len(a["prvDiaSources"] or ()))
    figure = plt.figure()
    fink.show_stamps(longest, "lsst", figure)
    assert len(figure.axes) == 3
    plt.close(figure)
    flux = fink.extract_field(longest, "psfFlux", current="diaSource", previous="prvDiaSources")
    assert flux[0] == longest["diaSource"]["psfFlux"]
    assert flux.size == 1 + len(longest["prvDiaSources"])


def test_astropy_reads_the_stamps_with_variance_and_psf(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts[:10]:
        for name in CUTOUTS:
            stamp = CCDData.read(io.BytesIO(alert[name]), format="fits")
            assert stamp.unit == "nJy"
            assert stamp.uncertainty.uncertainty_type == "var"
            assert stamp.psf.sum() == pytest.approx(1, abs=1e-5)


def antares_locus(alert: dict[str, Any]) -> DevKitLocus:
    """The trigger as ANTARES holds it: names joined by underscores, survey 4 is LSST."""
    source = alert["diaSource"]
    properties = {
        **{f"lsst_diaSource_{name}": value for name, value in source.items()},
        "ant_survey": 4,
        "ant_mjd": source["midpointMjdTai"],
        "ant_ra": source["ra"],
        "ant_dec": source["dec"],
        "ant_passband": source["band"],
    }
    trigger = DevkitAlert(
        id=f"lsst:{source['diaSourceId']}", mjd=source["midpointMjdTai"], properties=properties
    )
    return DevKitLocus(id="ANT", ra=source["ra"], dec=source["dec"], alerts=[trigger])


def test_antares_filters_run_on_them_and_tag_what_they_should(
    alerts: list[dict[str, Any]],
) -> None:
    flags = ("psfFlux_flag", "centroid_flag", "shape_flag", "isDipole", "pixelFlags_saturated",
             "pixelFlags_edge", "pixelFlags_cr", "pixelFlags_streak")  # fmt: skip
    tagged = 0
    for alert in alerts:
        locus, source = antares_locus(alert), alert["diaSource"]
        assert LsstTransientQualityFilterScimma().run(locus).status == "Succeeded"
        good = source["reliability"] >= 0.6 and not any(source[flag] for flag in flags)
        good = good and alert["diaObject"] is not None
        assert (locus.tags == {"lsst_scimma_quality_transient"}) == good
        tagged += good
        assert In_LSSTDDF().run(locus).status == "Succeeded"
    assert 0 < tagged < len(alerts)


def test_antares_knows_real_alerts_of_the_deep_fields() -> None:
    for alert in (decode(m) for m in real_messages()):
        locus = antares_locus(alert)
        In_LSSTDDF().run(locus)
        assert "in_LSSTDDF" in locus.tags


def test_light_curve_features_come_out_of_the_history(alerts: list[dict[str, Any]]) -> None:
    features = light_curve.Extractor(
        light_curve.Amplitude(), light_curve.BeyondNStd(1), light_curve.Cusum(),
        light_curve.Eta(), light_curve.EtaE(), light_curve.Kurtosis(),
        light_curve.InterPercentileRange(0.1), light_curve.LinearFit(),
        light_curve.LinearTrend(), light_curve.MaximumSlope(), light_curve.Mean(),
        light_curve.Median(), light_curve.MedianAbsoluteDeviation(),
        light_curve.PercentAmplitude(), light_curve.ReducedChi2(), light_curve.Skew(),
        light_curve.StandardDeviation(), light_curve.StetsonK(), light_curve.WeightedMean(),
    )  # fmt: skip
    column = {name: i for i, name in enumerate(features.names)}
    done = 0
    for alert in alerts:
        rows = [*(alert["prvDiaSources"] or ()), alert["diaSource"]]
        band = alert["diaSource"]["band"]
        t, flux, err = np.array(
            [
                (r["midpointMjdTai"], r["psfFlux"], r["psfFluxErr"])
                for r in sorted(rows, key=lambda r: r["midpointMjdTai"])
                if r["band"] == band
            ]
        ).T
        if t.size < 5:
            continue
        found = features(t, flux, err, sorted=True, check=True)
        assert np.isfinite(found).all()
        assert found[column["mean"]] == pytest.approx(flux.mean())
        assert found[column["amplitude"]] == pytest.approx(0.5 * np.ptp(flux))
        weighted = (flux / err**2).sum() / (1 / err**2).sum()
        assert found[column["weighted_mean"]] == pytest.approx(weighted)
        done += 1
    assert done >= 3
