from pathlib import Path

import pytest

from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.templates import default_visits
from promptdia.tasks.model.visit import Visit


@pytest.fixture
def three_nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = Repository.create(tmp_path / "r", "sim-tiny")
    ids = [2026111000001, 2026111000002, 2026111100001, 2026111200001]
    visits = [Visit(v, "r", 61354.0 + (v // 100_000) % 100, 30.0, 150.0, 2.0) for v in ids]
    monkeypatch.setattr(Repository, "visits", lambda self: visits)
    return repository


def test_the_first_night_makes_the_template_unless_told_otherwise(three_nights):
    assert {v.day_obs for v in default_visits(three_nights)} == {20261110}
    assert [v.day_obs for v in default_visits(three_nights, before=20261112)] == [
        20261110,
        20261110,
        20261111,
    ]


def test_no_visit_before_a_day_is_said_so(three_nights):
    with pytest.raises(ConfigError, match="no visit before 20261110"):
        default_visits(three_nights, before=20261110)
