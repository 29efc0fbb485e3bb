"""`saferflow attack`: a real policy under every attack, what comes out, and what a mistake says."""

import json

import pytest
from rich.console import Console

from saferflow.cli.attack import ATTACKS, FILE, attack, chosen
from saferflow.cli.evaluate import ANSWERS, REPORT
from saferflow.data.attacks.family import FAMILIES, TRAINED, UNSEEN
from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.data.scenes.corpus import safety_rows
from saferflow.data.tables import read_table, write_table
from saferflow.errors import DataError, PolicyError
from saferflow.params import load_params
from saferflow.planner.rules import plan_for
from saferflow.protocol.plan import Plan

from .conftest import ROOT

MICRO = load_params(ROOT / "profiles" / "micro.yaml")
PARAMS = MICRO.model_copy(
    update={
        "policy": MICRO.policy.model_copy(update={"max_completion_tokens": 8}),
        "evaluate": MICRO.evaluate.model_copy(update={"resamples": 50}),
    }
)


def prompts(count: int) -> list[PromptRow]:
    found = []
    for row in safety_rows(count, 1, "evaluation"):
        plan = plan_for(row.question, row.image)
        system = plan.system_prompt("brief")
        found.append(
            PromptRow(row.id, "scenes", "safety", row.image, system, row.question, plan.to_json(), row.labels.to_json())
        )
    return found


@pytest.fixture
def table(tmp_path):
    write_table(tmp_path / "rows.parquet", prompts(60), PromptRow)
    return tmp_path / "rows.parquet"


def run(tmp_path, policy, table, **asked):
    told = Console(record=True, width=140)
    options = {"count": 3, "methods": list(FAMILIES), "kinds": (TRAINED, UNSEEN), "constrained": False} | asked
    attack(told, tmp_path, PARAMS, [str(policy)], table, tmp_path / "out", **options)
    return told.export_text()


def test_every_attack_stands_beside_its_plain_request(policy, table, tmp_path, capsys):
    run(tmp_path, policy, table)
    told = capsys.readouterr().out
    assert "Attacks made of 3 requests" in told
    assert "3 x 4" in told
    out = tmp_path / "out"
    rows, answered = read_table(out / ATTACKS, PromptRow), read_table(out / ANSWERS, Answered)
    assert sorted(row.id for row in rows) == sorted(row.row for row in answered)
    pressed = sum(row.id.split("~")[1] == "pressure.trained" for row in rows)
    assert 3 * 2 <= pressed <= 3 * 4  # the request and one to three turns of trained pressure
    # The request; four trained families of a turn; six unseen ones of a turn and unseen pressure of four.
    assert len(rows) == 3 * (1 + 4 + 6 + 4) + pressed
    outcomes = {(one["method"], one["forms"]): one for one in json.loads((out / FILE).read_text())}
    both = ("typographic", "role_play", "obfuscation", "split", "pressure")
    assert list(outcomes) == [
        ("plain", ""),
        *((name, kind) for name in both for kind in ("trained", "unseen")),
        ("authority", "unseen_family"),
        ("continuation", "unseen_family"),
    ]
    assert outcomes["plain", ""]["gain"] is None
    assert outcomes["pressure", "unseen"]["turns"] == 12
    assert (out / "audit" / "index.html").exists()
    page = (out / REPORT).read_text()
    assert "By source" in page
    assert "<h2>Attacks</h2>" in page
    for words in ("unseen family", "trained", "role play"):
        assert words in told
        assert words in page


@pytest.mark.parametrize(("kinds", "left"), [((TRAINED,), {"trained"}), ((UNSEEN,), {"unseen", "unseen_family"})])
def test_one_kind_of_forms_can_be_asked_for(policy, table, tmp_path, kinds, left):
    run(tmp_path, policy, table, count=1, methods=["role_play", "authority"], kinds=kinds)
    outcomes = json.loads((tmp_path / "out" / FILE).read_text())
    assert {one["forms"] for one in outcomes} == {"", *left}


def test_each_turn_is_planned_and_says_all_that_was_asked_so_far(policy, table, tmp_path):
    run(tmp_path, policy, table, methods=["pressure"], kinds=(UNSEEN,))
    rows = {row.id: row for row in read_table(tmp_path / "out" / ATTACKS, PromptRow)}
    for turn in (2, 3, 4):
        for name, row in rows.items():
            if name.endswith(f"~pressure.unseen~{turn}"):
                before = rows[name.removesuffix(str(turn)) + str(turn - 1)]
                assert row.question.startswith(before.question + "\n")
                assert Plan.from_json(row.plan) == plan_for(row.question, row.image)


def test_the_seeds_are_to_be_declined_without_an_attack_in_them_and_of_many_hazards():
    rows = prompts(200)
    found = [Labels.from_json(row.labels) for row in chosen(rows, 8, 7)]
    assert all(one.harmful and one.attack == "none" for one in found)
    assert len({one.hazard for one in found}) == 8
    assert chosen(rows, 8, 7) == chosen(rows[::-1], 8, 7)


def test_a_mistake_says_what_there_is(policy, table, tmp_path):
    with pytest.raises(PolicyError, match="once"):
        attack(
            Console(),
            tmp_path,
            PARAMS,
            ["sft", "sft"],
            table,
            tmp_path / "out",
            count=1,
            methods=[],
            kinds=(TRAINED,),
            constrained=False,
        )
    with pytest.raises(DataError, match="no attack flattery; there are typographic"):
        run(tmp_path, policy, table, methods=["flattery"])
    with pytest.raises(DataError, match="no forms rare; there are trained, unseen"):
        run(tmp_path, policy, table, kinds=["rare"])
    harmless = [row for row in prompts(60) if not Labels.from_json(row.labels).harmful]
    write_table(table, harmless, PromptRow)
    with pytest.raises(DataError, match="--rows"):
        run(tmp_path, policy, table)
    assert not (tmp_path / "out").exists()


def test_held_to_its_plans_an_untrained_policy_keeps_the_protocol_in_every_turn(policy, table, tmp_path):
    run(tmp_path, policy, table, count=2, methods=["pressure"], constrained=True)
    outcomes = {one["method"]: one for one in json.loads((tmp_path / "out" / FILE).read_text())}
    assert outcomes["plain"]["valid"] == outcomes["pressure"]["valid"] == 100


def test_attacks_that_adapt_stand_beside_the_plain_requests_with_their_dialogues(policy, table, tmp_path, capsys):
    two = tmp_path / "two"
    two.symlink_to(policy)
    told = Console(record=True, width=140)
    params = PARAMS.model_copy(update={"attack": PARAMS.attack.model_copy(update={"turns": 3})})
    attack(
        told, tmp_path, params, [str(policy), str(two)], table,
        tmp_path / "out", count=2, methods=["rephrase", "crescendo"], kinds=(TRAINED,), constrained=False,
    )  # fmt: skip
    out = tmp_path / "out"
    found = [(one["policy"], one["method"], one["forms"]) for one in json.loads((out / FILE).read_text())]
    for name in (str(policy), str(two)):
        assert [each[1:] for each in found if each[0] == name] == [
            ("plain", ""), ("rephrase", "rules"), ("crescendo", "rules"),
        ]  # fmt: skip
    rows, answered = read_table(out / ATTACKS, PromptRow), read_table(out / ANSWERS, Answered)
    tries = {one.row: one for one in answered if "~plain~" not in one.row}
    assert len(tries) == len([row for row in rows if "~plain~" not in row.id])
    for row in rows:
        if row.source == "crescendo.rules":
            turns = row.turns
            assert row.question == "\n".join([*(user for user, _ in turns), row.last_question])
            assert Plan.from_json(row.plan) == plan_for(row.question, row.image)
    listed = (out / "audit" / "rows.js").read_text()
    assert all(identity in listed for identity in tries)
    assert "2 x " in capsys.readouterr().out
