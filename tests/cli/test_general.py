"""`saferflow general`: the real harness against a real server, and what its files say."""

import io
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from saferflow.cli.general import SCORES, general
from saferflow.errors import DataError, PipelineError, PolicyError
from saferflow.evaluation.general import TASKS, command, difference, read_scores
from saferflow.params import load_params

from .conftest import ROOT

PARAMS = load_params(ROOT / "params.yaml")
HARNESS = ROOT / ".venv" / "harness"
OPTIONS = {
    "tasks": ["local"], "backend": "qwen2_5_vl", "server": None, "harness": None, "own_tasks": None, "limit": None
}  # fmt: skip
TASK = """
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {rows}}}}}
task: local
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 16, temperature: 0, do_sample: false}}
process_results: !function utils.results
metric_list:
  - {{metric: accuracy, aggregation: !function utils.mean, higher_is_better: true}}
"""
FUNCTIONS = """
import io
from PIL import Image

def visual(doc): return [Image.open(io.BytesIO(doc["image"])).convert("RGB")]
def text(doc, kwargs=None): return doc["question"]
def results(doc, said): return {"accuracy": float(said[0].strip() == doc["answer"])}
def mean(values): return sum(values) / len(values)
"""


@pytest.fixture
def tasks(tmp_path):
    """A task of twenty questions about pictures whose answer is yes."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(picture, "PNG")
    rows = {"question": [f"Is it {i}?" for i in range(20)], "answer": ["yes"] * 20, "image": [picture.getvalue()] * 20}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    (folder / "local.yaml").write_text(TASK.format(rows=tmp_path / "rows.parquet"))
    (folder / "utils.py").write_text(FUNCTIONS)
    return folder


def run(tmp_path, asked, **options):
    told = Console(record=True, width=140)
    general(told, tmp_path, PARAMS, asked, tmp_path / "out", **(OPTIONS | options))
    return told.export_text()


@pytest.mark.slow
def test_the_harness_asks_a_server_and_the_trace_is_taken_out(serve, tasks, tmp_path, monkeypatch):
    """`make slow` installs lmms-eval to where this looks for it."""
    assert HARNESS.is_dir(), "run this test by: make slow"
    monkeypatch.setenv("PYTHONPATH", str(HARNESS))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def answer(request, before):
        right = request["model"] == "good" or int(request["messages"][-1]["content"][-1]["text"].split()[-1][:-1]) < 10
        said = "yes" if right else "no"
        return 200, {}, f"<thinking>\n[VISUAL-SCAN]: objects=cup\n</thinking>\n<answer>\n{said}\n</answer>"

    told = run(tmp_path, ["poor", "good"], server=serve(answer).address, own_tasks=tasks)
    assert "+0.5 [+0." in told
    scores = json.loads((tmp_path / "out" / SCORES).read_text())
    assert scores["good"]["local"]["accuracy"] == {"value": 1.0, "samples": 20}
    assert scores["poor"]["local"]["accuracy"] == {"value": 0.5, "samples": 20}
    with pytest.raises(DataError, match="its own output says why"):  # it ends with 0 all the same
        run(tmp_path, ["good"], server=serve(answer).address, tasks=["no-such-task"])
    assert json.loads((tmp_path / "out" / SCORES).read_text()) == scores


def files(folder: Path, values: dict, samples: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    told = {"results": {"pope": {"alias": "pope", **values}}, "n-samples": {"pope": {"original": 9000, "effective": 4}}}
    (folder / "20261122_104557_results.json").write_text(json.dumps(told))
    lines = "\n".join(json.dumps(each) for each in samples)
    (folder / "20261122_104557_samples_pope.jsonl").write_text(lines)
    return folder


def test_scores_are_read_with_a_value_a_sample_where_there_is_one(tmp_path):
    values = {"acc,none": 0.5, "acc_stderr,none": 0.1, "acc_stderr_clt,none": "N/A", "f1,none": 0.25}
    after = read_scores(files(tmp_path / "a", values, [{"doc_id": i, "acc": float(i < 2)} for i in range(4)]))
    before = read_scores(
        files(tmp_path / "b", values | {"acc,none": 0.25}, [{"doc_id": i, "acc": i == 0} for i in range(4)])
    )
    assert [(one.task, one.metric, one.value, one.samples) for one in after] == [
        ("pope", "acc", 0.5, 4),
        ("pope", "f1", 0.25, 4),
    ]
    options = {"resamples": 500, "level": 0.95, "seed": 7}
    apart = difference(after[0], before[0], **options)
    assert apart.value == 0.25
    assert apart.low == 0.0 < apart.high
    assert difference(after[1], before[1], **options).low is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"results": {}}', '{"results": {"pope": {}}, "n-samples": {}}'])
def test_files_that_are_not_the_harnesss_are_an_error(tmp_path, content):
    (tmp_path / "x_results.json").write_text(content)
    with pytest.raises(DataError, match="lmms-eval"):
        read_scores(tmp_path)
    with pytest.raises(DataError, match="its own output says why"):
        read_scores(tmp_path / "empty")


def test_without_the_harness_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(PipelineError, match="pip install lmms-eval"):
        run(tmp_path, ["base"])
    with pytest.raises(PipelineError, match="--harness"):
        run(tmp_path, ["base"], harness="/no/python")
    assert not (tmp_path / "out").exists()


def test_a_policy_or_backend_that_is_none_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "lmms_eval.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PolicyError, match="once"):
        run(tmp_path, ["base", "base"])
    with pytest.raises(PolicyError, match="saferflow run"):
        run(tmp_path, ["grpo"])
    (tmp_path / "weights").mkdir()
    with pytest.raises(PolicyError, match="qwen2_5_vl, vllm, and --server"):
        run(tmp_path, [str(tmp_path / "weights")], backend="onnx")


def test_the_command_has_the_five_benchmarks_and_takes_traces_out():
    asked = command(sys.executable, "vllm", {"model": "/m"}, TASKS, Path("out"), limit=5)
    assert asked[asked.index("--tasks") + 1] == "mathvista_testmini,mmmu_val,mmstar,mmvet,pope"
    assert json.loads(asked[asked.index("--reasoning_tags") + 1])[0] == ["<thinking>", "<answer>"]
    assert asked[-2:] == ["--limit", "5"]
    assert os.path.basename(asked[0]).startswith("python")  # noqa: PTH119
