"""The parameter file: every committed one loads, and a wrong one says all that is wrong with it."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saferflow.errors import ParamsError
from saferflow.params import load_params, read_values

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "profiles").rglob("*.yaml"))]


def written(tmp_path: Path, change) -> Path:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    change(raw)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def judge(max_tokens: int | None, max_completion_tokens: int | None) -> dict:
    """The judge of a profile, with these limits."""
    params = read_values(ROOT / "profiles" / "qwen2.5-vl-3b.yaml")["judge"]
    limits = {"max_tokens": max_tokens, "max_completion_tokens": max_completion_tokens}
    return params | {"request": params["request"] | limits}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_committed_parameter_file_loads(path):
    assert load_params(path).run.profile


def test_every_problem_is_told_at_once(tmp_path):
    def change(raw):
        raw["dpo"]["betta"] = raw["dpo"].pop("beta")
        raw["gate"]["floors"]["safety"] = 101

    with pytest.raises(ParamsError) as error:
        load_params(written(tmp_path, change))
    for part in ("dpo.beta: Field required", "dpo.betta: Extra inputs", "gate.floors.safety"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda raw: raw["plan"].update(sft_share=0.9), "it must be 1", id="shares"),
        pytest.param(lambda raw: raw["sft"].update(micro_batch_size=5), "no multiple", id="batch-does-not-divide"),
        pytest.param(
            lambda raw: raw["policy"].update(base="some/checkpoint"), "exactly when", id="base-section-left-over"
        ),
        pytest.param(lambda raw: raw["data"].update(sources=[]), "data.sources", id="no-source"),
        pytest.param(
            lambda raw: raw["watch"].update(sft={"every": 5, "keep": "best", "patience": 3}),
            "watch.sft is set and watch.share is 0", id="nothing-to-watch",
        ),
        pytest.param(
            lambda raw: (
                raw["watch"].update(share=0.1, grpo={"every": 5, "keep": "last", "patience": None}),
                raw["grpo"].update(updates=2, save_every=8),
            ),
            "watch.grpo.every 5 is no multiple of the 2 steps", id="watched-within-a-rollout-batch",
        ),
        pytest.param(lambda raw: raw.update(judge=judge(256, 256)), "both of max_tokens and", id="two-limits"),
        pytest.param(lambda raw: raw.update(judge=judge(None, None)), "neither of max_tokens and", id="no-limit"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(tmp_path, change, told):
    with pytest.raises(ParamsError, match=told):
        load_params(written(tmp_path, change))


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ParamsError, match="saferflow run --profile embedded"):
        load_params(tmp_path / "none.yaml")


def test_the_committed_parameters_are_the_embedded_profile():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "profiles" / "embedded.yaml").read_bytes()


SECTIONS = st.dictionaries(
    st.sampled_from(["sft", "dpo", "gate"]),
    st.none() | st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers() | st.lists(st.integers()) | st.just({"x": 1})),
)


@given(SECTIONS, SECTIONS)
def test_a_profile_has_what_it_says_and_else_what_it_extends_says(tmp_path_factory, base, profile):
    folder = tmp_path_factory.mktemp("profiles")
    (folder / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    (folder / "profile.yaml").write_text(yaml.safe_dump({"extends": "base", **profile}), encoding="utf-8")
    values = read_values(folder / "profile.yaml")
    assert values.keys() == base.keys() | profile.keys()
    for name, section in values.items():
        own, inherited = profile.get(name, {}), base.get(name)
        if own is None or inherited is None:
            assert section == (own if name in profile else inherited)
        else:
            assert section == {key: own.get(key, inherited.get(key)) for key in own.keys() | inherited.keys()}


def test_profiles_that_extend_each_other_or_nothing_are_refused(tmp_path):
    for name, base in (("a", "b"), ("b", "c"), ("c", "a"), ("lost", "none")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="a extends b extends c extends a; one of them must be complete"):
        read_values(tmp_path / "a.yaml")
    with pytest.raises(ParamsError, match=r"lost\.yaml extends none, and there is no"):
        read_values(tmp_path / "lost.yaml")
