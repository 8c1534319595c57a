"""Ephemerides and orbits from files into alerts and the database."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processed import DETECTORS, NIGHT, VISITS, alerts_of, change_settings, promptdia

from promptdia.apdb.schema.lsst import DIA_SOURCE, EPHEMERIS, SS_OBJECT
from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.ephemerides import load_ephemerides, load_orbits, store_ephemerides
from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.parquet import read_catalog
from promptdia.pipeline.repository import Repository
from promptdia.tasks.associate import SS_POSITION
from promptdia.tasks.solar_system import ss_object_id

ORBIT = {
    "id": [5, 6],
    "designation": ["2026 SA1", "2026 SB"],
    "packed_primary_provisional_designation": ["K26S01A", "K26S00B"],
    "unpacked_primary_provisional_designation": ["2026 SA1", "2026 SB"],
    "a": [2.5, 3.0],
    "e": [0.1, None],
    "nopp": [None, 4],
    "mpc_orb_jsonb": [None, "{}"],
}


def store_orbits(root: Path, columns: dict) -> None:
    (root / "ephemerides").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), root / "ephemerides" / "orbits.parquet")


def test_positions_are_enough_and_more_is_kept(tmp_path: Path) -> None:
    bare = SS_POSITION.empty(1)
    bare["ssObjectId"], bare["ra"], bare["dec"] = 7, 10.0, 20.0
    store_ephemerides(tmp_path, 1, bare)
    full = EPHEMERIS.empty(1)
    full["ssObjectId"], full["ra"], full["dec"], full["helioRange"] = 7, 10.0, 20.0, 2.5
    store_ephemerides(tmp_path, 2, full)
    assert np.isnan(load_ephemerides(tmp_path, 1)["helioRange"]).all()
    assert load_ephemerides(tmp_path, 2)["helioRange"].tolist() == [2.5]
    assert load_ephemerides(tmp_path, 3).size == 0


def test_a_file_without_positions_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ephemerides").mkdir()
    pq.write_table(pa.table({"ssObjectId": [1], "ra": [2.0]}), tmp_path / "ephemerides/9.parquet")
    with pytest.raises(InputError, match=r"9\.parquet has no column dec"):
        load_ephemerides(tmp_path, 9)


def test_orbits_are_found_by_designation_and_may_lack_values(tmp_path: Path) -> None:
    assert load_orbits(tmp_path, ["2026 SB"]).size == 0
    store_orbits(tmp_path, ORBIT)
    [row] = load_orbits(tmp_path, ["2026 SB", "unheard of"])
    assert (row["id"], row["a"], row["nopp"], row["mpc_orb_jsonb"]) == (6, 3.0, 4, "{}")
    assert np.isnan(row["e"])
    assert load_orbits(tmp_path, []).size == 0
    store_orbits(tmp_path, {"a": [2.5]})
    with pytest.raises(InputError, match="no column designation"):
        load_orbits(tmp_path, ["2026 SB"])


def test_an_alert_of_a_known_asteroid_carries_its_circumstances_and_orbit(imaged: Path) -> None:
    """The first source of each detector is taken for the same asteroid in both visits."""
    for visit in VISITS[:2]:
        sources = read_catalog(
            Repository(imaged).product(visit, DETECTORS[0], "dia_sources.parquet"), DIA_SOURCE
        )
        rows = EPHEMERIS.empty(1)
        rows["ssObjectId"] = ss_object_id("K26S01A")
        rows["ra"], rows["dec"] = sources["ra"][0], sources["dec"][0]
        rows["phaseAngle"], rows["helioRange"], rows["ephRateRa"], rows["ephRateDec"] = 9, 2.5, 1, 0
        store_ephemerides(imaged, visit, rows)
    store_orbits(imaged, ORBIT)
    change_settings(imaged, pipeline={"associate": {"solar_system_first": True}})
    assert promptdia("night", imaged, NIGHT, "--workers", 1).status == 0
    moving = [a for a in alerts_of(imaged) if a["ssSource"]]
    mine = [a for a in moving if a["ssSource"]["designation"] == "2026 SA1"]
    assert [a["diaSource"]["visit"] for a in mine] == list(VISITS[:2])
    assert all(a["mpc_orbits"] is None for a in moving if a not in mine)
    for alert in mine:
        assert alert["diaObject"] is None
        assert alert["ssSource"]["helioRange"] == 2.5
        assert abs(alert["ssSource"]["ephOffsetAlongTrack"]) < 0.01
        assert alert["mpc_orbits"]["a"] == 2.5
    store = SqlApdb.open(Repository(imaged).apdb_url)
    with store._transaction() as connection:
        these = f'WHERE "ssObjectId" = {ss_object_id("K26S01A")}'
        [summed] = store._backend.read(connection, SS_OBJECT, these)
    store.close()
    assert (summed["nObs"], summed["r_nObs"], summed["r_phaseAngleMax"]) == (2, 2, 9.0)
    assert promptdia("apdb", imaged, "check").status == 0
