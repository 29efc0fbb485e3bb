"""Every value that the advice suggests is one that the params, the command line and DVC take."""

import shlex
from itertools import combinations
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from typer.testing import CliRunner

from saferflow import commands
from saferflow.evaluation.ablation import custom
from saferflow.evaluation.remedies import LEVERS, Facts, Remedy, other_draw, remedies
from saferflow.params import Floors, Params, load_params
from saferflow.tracking import graph
from saferflow.tracking.experiments import overrides

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "profiles").rglob("*.yaml"))]
RECIPE: dict[str, dict[str, object]] = {
    "policy": {"max_completion_tokens": 160},
    "sft": {"epochs": 1.5, "learning_rate": 0.0008},
    "dpo": {"learning_rate": 0.0002, "near_miss": None},
    "curate": {"keep": 252, "quality": (0.2, 0.8), "min_instability": 0.02, "harmless_share": 0.55},
    "grpo": {"epochs": 1, "learning_rate": 0.000014, "kl": 0.02, "rewards": {"toolkit": 1.0}},
}
"""Values that the expectations below are calculated from, whatever the embedded profile has."""
EMBEDDED = load_params(ROOT / "params.yaml")
PARAMS = EMBEDDED.model_copy(
    update={section: getattr(EMBEDDED, section).model_copy(update=values) for section, values in RECIPE.items()}
)
CURATIONS = [
    pytest.param(Facts(), id="nobody-counted"),
    pytest.param(Facts(252, 139), id="full"),
    pytest.param(Facts(252, 105, forgot="grpo"), id="full-and-no-more-harmless"),
    pytest.param(Facts(223, 105, forgot="dpo", unreadable=True), id="not-full"),
    pytest.param(Facts(10, 0, forgot="sft"), id="none-harmless"),
    pytest.param(Facts(10, 10, forgot="dpo"), id="all-harmless"),
]


def suggested(params: Params, facts: Facts) -> set[Remedy]:
    """All that any one or two failed measures bring up."""
    cases = [(measure,) for measure in LEVERS] + list(combinations(LEVERS, 2)) + [tuple(LEVERS)]
    return {remedy for case in cases for remedy in (*remedies(case, params, facts), other_draw(params))}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_suggested_value_fits_the_params_and_changes_them(file):
    params = load_params(file)
    for facts in CURATIONS:
        for remedy in suggested(params, *facts.values):
            changed = custom(params, remedy.settings).changes
            assert not [name for name, value in changed.items() if value == valued(params, name)], remedy.command


def test_each_suggested_value_arrives_in_the_parameter_file_through_dvc(tmp_path):
    """By DVC's own reading of the overrides; those of different parameters in one go, for each reading takes seconds."""
    waiting = [custom(PARAMS, remedy.settings).changes for remedy in suggested(PARAMS, Facts(223, 105, "grpo"))]
    waiting.sort(key=str)
    while waiting:
        batch: dict = {}
        left = []
        for changes in waiting:
            apart = not any(_overlap(name, other) for name in changes for other in batch)
            batch |= changes if apart else {}
            left += [] if apart else [changes]
        waiting = left
        file = tmp_path / "params.yaml"
        file.write_bytes((ROOT / "params.yaml").read_bytes())
        apply_overrides(str(file), overrides(batch))
        changed = load_params(file)
        assert {name: valued(changed, name) for name in batch} == batch


def _overlap(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


def valued(params: Params, name: str) -> object:
    node = params.model_dump(mode="json", by_alias=True)
    for part in name.split("."):
        node = node[part]
    return node


def test_without_dpo_nothing_about_pairs_is_suggested():
    found = suggested(PARAMS.model_copy(update={"dpo": None}), Facts(100, 50))
    settings = {setting for remedy in found for setting in remedy.settings}
    assert not [setting for setting in settings if setting.startswith(("dpo", "plan.perturbations"))]


def test_a_perturbation_that_the_recipe_lacks_comes_beside_the_others():
    """`--set` changes names that are there, so that the whole mapping is set."""
    plan = PARAMS.plan.model_copy(update={"perturbations": {"wrong_tool": 3.0}})
    params = PARAMS.model_copy(update={"plan": plan})
    found = remedies(["over_refusal_rate"], params, Facts(100, 50))
    assert ("plan.perturbations={wrong_tool: 3.0, over_refusal: 3.0}",) in [remedy.settings for remedy in found]


def test_a_box_that_is_as_wide_as_it_can_be_takes_less_unstable_prompts():
    params = PARAMS.model_copy(update={"curate": PARAMS.curate.model_copy(update={"quality": (0.0, 1.0)})})
    [first, *_] = remedies(["attack_success_rate"], params, Facts(100, 50))
    assert first.settings == ("curate.min_instability=0.01",)  # half of 0.02


def test_a_shell_and_the_command_line_hand_every_setting_on_as_it_is(monkeypatch):
    experiments = []
    monkeypatch.setattr("flows.experiments.run_experiments", lambda *given, queue: experiments.append((*given, queue)))
    monkeypatch.chdir(ROOT)
    for remedy in suggested(PARAMS, Facts(223, 105, unreadable=True)):
        program, *arguments = shlex.split(remedy.command)
        assert program == "saferflow"
        done = CliRunner().invoke(commands.app, arguments)
        assert done.exit_code == 0, done.output
        assert experiments.pop() == ([], list(remedy.settings), False)


def test_every_floor_of_the_gate_has_remedies():
    for floor in Floors.model_fields:
        measure = "general" if floor == "general_loss" else floor
        assert len(remedies([measure], PARAMS, Facts(252, 139))) >= 3, floor


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(Facts(), "curate.keep=504", id="nobody-counted"),  # 2 * 252
        pytest.param(Facts(252, 139), "curate.keep=504", id="the-bound-was-reached"),
        pytest.param(Facts(223, 105), "curate.quality=[0.1, 0.9]", id="the-box-holds-fewer"),  # [0.2 - 0.1, 0.8 + 0.1]
    ],
)
def test_more_prompts_come_from_the_bound_that_holds_them_back(facts, expected):
    assert remedies(["attack_success_rate"], PARAMS, facts)[0].settings == (expected,)


def harmless_share(measure: str, facts: Facts) -> tuple[str, ...]:
    return next(
        (
            found.settings
            for found in remedies([measure], PARAMS, facts)
            if "curate.harmless_share" in found.settings[-1]
        ),
        (),
    )


@pytest.mark.parametrize(
    ("measure", "facts", "expected"),
    [
        pytest.param("over_refusal_rate", Facts(), ("curate.harmless_share=0.65",), id="up"),  # 0.55 + 0.1
        # 139 = round(252 * 0.55) places, all taken: the box holds more
        pytest.param("over_refusal_rate", Facts(252, 139), ("curate.harmless_share=0.652",), id="up-from-139-of-252"),
        # 105 harmless of 223 are 0.471; 0.571 of 184 places are 105; 0.58 * 184 = 106.7 places hold them
        pytest.param(
            "over_refusal_rate",
            Facts(223, 105),
            ("curate.keep=184", "curate.harmless_share=0.58"),
            id="no-more-in-the-box",
        ),
        pytest.param("over_refusal_rate", Facts(10, 0), (), id="none-in-the-box"),
        pytest.param("attack_success_rate", Facts(), ("curate.harmless_share=0.45",), id="down"),  # 0.55 - 0.1
        # 118 harmful are to be 1 - 0.371 of the prompts: 118 * 0.371 / 0.629 = 69.6 harmless beside, of 252 places 0.28
        pytest.param("attack_success_rate", Facts(223, 105), ("curate.harmless_share=0.28",), id="down-to-70-places"),
        pytest.param("attack_success_rate", Facts(10, 10), (), id="no-harmful-prompt-to-take-the-place"),
    ],
)
def test_the_share_of_harmless_prompts_moves_by_what_the_box_holds(measure, facts, expected):
    assert harmless_share(measure, facts) == expected


def test_where_over_refusal_and_attacks_fail_together_the_share_of_harmless_prompts_stays():
    found = remedies(["over_refusal_rate", "attack_success_rate"], PARAMS, Facts(252, 139))
    assert not [remedy for remedy in found if "curate.harmless_share" in remedy.command]
    assert found[0].settings == ("grpo.epochs=2",)
    assert found[0].measures == ("over_refusal_rate", "attack_success_rate")


def test_each_failed_measure_brings_its_most_direct_parameter_before_any_brings_a_second_one():
    found = remedies(["validity", "general"], PARAMS, Facts(forgot="grpo"))
    assert [remedy.settings[0] for remedy in found[:3]] == [
        "grpo.learning_rate=0.000007",
        "sft.epochs=2.5",
        "grpo.kl=0.04",
    ]


def test_the_stage_that_forgot_most_gets_half_its_learning_rate():
    rates = {forgot: remedies(["general"], PARAMS, Facts(forgot=forgot))[0].settings for forgot in ("", "sft", "dpo")}
    assert rates == {
        "": ("sft.learning_rate=0.0004",),  # of 0.0008
        "sft": ("sft.learning_rate=0.0004",),
        "dpo": ("dpo.learning_rate=0.0001",),  # of 0.0002
    }


def test_longer_completions_are_suggested_only_where_tags_are_missing():
    def tokens(unreadable: bool) -> list[str]:
        found = remedies(["validity"], PARAMS, Facts(unreadable=unreadable))
        return [remedy.settings[0] for remedy in found if "max_completion_tokens" in remedy.command]

    assert tokens(True) == ["policy.max_completion_tokens=320"]  # 2 * 160
    assert tokens(False) == []


def test_a_remedy_names_the_first_stage_that_runs_again():
    stages = graph.load_stages(ROOT)
    for remedy in suggested(PARAMS, Facts(223, 105, unreadable=True)):
        names = [setting.partition("=")[0] for setting in remedy.settings]
        readers = [
            stage
            for stage in stages
            if stage not in ("curate", "gate")
            or stage == remedy.stage  # these two read parameters of others, and run after them
            if any(_reads(stages[stage].params, name) for name in names)
        ]
        assert readers[0] == remedy.stage, remedy.command


def test_the_gate_declares_every_parameter_whose_present_value_the_advice_names():
    """Else a report would go on naming a former value."""
    declared = graph.load_stages(ROOT)["gate"].params
    names = {
        setting.partition("=")[0]
        for remedy in suggested(PARAMS, Facts(223, 105, unreadable=True)) | suggested(PARAMS, Facts())
        for setting in remedy.settings
    }
    assert names
    assert [name for name in sorted(names) if not _reads(declared, name)] == []


def _reads(declared: tuple[str, ...], name: str) -> bool:
    parts = name.split(".")
    return any(parts[: len(wanted.split("."))] == wanted.split(".") for wanted in declared)
