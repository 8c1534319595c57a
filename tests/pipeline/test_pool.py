"""Workers, retries and settings: the parts around the tasks."""

import os
import time
from pathlib import Path

import pytest

from promptdia.pipeline import retry
from promptdia.pipeline.config import PipelineConfig, load_pipeline
from promptdia.pipeline.errors import ConfigError, InputError, PromptdiaError, TransientError
from promptdia.pipeline.pool import IN_PROCESS, Running, open_executor, ordered
from promptdia.pipeline.timing import Stopwatch
from promptdia.pipeline.yaml import read_yaml


def double(x: int) -> int:
    return 2 * x


def die() -> None:
    os._exit(9)


class Counting:
    """An executor that knows how much is under way."""

    width = 2

    def __init__(self) -> None:
        self.under_way = self.most = 0

    def submit(self, function: object, *args: object) -> Running:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return Promise(self, args[0])


class Promise:
    def __init__(self, owner: Counting, value: object) -> None:
        self.owner, self.value = owner, value

    def result(self) -> object:
        self.owner.under_way -= 1
        return self.value


def test_results_come_in_order_and_few_are_under_way() -> None:
    executor = Counting()
    assert list(ordered(executor, double, [(i,) for i in range(50)])) == list(range(50))
    assert executor.most <= executor.width + 2


def test_in_this_process_a_task_is_done_when_it_is_asked_for() -> None:
    done: list[int] = []
    results = ordered(IN_PROCESS, done.append, [(1,), (2,), (3,)])
    next(results)
    assert done == [1]


def test_a_worker_that_is_killed_is_told_in_a_sentence() -> None:
    with open_executor(2) as executor, pytest.raises(PromptdiaError, match="was killed, perhaps"):
        list(ordered(executor, die, [()]))


@pytest.mark.parametrize("workers", [0, -1])
def test_a_number_of_workers_below_one_is_refused(workers: int) -> None:
    with pytest.raises(ConfigError, match=f"is {workers}"), open_executor(workers):
        pass


def test_a_server_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", slept.append)
    answers = iter([TransientError("away"), TransientError("away"), "here"])

    def call() -> object:
        answer = next(answers)
        if isinstance(answer, TransientError):
            raise answer
        return answer

    assert retry.with_retries(call) == "here"
    assert slept == list(retry.WAITS_S[:2])


def test_a_server_that_stays_away_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", slept.append)

    def call() -> None:
        raise TransientError("still away")

    with pytest.raises(TransientError, match="still away"):
        retry.with_retries(call)
    assert slept == list(retry.WAITS_S)


def test_only_what_may_pass_is_tried_again() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise InputError("broken for good")

    with pytest.raises(InputError):
        retry.with_retries(call)
    assert calls == [1]


def test_time_is_counted_also_when_a_task_fails() -> None:
    timed = Stopwatch()
    timed("rest", time.sleep, 0.002)
    with pytest.raises(ZeroDivisionError):
        timed("fail", lambda: 1 // 0)
    assert timed.seconds["rest"] >= 0.002
    assert set(timed.seconds) == {"rest", "fail"}


# ---- settings


def test_settings_are_laid_over_each_other_key_by_key() -> None:
    config = load_pipeline(
        ("camera", {"detect": {"threshold": 6.0}, "isr": {"bias": False}}),
        ("own", {"detect": {"threshold": 7.0}}),
    )
    assert config.detect.threshold == 7.0
    assert config.isr.bias is False
    assert config.subtract == PipelineConfig().subtract


def test_the_place_of_a_misspelt_key_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^camera: isr\.bais: unknown key$"):
        load_pipeline(("camera", {"isr": {"bais": False}}), ("own", {}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("- a\n- b\n", "must hold a mapping, holds a list"), ("a: [", "is not valid YAML")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_yaml(path)


def test_an_absent_file_is_named_and_an_empty_one_is_an_empty_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert read_yaml(tmp_path / "empty.yaml") == {}
