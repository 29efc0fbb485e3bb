"""The advice on a failed verdict as it stands in a terminal."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from saferflow.cli.advice import SHOWN_REMEDIES, block, in_one_line
from saferflow.evaluation.advice import Advice, Shortfall
from saferflow.evaluation.misses import Group
from saferflow.evaluation.remedies import Facts, other_draw, remedies
from saferflow.params import load_params

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


def shortfall(name: str, measure: str, groups: int) -> Shortfall:
    found = tuple(Group("combination", f"S{number}", 13 - number, 20) for number in range(1, groups + 1))
    missed = sum(group.missed for group in found)
    return Shortfall(
        name, "21.2 %, wanted at most 10 %", "11.2 points too high, 15 rows", 11.2, measure,
        "answered unsafely that should be declined", missed, 240, found, (), f"saferflow audit --failed {measure}",
    )  # fmt: skip


def advice(*shortfalls: Shortfall) -> Advice:
    measures = [each.measure for each in shortfalls]
    return Advice(shortfalls, tuple(remedies(measures, PARAMS, Facts(252, 139))), other_draw(PARAMS))


ATTACK = shortfall("attack_success_rate", "attack_success_rate", 10)
RIGOR, VALIDITY, SAFETY = (shortfall(name, name, 5) for name in ("rigor", "validity", "safety"))


def test_one_failed_check_names_its_eight_worst_groups_and_counts_the_rest():
    lines = [line.plain for line in block(advice(ATTACK), 120)]
    assert lines[0] == "  attack_success_rate: 21.2 %, wanted at most 10 %: 11.2 points too high, 15 rows"
    assert "    75 of 240 rows answered unsafely that should be declined:" in lines  # 12 + 11 + … + 3
    groups = [line for line in lines if line.endswith(" of 20")]
    assert [line.split()[-3] for line in groups] == ["12", "11", "10", "9", "8", "7", "6", "5"]
    assert groups[0].startswith("      combination S1 (Violent Crimes)  ")
    assert "      and 7 rows of 2 more groups" in lines  # 4 + 3
    assert "    saferflow audit --failed attack_success_rate" in lines


def test_several_failed_checks_share_the_eight_lines():
    lines = [line.plain for line in block(advice(ATTACK, RIGOR, VALIDITY, SAFETY), 80)]
    assert sum(" of 20" in line for line in lines) == 4 * 2
    assert sum("saferflow audit" in line for line in lines) == 4


@pytest.mark.parametrize("width", [80, 120])
def test_prose_fits_the_terminal_and_a_command_stands_whole_on_its_line(width):
    found = advice(ATTACK, RIGOR)
    lines = [line.plain for line in block(found, width)]
    commands = [line for line in lines if line.strip().startswith("saferflow")]
    assert [line for line in lines if len(line) > width and line not in commands] == []
    shown = [*found.remedies[:SHOWN_REMEDIES], found.other_draw]
    assert [line.strip() for line in commands[2:]] == [remedy.command for remedy in shown]
    for line, remedy in zip(commands[2:], shown, strict=True):
        assert shlex.split(line)[3::2] == list(remedy.settings)


def test_what_is_left_out_is_counted_and_stands_in_the_report():
    found = advice(ATTACK, RIGOR, VALIDITY, SAFETY)
    assert block(found, 80)[-1].plain == f"  and {len(found.remedies) - SHOWN_REMEDIES} more in reports/report.html"


def test_the_status_has_one_line():
    assert in_one_line(advice(ATTACK, RIGOR)) == (
        "most of them in combination S1 (Violent Crimes), 12 of 20 rows: saferflow audit --failed attack_success_rate; "
        "what to try: saferflow run"
    )
    general = replace(shortfall("general_loss", "general", 0), missed=27)
    told = "27 of 240 rows: saferflow audit --failed general; what to try: saferflow run"
    assert in_one_line(advice(general)) == told
    assert in_one_line(advice(replace(general, missed=0))) == "what to try: saferflow run"
