"""Which bundle comes up, whatever ended the process before and whatever the disk allows."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tiny_bundle", reason="onnx is not installed")

from deployment_folder import Said, folder_with, named_bundle

from bev_perception.bundle import Bundle
from bev_perception.deployment import record as rules
from bev_perception.deployment.folder import BUNDLES, RECORD, DeployError, VehicleFolder
from bev_perception.deployment.procedure import nowhere
from bev_perception.deployment.record import Record
from bev_perception.deployment.rollout import SWITCHING, Rollout
from bev_perception.deployment.start import stands, start
from bev_perception.model_spec import BundleError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: named_bundle(folder / name, name) for name in ("old", "new")}


@pytest.fixture
def folder(tmp_path: Path, bundles: dict[str, Bundle]) -> VehicleFolder:
    return folder_with(tmp_path / "vehicle", bundles["old"])


CRASHES = """
import os, sys
from pathlib import Path
import logging
from bev_perception.deployment.folder import VehicleFolder
from bev_perception.deployment.start import start
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
if sys.argv[4]:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no byte more can be written, as on a full disk
folder = VehicleFolder(Path(sys.argv[1]))
folder.open()
def open_(bundle):
    if bundle.spec.name == sys.argv[2]:
        os._exit(9)
    return bundle
print(start(folder, Path(sys.argv[3]), open_, logging.getLogger()).spec.name)
"""


def start_anew(
    folder: VehicleFolder, bundles: dict[str, Bundle], crashes: str = "", full: bool = False
) -> subprocess.CompletedProcess[str]:
    """A process of its own that starts and prints the bundle's name. crashes: the one with which it dies."""
    command = [sys.executable, "-c", CRASHES, str(folder.path), crashes, str(bundles["old"].path), "full" * full]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_bundle_that_takes_the_process_with_it_twice_is_not_tried_again(
    folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    kept = folder.take(bundles["new"].path, nowhere)
    folder.change(lambda record: rules.accept(rules.begin_trial(record, folder.stored(kept, "now"))))
    folder.close()
    runs = [start_anew(folder, bundles, crashes="new") for _ in range(3)]
    assert [run.returncode for run in runs] == [9, 9, 0] and runs[2].stdout == "old\n"
    assert "crashed_at_start: new took the process with it in 2 starts and is not tried again" in runs[2].stderr
    stands(folder)
    record = folder.record()
    assert record.serving is not None and record.serving.name == "old" and record.starts == 0
    assert list(record.barred) == [bundles["new"].spec.onnx_sha256]


def test_a_bundle_that_cannot_be_opened_gives_way_to_the_one_before(
    folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    kept = folder.take(bundles["new"].path, nowhere)
    folder.change(lambda record: rules.accept(rules.begin_trial(record, folder.stored(kept, "now"))))
    (kept.path / "model.onnx").write_bytes(b"altered")
    said = Said()
    assert start(folder, bundles["new"].path, lambda bundle: bundle.spec.name, said) == "old"
    assert any(text.startswith("cannot_open: 'new'") and "'old'" in text for text in said.told)

    def refuse(bundle: Bundle) -> None:
        raise BundleError("not today")

    with pytest.raises(BundleError, match=r"no bundle of .* can be opened"):
        start(folder, bundles["new"].path, refuse, said)
    assert folder.record().serving is None and folder.record().starts == 0
    # What is wrong with the node, not with the bundle, costs no bundle its place.
    assert start(folder, bundles["old"].path, lambda bundle: bundle.spec.name, said) == "old"

    def misconfigured(bundle: Bundle) -> None:
        raise ValueError("sync.period_ms")

    for _ in range(3):
        with pytest.raises(ValueError, match="period"):
            start(folder, bundles["old"].path, misconfigured, said)
    found = folder.record().serving
    assert found is not None and found.name == "old" and folder.record().starts == 0


def test_a_full_disk_keeps_no_good_bundle_from_coming_up(folder: VehicleFolder, bundles: dict[str, Bundle]) -> None:
    folder.change(lambda record: rules.begin_trial(record, folder.stored(bundles["new"], "now")))
    folder.note(Rollout("somebody", "then", "old", step=SWITCHING).line(SWITCHING, "passed"))
    folder.close()
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    run = start_anew(folder, bundles, full=True)
    assert (run.returncode, run.stdout) == (0, "old\n"), run.stderr
    assert "ERROR the journal could not be written" in run.stderr
    assert "ERROR" in run.stderr and f"{folder.path / RECORD} could not be written" in run.stderr
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    assert start_anew(folder, bundles).stdout == "old\n" and folder.record().trial is None


def test_a_folder_that_was_moved_is_the_same_folder(folder: VehicleFolder, bundles: dict[str, Bundle]) -> None:
    folder.close()
    moved = VehicleFolder(folder.path.rename(folder.path.with_name("moved")))
    moved.open()
    said = Said()
    assert start(moved, bundles["new"].path, lambda bundle: bundle.spec.name, said) == "old"
    assert said.told[0].startswith("in service by") and not said.wrong


def test_a_record_of_before_with_whole_paths_is_read(folder: VehicleFolder, bundles: dict[str, Bundle]) -> None:
    serving = folder.record().serving
    assert serving is not None
    folder.write(Record(serving=dataclasses.replace(serving, path=str(folder.path_of(serving)))))
    assert start(folder, bundles["new"].path, lambda bundle: bundle.spec.name, Said()) == "old"


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "vehicle").write_text("")
    with pytest.raises(DeployError, match=r"vehicle: there is a file in its place"):
        VehicleFolder(tmp_path / "vehicle").open()


def test_copies_that_nothing_leads_to_are_dropped_and_nothing_else(
    folder: VehicleFolder, bundles: dict[str, Bundle]
) -> None:
    first = folder.record().serving
    assert first is not None
    refused = folder.take(bundles["new"].path, nowhere)
    foreign = folder.path / BUNDLES / "notes of somebody"
    foreign.mkdir()
    folder.drop_copies()
    assert not refused.path.exists() and foreign.exists() and folder.path_of(first).exists()
    again = folder.take(bundles["new"].path, nowhere)
    folder.change(lambda record: rules.accept(rules.begin_trial(record, folder.stored(again, "now"))))
    folder.drop_copies()
    assert again.path.exists() and folder.path_of(first).exists()
