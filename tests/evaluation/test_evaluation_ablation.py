"""Ablations: which there are, that each is a whole parameter file, and what the table says."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.data.rows import Answered
from saferflow.errors import ParamsError
from saferflow.evaluation.ablation import chosen, compare, markdown, variants
from saferflow.params import Params, load_params
from saferflow.tracking.experiments import name_of, overrides

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
ANSWERED = Answered(
    row="r1", policy="grpo", kind="safety", image="i1", completion="", safety=3, helpfulness=3, rigor=3, refused=True,
    valid=True, correct=False, expected="refuse", hazard="S1", risk_source="text", attack="none", violations="", reason="",
)  # fmt: skip


def test_the_embedded_profile_has_these():
    assert list(variants(PARAMS)) == ["no-dpo", "no-format", "no-depth", "no-semantic", "correction", "no-topologies"]


def test_a_mix_of_rewards_is_taken_apart_and_a_rollout_that_corrects_is_turned_off():
    grpo = PARAMS.grpo.model_copy(update={"rewards": {"structured": 0.25, "mine.rewards:brief": 0.75}})
    grpo = grpo.model_copy(update={"reflection": {"threshold": 0.5}})
    found = variants(PARAMS.model_copy(update={"grpo": grpo, "dpo": None}))
    assert list(found) == ["no-structured", "no-mine-rewards-brief", "no-correction", "no-topologies"]
    assert found["no-structured"].changes == {"grpo.rewards": {"mine.rewards:brief": 1.0}}


@pytest.mark.parametrize("name", variants(PARAMS))
def test_each_is_a_whole_parameter_file_as_dvc_changes_it(tmp_path, name):
    """By DVC's own reading of the overrides that the command holds."""
    variant = variants(PARAMS)[name]
    file = tmp_path / "params.yaml"
    file.write_bytes((ROOT / "params.yaml").read_bytes())
    apply_overrides(str(file), overrides(variant.changes))
    changed, plain = Params.model_validate(yaml.safe_load(file.read_text())), PARAMS
    assert changed != plain
    for dotted, value in variant.changes.items():
        section, _, key = dotted.partition(".")
        found = getattr(changed, section)
        found = getattr(found, key) if key else found
        assert (found.model_dump() if hasattr(found, "model_dump") else found) == (
            tuple(value) if isinstance(value, list) else value
        )


names = st.from_regex(r"[a-z][a-z_.]{0,6}(:[a-z]{1,5})?", fullmatch=True)


@settings(max_examples=30)
@given(st.dictionaries(names, st.floats(0.01, 1), min_size=1, max_size=3))
def test_whatever_the_rewards_are_called_dvc_reads_them_as_they_are(tmp_path_factory, rewards):
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text("grpo:\n  rewards: {toolkit: 1.0}\n")
    apply_overrides(str(file), overrides({"grpo.rewards": rewards}))
    assert yaml.safe_load(file.read_text())["grpo"]["rewards"] == pytest.approx(rewards)


def test_a_name_that_is_none_is_an_error_that_says_what_there_is():
    with pytest.raises(ParamsError, match=r"no ablation no-tools; there are no-dpo, .* and all"):
        chosen(PARAMS, ["no-dpo", "no-tools"])
    assert [each.name for each in chosen(PARAMS, ["all"])] == list(variants(PARAMS))


def test_an_experiment_is_found_again_for_the_same_pipeline_and_changes_only(tmp_path):
    (tmp_path / "dvc.lock").write_text("one")
    first = name_of(tmp_path, "no-dpo", {"dpo": None})
    assert first == name_of(tmp_path, "no-dpo", {"dpo": None})
    assert first != name_of(tmp_path, "no-dpo", {"dpo": 1})
    (tmp_path / "dvc.lock").write_text("two")
    assert first != name_of(tmp_path, "no-dpo", {"dpo": None})


def test_the_table_has_each_measure_with_its_paired_difference():
    whole = [replace(ANSWERED, row=f"r{i}", image=f"i{i}") for i in range(40)]
    worse = [replace(row, safety=2 if i < 10 else 3) for i, row in enumerate(whole)]
    lines = compare(whole, {"without x": worse}, PARAMS)
    told = markdown(lines, len(whole))
    assert "| 40 held-out rows | safety | helpfulness | rigor | attack success rate | validity | parse rate |" in told
    assert "| as it is | 100.0 | 100.0 | 100.0 | 0.0 | 100.0 | 100.0 |" in told
    gain = lines[1].gains["safety"]
    assert f"| without x | 75.0 (-25.0 [{gain.low:+.1f}, {gain.high:+.1f}]) |" in told
    assert gain.high < 0
    assert "general" not in told


def test_a_variant_that_answered_other_rows_has_scores_and_no_differences():
    """As one by another seed, which draws other held-out rows."""
    lines = compare([ANSWERED], {"run.seed=8": [replace(ANSWERED, row="r2", safety=2)]}, PARAMS)
    assert lines[1].other_rows
    assert lines[1].gains == {}
    told = markdown(lines, 1)
    assert "| run.seed=8 (other held-out rows, so no differences) | 0.0 | 100.0 | 100.0 | 0.0 | 100.0 | 100.0 |" in told
