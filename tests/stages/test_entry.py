"""How stages begin."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saferflow.stages.entry import SPINS, bound_waiting, imports

ROOT = Path(__file__).parents[2]


def test_garbage_is_looked_for_again_after_imports_and_after_one_that_failed():
    with imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), imports():
        raise ImportError
    assert gc.isenabled()


def test_threads_spin_a_bounded_time_where_the_user_has_not_chosen(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    bound_waiting()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
    monkeypatch.delenv("GOMP_SPINCOUNT")


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE")])
def test_how_threads_wait_stays_as_the_user_chose(monkeypatch, name, value):
    for other in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    bound_waiting()
    assert os.environ.get("GOMP_SPINCOUNT") == (value if name == "GOMP_SPINCOUNT" else None)


def test_the_stages_and_the_commands_say_so_before_torch_is_imported():
    for module in ("saferflow.cli", "saferflow.stages.entry"):
        source = f"import sys, {module}; sys.exit('torch' in sys.modules)"
        assert (
            subprocess.run([sys.executable, "-c", source], env=os.environ | {"PYTHONPATH": "src"}, cwd=ROOT).returncode
            == 0
        )
