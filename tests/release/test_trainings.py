"""What is the recipe of a training: everything that a training stage reads, but the seed."""

import pytest

from saferflow.release.trainings import RECIPE, SEED, tags_of

CODE, DATA, TABLE = "src/saferflow/training/sft.py", "data/sources", "data/tables/sft.parquet"


def lock(seed: int = 7, /, **changes: object) -> dict:
    """A pipeline of four stages as dvc.lock has it."""
    values = {"learning_rate": 1e-3, CODE: "c", DATA: "d", TABLE: "t", "constrained": False, "judge": "rules", "gate": 0.95}
    values |= {"sft_seed": seed, **changes}
    return {
        "plan": {
            "deps": [{"path": DATA, "md5": values[DATA]}],
            "params": {"params.yaml": {"run.seed": seed, "plan": {"topologies": True}}},
            "outs": [{"path": "data/tables", "md5": f"{seed}.dir"}],
        },
        "sft": {
            "deps": [{"path": TABLE, "md5": values[TABLE]}, {"path": CODE, "md5": values[CODE]}],
            "params": {"params.yaml": {"run.seed": values["sft_seed"], "sft": {"learning_rate": values["learning_rate"]}}},
            "outs": [{"path": "models/sft", "md5": f"w{seed}.dir"}],
        },
        "evaluate": {
            "deps": [{"path": "models/sft", "md5": f"w{seed}.dir"}],
            "params": {
                "params.yaml": {
                    "run.seed": seed,
                    "evaluate": {"constrained": values["constrained"], "judge": {"kind": values["judge"]}},
                }
            },
        },
        "gate": {"params": {"params.yaml": {"run.seed": seed, "gate": {"level": values["gate"]}}}},
    }


@pytest.mark.parametrize("change", [{}, {TABLE: "other"}, {"judge": "endpoint"}, {"gate": 0.9}], ids=str)
def test_seed_tables_judge_and_gate_leave_a_recipe_the_same(change):
    one, other = tags_of(lock()), tags_of(lock(8, **change))
    assert one[RECIPE] == other[RECIPE]
    assert (one[SEED], other[SEED]) == ("7", "8")


@pytest.mark.parametrize("change", [{"learning_rate": 2e-3}, {CODE: "other"}, {DATA: "other"}, {"constrained": True}], ids=str)
def test_another_parameter_other_code_and_other_data_are_another_recipe(change):
    assert tags_of(lock())[RECIPE] != tags_of(lock(**change))[RECIPE]


def test_stages_of_different_seeds_are_no_training_of_a_recipe():
    assert tags_of(lock(7, sft_seed=8)) == {}
