"""Who leads: promotion, rollback, two at once, and moves that were cut short, on a real MLflow store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

from mlflow import MlflowClient
from saferflow.errors import PipelineError
from saferflow.release import registry
from saferflow.release.ledger import key, line_after
from saferflow.tracking import runs

ROOT = Path(__file__).parents[2]
MODEL = "policy"
PROMOTE = """
import sys
from mlflow import MlflowClient
from saferflow.errors import PipelineError
from saferflow.tracking import runs
from saferflow.release import registry
store, number = sys.argv[1:]
client = MlflowClient(store)
for module in (runs, registry):
    module.client = lambda: client
version = registry.by_number("policy", int(number))
print("ready", flush=True)
sys.stdin.readline()
try:
    registry.promote(version, f"by process {number}", 1)
    print("promoted")
except PipelineError as error:
    print(error)
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A registered model with three versions; gives the store's address."""
    monkeypatch.chdir(tmp_path)
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


def told() -> list[dict]:
    """The moves of each line of the ledger."""
    return [line.moves for line in registry.history(MODEL)[0]]


def promote(number: int, expected: int | None, reason: str = "better"):
    return registry.promote(registry.by_number(MODEL, number), reason, expected)


def test_a_promotion_moves_two_aliases_in_one_line_and_a_rollback_swaps_them_back(store):
    assert promote(1, None) is None
    assert promote(2, 1).number == 1
    assert (holder("champion"), holder("previous")) == (2, 1)
    now, before = registry.rollback(MODEL, "it was not")
    assert (now.number, before.number) == (1, 2)
    assert (holder("champion"), holder("previous")) == (1, 2)
    assert told() == [
        {"champion": (None, 1)},
        {"champion": (1, 2), "previous": (None, 1)},
        {"champion": (2, 1), "previous": (1, 2)},
    ]


def test_the_candidate_is_in_the_ledger_too_and_once(store):
    for number in (1, 1, 2):
        registry.nominate(registry.by_number(MODEL, number))
    assert told() == [{"candidate": (None, 1)}, {"candidate": (1, 2)}]


def test_the_champion_is_not_moved_onto_itself(store):
    promote(1, None)
    assert promote(1, 1) is None
    assert len(told()) == 1


def test_a_decision_against_a_former_champion_is_refused(store):
    promote(1, None)
    with pytest.raises(PipelineError, match="is version 1 and not nobody any more: another promotion came first"):
        promote(2, None)
    assert holder("champion") == 1


def test_without_a_former_champion_there_is_no_way_back(store):
    with pytest.raises(PipelineError, match="nothing to go back to"):
        registry.rollback(MODEL, "why not")
    promote(1, None)
    with pytest.raises(PipelineError, match="has no previous version"):
        registry.rollback(MODEL, "why not")


def test_a_version_that_is_not_there_is_named_with_those_that_are(store):
    with pytest.raises(PipelineError, match="has no version 7; there are: 1, 2, 3"):
        registry.by_number(MODEL, 7)


@pytest.mark.parametrize("done", [0, 1], ids=["before-the-first-move", "between-the-two"])
def test_a_promotion_that_was_cut_short_is_finished_by_the_next_command(store, done):
    promote(1, None)
    promote(2, 1)
    moves = {"champion": (2, 3), "previous": (1, 2)}
    line = line_after(registry.history(MODEL)[0], moves, "better")
    registry.client().set_registered_model_tag(
        MODEL, key(3), line.to_json()
    )  # and here, or a move later, it was killed
    for alias in [*moves][:done]:
        registry.client().set_registered_model_alias(MODEL, alias, str(moves[alias][1]))
    lines, astray = registry.history(MODEL)
    assert (holder("champion"), holder("previous")) == (3, 2)
    assert (lines[-1], astray) == (line, {})


def test_an_alias_that_was_moved_by_hand_is_told_and_left(store):
    promote(1, None)
    promote(2, 1)
    registry.client().set_registered_model_alias(MODEL, "champion", "1")
    assert registry.history(MODEL)[1] == {"champion": (2, 1)}
    registry.client().delete_registered_model_alias(MODEL, "champion")
    assert registry.history(MODEL)[1] == {"champion": (2, None)}
    assert holder("champion") is None


def test_two_checkouts_that_share_a_registry_write_one_ledger(store, tmp_path, monkeypatch):
    promote(1, None)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    promote(2, 1)
    monkeypatch.chdir(tmp_path)
    promote(3, 2)
    assert [line["champion"] for line in told()] == [(None, 1), (1, 2), (2, 3)]


def test_a_ledger_that_lost_its_last_line_moves_nothing_more(store):
    promote(1, None)
    promote(2, 1)
    registry.client().delete_registered_model_tag(MODEL, key(2))
    with pytest.raises(PipelineError, match="had 2 lines when this checkout last looked"):
        promote(3, 2)
    assert holder("champion") == 2


def test_two_promotions_at_once_end_with_one_champion(store, tmp_path):
    promote(1, None)
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, store, number],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        for number in ("2", "3")
    ]  # fmt: skip
    for process in racing:
        assert process.stdout.readline() == "ready\n"
    for process in racing:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in racing]
    assert sorted(text == "promoted" for text in said) == [False, True]
    assert any("another promotion came first" in text for text in said)
    winner = 2 + said.index("promoted")
    assert (holder("champion"), holder("previous")) == (winner, 1)
    assert [line["champion"] for line in told()] == [(None, 1), (1, winner)]


@pytest.mark.parametrize("lines", [1, 400])
def test_a_description_keeps_to_what_the_databases_hold_and_says_where_the_rest_is(store, lines):
    """SQLite takes any length, PostgreSQL refuses a longer one, and then nothing is registered."""
    card = "".join(f"| file-{number} | its digest |\n" for number in range(lines))
    registry.describe(registry.by_number(MODEL, 1), card, "artifact `card.md` of run 7")
    kept = MlflowClient(store).get_model_version(MODEL, "1").description
    assert len(kept) <= SqlModelVersion.description.type.length == registry.DESCRIPTION_CHARS
    if lines == 1:
        assert kept == card
    else:
        shown, _, rest = kept.partition("\n\n")
        assert card.startswith(shown + "\n")
        assert len(kept) > registry.DESCRIPTION_CHARS - 200
        assert rest == "*The rest: artifact `card.md` of run 7.*\n"
