"""What the launcher of several processes leaves behind and finds."""

import subprocess
import sys

from saferflow.training.launch import free_dead_locks

HOLD = "import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print('held', flush=True); sys.stdin.read()"


def test_a_lock_of_a_killed_build_goes_and_one_in_use_stays(tmp_path):
    for name in ("killed", "living"):
        (tmp_path / name).mkdir()
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / name / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("killed", "living")
    ]
    try:
        for holder in holders:
            assert holder.stdout.readline() == b"held\n"
        holders[0].kill()
        holders[0].wait()
        free_dead_locks(tmp_path)
        assert not (tmp_path / "killed" / "lock").exists()
        assert (tmp_path / "living" / "lock").exists()
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_without_any_build_there_is_nothing_to_free(tmp_path):
    free_dead_locks(tmp_path / "none yet")
