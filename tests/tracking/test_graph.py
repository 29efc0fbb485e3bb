"""Reading dvc.yaml and dvc.lock: who follows whom, and one digest for a stage's record."""

import pytest

from saferflow.errors import PipelineError
from saferflow.tracking import graph
from saferflow.tracking.graph import Stage

CHAIN = {
    "plan": Stage("plan", (), ("data/tables",), ("metrics/plan.json",), ()),
    "sft": Stage("sft", ("data/tables/sft.parquet",), ("models/sft",), (), ()),
    "look": Stage("look", ("models",), ("reports/look",), (), ()),
    "count": Stage("count", ("metrics/plan.json",), ("reports/count",), (), ()),
    "apart": Stage("apart", ("data/tables2",), (), (), ()),
}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        pytest.param("sft", {"plan"}, id="a-file-in-the-folder-that-another-makes"),
        pytest.param("look", {"sft"}, id="a-folder-that-holds-what-another-makes"),
        pytest.param("count", {"plan"}, id="metrics-are-outputs-too"),
        pytest.param("apart", set(), id="a-name-that-only-begins-alike"),
        pytest.param("plan", set(), id="the-first"),
    ],
)
def test_a_stage_follows_those_whose_outputs_it_reads(stage, expected):
    assert graph.parents(CHAIN[stage], CHAIN) == expected


def test_followers_are_found_however_far_down():
    assert graph.with_followers({"plan"}, CHAIN) == {"plan", "sft", "look", "count"}
    assert graph.with_followers(set(), CHAIN) == set()


def test_the_lock_hash_knows_the_content_and_not_the_order():
    entry = {"cmd": "x", "outs": [{"path": "a", "md5": "1"}]}
    assert graph.lock_hash(entry) == graph.lock_hash(dict(reversed(entry.items())))
    assert graph.lock_hash(entry) != graph.lock_hash({"cmd": "x", "outs": [{"path": "a", "md5": "2"}]})


def test_a_folder_without_a_pipeline_is_an_error_that_says_where_it_looked(tmp_path):
    with pytest.raises(PipelineError, match=r"dvc\.yaml: no such file; run in the project's folder"):
        graph.load_stages(tmp_path)


def test_dvc_that_cannot_read_the_project_is_an_error_with_its_words(tmp_path):
    with pytest.raises(PipelineError, match="not inside of a DVC repository"):
        graph.stale(tmp_path)


def test_reasons_name_what_changed_and_how():
    changes = [{"changed deps": {"params.yaml": {"grpo.kl": "modified"}, "models/dpo": "deleted"}}, "changed command"]
    assert list(graph._reasons(changes)) == ["grpo.kl modified", "models/dpo deleted", "changed command"]
