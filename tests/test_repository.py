"""What the repository says about itself holds."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from saferflow.params import load_params
from saferflow.tracking import graph
from tests.stage_sources import imported_files, is_source, sources, write

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
STAGES = graph.load_stages(ROOT)


def test_every_stage_depends_on_the_modules_it_imports_and_no_others():
    """`make sources` writes them."""
    declared = {name: [dep for dep in stage.deps if is_source(dep)] for name, stage in STAGES.items()}
    assert declared == {name: sources(name) for name in STAGES}


def test_make_sources_changes_nothing_else(tmp_path):
    copy = tmp_path / "dvc.yaml"
    lines = (ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    copy.write_text("".join(line for line in lines if "src/saferflow/rng.py" not in line), encoding="utf-8")
    write(copy)
    assert copy.read_text(encoding="utf-8") == "".join(lines)


def test_no_stage_knows_the_attacks_that_only_the_evaluation_command_shows():
    """So that none of them gets into a training row or into the tokenizer; training forms are known where rows are made."""
    knowing = {
        stage: {Path(file).name for file in imported_files(stage) if "/data/attacks/" in file} for stage in STAGES
    }
    assert {stage for stage, files in knowing.items() if "unseen.py" in files} == set()
    assert {stage for stage, files in knowing.items() if "training.py" in files} == {"base", "plan"}


def test_an_edit_of_a_later_trainer_leaves_the_earlier_stages_alone():
    for earlier, later in (("base", "grpo"), ("sft", "dpo"), ("sft", "grpo"), ("dpo", "grpo")):
        assert not _covered(f"src/saferflow/training/{later}.py", STAGES[earlier].deps), (earlier, later)


def test_parameters_have_no_defaults():
    """A defaulted value is invisible to DVC: the run would change and dvc.lock would not."""
    defaulted = [
        f"{node.name}.{item.target.id}"
        for node in _classes(SOURCE / "saferflow" / "params.py")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and item.value is not None
    ]
    assert defaulted == []


def test_parameters_compute_nothing():
    """Only validators may live in params.py, for no stage declares it."""
    computing = [
        f"{node.name}.{item.name}"
        for node in _classes(SOURCE / "saferflow" / "params.py")
        for item in node.body
        if isinstance(item, ast.FunctionDef) and "validator" not in ast.unparse(item.decorator_list[0])
    ]
    assert computing == []


def test_the_flow_runs_every_stage_after_its_dependencies():
    calls = re.findall(r'run\.stage\("(\w+)"\)', (ROOT / "flows" / "align.py").read_text())
    assert sorted(calls) == sorted(STAGES)
    for position, name in enumerate(calls):
        assert graph.parents(STAGES[name], STAGES) <= set(calls[:position]), name


def test_a_change_of_grpo_parameters_reaches_only_grpo_and_what_follows():
    direct = {name for name, stage in STAGES.items() if "grpo" in stage.params}
    assert direct == {"grpo"}
    assert graph.with_followers(direct, STAGES) == {"grpo", "evaluate", "gate"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_every_parameter_that_it_reads(stage):
    """`params.x.y` in its module wants `x`, `x.y`, or (where all of `x` is handed on) parts of `x` among its params.

    The number of processes changes no result (tests/stages/test_plan.py), nor does that of a cluster's engines
    (tests/training/test_ray.py), so that another number shall make nothing stale.
    """
    text = (SOURCE / "saferflow" / "stages" / f"{stage}.py").read_text()
    sections = set(yaml.safe_load((ROOT / "params.yaml").read_text())) | {"validation"}
    read = [tuple(chain.split(".")) for chain in re.findall(r"\bparams\.(?!run\.(?:workers|ray)\b)(\w+(?:\.\w+)?)", text)]
    declared = [tuple(name.split(".")) for name in STAGES[stage].params]
    undeclared = {
        ".".join(chain)
        for chain in (("validate", *chain[1:]) if chain[0] == "validation" else chain for chain in read)
        if chain[0] in sections and not any(chain[: len(d)] == d or d[: len(chain)] == chain for d in declared)
    }
    assert undeclared == set()


@pytest.mark.parametrize("stage", STAGES)
def test_one_name_everywhere(stage):
    raw = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    assert raw["cmd"] == f"python -m saferflow.stages.{stage}"
    assert (SOURCE / "saferflow" / "stages" / f"{stage}.py").exists()
    assert STAGES[stage].metrics == (f"metrics/{stage}.json",)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_only_files_that_it_declares(stage):
    text = (SOURCE / "saferflow" / "stages" / f"{stage}.py").read_text()
    named = re.findall(r'Path\("((?:data|metrics|models|reports)/[^"]+)"\)', text)
    assert [name for name in named if not _covered(name, STAGES[stage].deps + STAGES[stage].makes)] == []


def test_nothing_trains_on_tables_that_were_not_validated():
    for stage in ("sft", "dpo"):
        assert "reports/validation.json" in STAGES[stage].deps


@pytest.mark.parametrize(
    "file", [ROOT / "params.yaml", *sorted((ROOT / "profiles").rglob("*.yaml"))], ids=lambda f: f.name
)
def test_every_parameter_file_fits_its_types(file):
    assert load_params(file).run.profile


def test_every_section_that_a_stage_names_exists():
    sections = set(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert {name.split(".")[0] for stage in STAGES.values() for name in stage.params} <= sections


def test_every_committed_yaml_loads():
    files = [ROOT / name for name in _tracked() if name.endswith((".yaml", ".yml"))]
    assert files
    for file in files:
        yaml.safe_load(file.read_text())


def test_the_mlflow_folder_holds_no_python():
    """Python there would hide the package of that name."""
    assert list((ROOT / "mlflow").rglob("*.py")) == []


def test_constraints_are_names_and_exact_versions_only():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_every_dependency_is_constrained():
    constrained = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL).group(1)
    names = re.findall(r'^  "([A-Za-z0-9._-]+)', listed, re.MULTILINE)
    assert names
    assert {canonicalize_name(name) for name in names} <= constrained


def test_stage_outputs_are_ignored_by_git_and_metrics_are_not():
    outs = [out for stage in STAGES.values() for out in stage.outs]
    assert set(_ignored(outs)) == set(outs)
    assert _ignored([metric for stage in STAGES.values() for metric in stage.metrics]) == []


def _covered(path: str, deps: tuple[str, ...]) -> bool:
    return any(Path(dep) == Path(path) or Path(dep) in Path(path).parents for dep in deps)


def _classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]


def _tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")


def _ignored(paths: list[str]) -> list[str]:
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


@pytest.mark.parametrize("page", ["security.md", "operations.md"])
def test_every_test_that_a_table_of_threats_or_faults_names_is_there(page):
    told = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8")))
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert told
    assert sorted(name for name in told if f"def {name}(" not in written) == []


def test_the_servers_of_the_compose_file_are_the_versions_that_were_tested():
    """And every port is on loopback, and no password has a default."""
    text = (ROOT / "mlflow" / "compose.yaml").read_text(encoding="utf-8")
    told = dict(re.findall(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", text))
    told["prefect"] = re.search(r"prefecthq/prefect:([\d.]+)-", text)[1]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: pinned[name.lower()] for name in told} == told
    assert len(told) >= 5
    services = yaml.safe_load(text)["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    example = (ROOT / "mlflow" / "compose.env.example").read_text()
    secrets = set(re.findall(r"\$\{(\w+)", text))
    assert secrets == set(re.findall(r"^(\w+)=$", example, re.M))
