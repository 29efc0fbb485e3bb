"""What is served from stays, and so does the one before; older versions go."""

import subprocess
import sys

import pytest

from saferflow.cli.served_folders import ServedFolders


def write(home, name):
    (home / name).mkdir(parents=True, exist_ok=True)
    (home / name / "model.safetensors").write_bytes(b"weights")
    return home / name


def serve(folders, home, name):
    with folders.serving(home / name):
        write(home, name)


def fail(folders, home):
    with folders.serving(home / "mine-v3"):
        write(home, "mine-v3")
        raise RuntimeError


def there(home):
    return sorted(path.name for path in home.iterdir() if path.is_dir())


def test_the_served_version_and_the_one_before_stay_and_older_ones_go(tmp_path):
    folders = ServedFolders(tmp_path)
    write(tmp_path, "hub")
    for number, left in ((1, "1"), (2, "12"), (3, "23"), (2, "23"), (4, "24")):
        serve(folders, tmp_path, f"mine-v{number}")
        assert there(tmp_path) == ["hub", *(f"mine-v{each}" for each in left)]


def test_a_server_that_starts_leaves_what_was_served_last_of_all_before(tmp_path):
    write(tmp_path, "mine-v9")  # of before there were locks
    for number in (3, 1, 2):
        serve(ServedFolders(tmp_path), tmp_path, f"mine-v{number}")  # each server ends at once
    assert there(tmp_path) == ["mine-v1", "mine-v2"]
    (tmp_path / "mine-v1.jinja").write_text("of a bare server", encoding="utf-8")
    serve(ServedFolders(tmp_path), tmp_path, "mine-v4")
    assert there(tmp_path) == ["mine-v2", "mine-v4"]
    assert not list(tmp_path.glob("*v1*"))


def test_a_version_that_cannot_be_loaded_costs_the_served_one_and_the_one_before_nothing(tmp_path):
    folders = ServedFolders(tmp_path)
    for number in (1, 2):
        serve(folders, tmp_path, f"mine-v{number}")
    for _ in range(3):
        with pytest.raises(RuntimeError):
            fail(folders, tmp_path)
    serve(ServedFolders(tmp_path), tmp_path, "mine-v5")
    assert {"mine-v1", "mine-v2", "mine-v5"} <= set(there(tmp_path))


OTHER = """
import os, sys
from pathlib import Path
from saferflow.cli.served_folders import ServedFolders
folders = ServedFolders(Path(sys.argv[1]))
with folders.serving(Path(sys.argv[1]) / "mine-v1", inherited=True):
    pass
os.execvp("sh", ["sh", "-c", "echo ready; read line"])
"""


def test_what_another_process_serves_stays_until_it_ends_also_where_another_program_took_its_place(tmp_path):
    write(tmp_path, "mine-v1")
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "ready\n"
    folders = ServedFolders(tmp_path)
    for number in (2, 3, 4):
        serve(folders, tmp_path, f"mine-v{number}")
    assert there(tmp_path) == ["mine-v1", "mine-v3", "mine-v4"]
    other.communicate("\n", timeout=60)
    serve(folders, tmp_path, "mine-v5")
    assert there(tmp_path) == ["mine-v4", "mine-v5"]
