"""Who leads: promotion, rollback, two at once, and moves that were cut short, on a real MLflow store."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlflow import MlflowClient
from saferflow.errors import PipelineError
from saferflow.tracking import registry, runs
from saferflow.tracking.ledger import append, move, read

ROOT = Path(__file__).parents[2]
MODEL = "policy"
PROMOTE = """
import sys
from pathlib import Path
from mlflow import MlflowClient
from saferflow.errors import PipelineError
from saferflow.tracking import registry, runs
store, ledger, number = sys.argv[1:]
client = MlflowClient(store)
for module in (runs, registry):
    module.client = lambda: client
version = registry.by_number("policy", int(number))
print("ready", flush=True)
sys.stdin.readline()
try:
    registry.promote(version, f"by process {number}", 1, Path(ledger))
    print("promoted")
except PipelineError as error:
    print(error)
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A registered model with three versions; gives the store's address."""
    address = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(address)
    for module in (runs, registry):
        monkeypatch.setattr(module, "client", lambda: client)
    registry.ensure_model(MODEL)
    for number in (1, 2, 3):
        registry.register(MODEL, f"file:///weights/{number}", None, {registry.MODEL_DIGEST: str(number)})
    return address


def holder(alias):
    found = registry.by_alias(MODEL, alias)
    return found.number if found else None


def test_a_promotion_moves_two_aliases_and_a_rollback_swaps_them_back(store, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    assert registry.promote(registry.by_number(MODEL, 1), "the first", None, ledger) is None
    assert registry.promote(registry.by_number(MODEL, 2), "better", 1, ledger).number == 1
    assert (holder("champion"), holder("previous")) == (2, 1)
    now, before = registry.rollback(MODEL, "it was not", ledger)
    assert (now.number, before.number) == (1, 2)
    assert (holder("champion"), holder("previous")) == (1, 2)
    told = [(one.alias, one.before, one.after) for one in read(ledger)]
    assert told == [
        ("champion", None, 1), ("previous", None, 1), ("champion", 1, 2), ("champion", 2, 1), ("previous", 1, 2),
    ]  # fmt: skip


def test_the_champion_is_not_moved_onto_itself(store, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    registry.promote(registry.by_number(MODEL, 1), "the first", None, ledger)
    assert registry.promote(registry.by_number(MODEL, 1), "again", 1, ledger) is None
    assert len(read(ledger)) == 1


def test_a_decision_against_a_former_champion_is_refused(store, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    registry.promote(registry.by_number(MODEL, 1), "the first", None, ledger)
    with pytest.raises(PipelineError, match="is version 1 and not nobody any more: another promotion came first"):
        registry.promote(registry.by_number(MODEL, 2), "late", None, ledger)
    assert holder("champion") == 1


def test_without_a_former_champion_there_is_no_way_back(store, tmp_path):
    with pytest.raises(PipelineError, match="nothing to go back to"):
        registry.rollback(MODEL, "why not", tmp_path / "ledger.jsonl")
    registry.promote(registry.by_number(MODEL, 1), "the first", None, tmp_path / "ledger.jsonl")
    with pytest.raises(PipelineError, match="has no previous version"):
        registry.rollback(MODEL, "why not", tmp_path / "ledger.jsonl")


def test_a_version_that_is_not_there_is_named_with_those_that_are(store):
    with pytest.raises(PipelineError, match="has no version 7; there are: 1, 2, 3"):
        registry.by_number(MODEL, 7)


def test_a_move_that_was_cut_short_is_finished_by_the_next_command(store, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    registry.promote(registry.by_number(MODEL, 1), "the first", None, ledger)
    append(move(MODEL, "previous", None, 1, "better"), ledger)
    registry.point("previous", registry.by_number(MODEL, 1))
    append(move(MODEL, "champion", 1, 2, "better"), ledger)  # and here the process was killed
    assert holder("champion") == 1
    [finished] = registry.settle(ledger)
    assert (finished.alias, finished.after) == ("champion", 2)
    assert (holder("champion"), holder("previous")) == (2, 1)
    assert registry.settle(ledger) == []


def test_two_promotions_at_once_end_with_one_champion(store, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    registry.promote(registry.by_number(MODEL, 1), "the first", None, ledger)
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, store, str(ledger), number],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in ("2", "3")
    ]  # fmt: skip
    for process in racing:
        assert process.stdout.readline() == "ready\n"
    for process in racing:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0].strip() for process in racing]
    assert sorted(text == "promoted" for text in told) == [False, True]
    assert any("another promotion came first" in text for text in told)
    winner = 2 + told.index("promoted")
    assert (holder("champion"), holder("previous")) == (winner, 1)
    assert [one.after for one in read(ledger) if one.alias == "champion"] == [1, winner]
