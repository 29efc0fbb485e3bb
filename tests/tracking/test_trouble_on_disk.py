"""A store on a disk that is full or cannot be written: real file systems, where this user may mount one."""

import os
import shutil
import subprocess

import pytest

from saferflow.errors import PipelineError
from saferflow.tracking import runs

ROOM = "6m"
"""More than an empty store, less than one with some thousand tags."""


@pytest.fixture
def disk(tmp_path, database, monkeypatch):
    """A small file system with a store on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    shutil.copy(database, folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db?timeout=0.1")
    runs.client.cache_clear()
    runs.experiment.cache_clear()
    yield folder
    runs.client.cache_clear()
    runs.experiment.cache_clear()
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Leave no byte."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "rest").write_bytes(b"x" * free)


def write_much(run):
    for number in range(2000):
        runs.client().set_tag(run, f"tag-{number}", "x" * 4000)


def test_a_full_disk_is_one_line_and_what_is_there_can_still_be_read(disk):
    experiment = runs.experiment()
    run = runs.client().create_run(experiment).info.run_id
    fill(disk)
    with pytest.raises(PipelineError, match="has no room left on its disk; make some, then run again") as error:
        write_much(run)
    assert len(str(error.value).splitlines()) == 1
    assert runs.client().get_run(run).info.status == "RUNNING"
    (disk / "rest").unlink()
    runs.client().set_tag(run, "after", "room")
    assert runs.client().get_run(run).data.tags["after"] == "room"


def test_a_folder_that_cannot_be_written_is_one_line(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(PipelineError, match="cannot be written; look who owns it and its folder") as error:
        runs.experiment()
    assert len(str(error.value).splitlines()) == 1
