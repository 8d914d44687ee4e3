"""One function over many items gives the same on cores and on Ray, fails one by one, and stops at once."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bev_perception.evaluation.spread import RAY_HERE, Done, spread


def by_index(outcomes: list[Done[Any]]) -> list[Any]:
    return [one.result if one.error is None else type(one.error) for one in sorted(outcomes, key=lambda o: o.index)]


class FakeRay(ModuleType):
    """What is used of Ray: a task runs when it is waited for, the newest first."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self) -> None:
        super().__init__("ray")
        self.begun: list[dict[str, Any]] = []
        self.ended = self.most = 0
        self.tasks: dict[int, Callable[[], Any]] = {}

    def init(self, **options: Any) -> None:
        if options["address"] == "nowhere:1":
            raise RuntimeError("no answer")
        self.begun.append(options | {"reports": os.environ.get("RAY_USAGE_STATS_ENABLED")})

    def shutdown(self) -> None:
        self.ended += 1

    def remote(self, num_cpus: int) -> Callable[[Any], Any]:
        self.cores = num_cpus
        return lambda function: SimpleNamespace(remote=lambda *given: self._submit(function, given))

    def _submit(self, function: Any, given: tuple[Any, ...]) -> int:
        self.tasks[len(self.tasks)] = lambda: function(*given)
        return len(self.tasks) - 1

    def wait(self, references: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        self.most = max(self.most, len(references))
        return references[-1:], references[:-1]

    def get(self, reference: int) -> Any:
        try:
            return self.tasks[reference]()
        except ValueError as cause:
            error = self.exceptions.RayError("a task failed")
            error.cause = cause  # type: ignore[attr-defined]
            raise error from cause
        except PermissionError as error:  # stands for a worker that died
            raise self.exceptions.RayError("the worker died") from error


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_results_errors_and_counts_on_cores() -> None:
    outcomes = list(spread(math.sqrt, [1, -1, 16], workers=2))
    assert by_index(outcomes) == [1.0, ValueError, 4.0]
    assert [one.count for one in outcomes] == [1, 2, 3] and outcomes[-1].left_s == 0
    assert list(spread(math.sqrt, [], workers=2)) == []


def test_leaving_begins_nothing_further(tmp_path: Path) -> None:
    work = [["sh", "-c", f"touch {tmp_path}/{number}; sleep 0.5"] for number in range(20)]
    outcomes = spread(subprocess.check_call, work, workers=1)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    time.sleep(1.2)
    # one was done, one had begun, the pool hands one more over in advance, and time passes until it is closed
    assert len(list(tmp_path.iterdir())) <= 5


def test_ray_gives_the_same_and_is_ended(fake_ray: FakeRay) -> None:
    outcomes = list(spread(math.sqrt, [1, -1, 16, 25], workers=2, ray=RAY_HERE, cores=3))
    assert by_index(outcomes) == [1.0, ValueError, 4.0, 5.0]
    assert fake_ray.most == 2 and fake_ray.ended == 1 and fake_ray.cores == 3
    (options,) = fake_ray.begun
    assert options["address"] == "local" and options["num_cpus"] == 6 and not options["include_dashboard"]
    assert options["reports"] == "0"


def test_a_cluster_keeps_its_own_size_and_is_left_on_the_way_out(fake_ray: FakeRay) -> None:
    outcomes = spread(math.sqrt, [1, 2, 3], workers=1, ray="head:6379")
    assert next(outcomes).result == 1.0
    outcomes.close()  # type: ignore[attr-defined]
    assert fake_ray.ended == 1 and len(fake_ray.tasks) <= 2
    assert fake_ray.begun[0]["address"] == "head:6379" and "num_cpus" not in fake_ray.begun[0]


def test_a_worker_of_ray_that_dies_costs_its_item(fake_ray: FakeRay) -> None:
    def die(number: int) -> None:
        raise PermissionError

    (one,) = spread(die, [1], workers=1, ray="auto")
    assert one.result is None and "died" in str(one.error)


def test_relative_paths_mean_what_they_mean_here(fake_ray: FakeRay, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_bytes(b"four")
    monkeypatch.chdir(tmp_path)
    outcomes = spread(os.path.getsize, ["file"], workers=1, ray="auto")
    fake_ray.wait = lambda references, num_returns: (os.chdir("/"), (references, []))[1]  # type: ignore[method-assign]
    assert next(outcomes).result == 4


def test_clear_errors(fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match="Ray at 'nowhere:1' could not be reached: no answer"):
        list(spread(math.sqrt, [1], workers=1, ray="nowhere:1"))
    with pytest.raises(ValueError, match="at least one worker, found 0"):
        list(spread(math.sqrt, [1], workers=0))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'Ray is not installed .*: `pip install "ray>=2.9"`'):
        list(spread(math.sqrt, [1], workers=1, ray=RAY_HERE))


def test_a_real_ray_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install ray)")
    (tmp_path / "file").write_bytes(b"four")
    monkeypatch.chdir(tmp_path)
    outcomes = list(spread(os.path.getsize, ["file", "nothing", "file"], workers=2, ray=RAY_HERE))
    assert by_index(outcomes) == [4, FileNotFoundError, 4]
