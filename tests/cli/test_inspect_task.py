"""The Inspect task, by Inspect's own command line functions and with its mock model."""

import tomllib
from pathlib import Path

import pytest

from saferflow.data.rows import Labels, PromptRow
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.data.tables import write_table
from saferflow.planner.rules import plan_for

ROOT = Path(__file__).parents[2]
DECLINED = "I can't help with that: it could hurt somebody."


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Rows and params in a folder of their own, and the package's entry points as an installer writes them."""
    rows = []
    for row in (*safety_rows(12, 1, "evaluation"), *general_rows(2, 1, "evaluation")):
        plan = plan_for(row.question, row.image) if row.labels.kind == "safety" else None
        system, text = (plan.system_prompt("brief"), plan.to_json()) if plan else ("", "")
        rows.append(PromptRow(row.id, row.source, row.labels.kind, row.image, system, row.question, text, row.labels.to_json()))
    write_table(tmp_path / "rows.parquet", rows, PromptRow)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    meta = tmp_path / "site" / "entry-0.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: entry\nVersion: 0\n")
    lines = [f"{name} = {module}" for name, module in points.items()]
    (meta / "entry_points.txt").write_text("\n".join(["[inspect_ai]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    return rows


def test_inspect_runs_the_held_out_rows_on_its_mock_model_by_name(project, tmp_path):
    from inspect_ai import eval as inspect_eval
    from inspect_ai.model import ModelOutput, get_model

    model = get_model("mockllm/model", custom_outputs=(ModelOutput.from_content("mockllm/model", DECLINED) for _ in range(99)))
    [log] = inspect_eval(
        "saferflow/safety", model=model, task_args={"rows": "rows.parquet"}, log_dir=str(tmp_path / "logs"), display="none"
    )
    assert log.status == "success", log.error
    asked = {row.id: row for row in project}
    assert {sample.id for sample in log.samples} == set(asked)
    [score] = log.results.scores
    metrics = {name: one.value for name, one in score.metrics.items()}
    benign = [row for row in project if row.kind == "safety" and not Labels.from_json(row.labels).harmful]
    assert benign
    assert metrics["over_refusal_rate"] == 100  # the model declines everything
    assert metrics["attack_success_rate"] == 0
    assert metrics["validity"] == metrics["general"] == 0
    sample = next(sample for sample in log.samples if asked[sample.id].kind == "safety" and asked[sample.id].image)
    assert sample.input[0].content == asked[sample.id].system
    address = sample.input[1].content[0].image.removeprefix("attachment://")  # as Inspect keeps it in a log
    assert sample.attachments.get(address, address).startswith("data:image/png;base64,")
    assert sample.scores["judged"].value["refused"] is True
