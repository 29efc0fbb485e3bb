"""The benchmark of seeds and arithmetics: real git, DVC and torch's libraries, and stages that take no time."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.spread import report, tables
from benchmarks.spread.arguments import variant
from benchmarks.spread.checkouts import changed
from benchmarks.spread.records import attack_figures
from tests.flows.conftest import make

ROOT = Path(__file__).parents[2]
STAGES = {
    "plan": {"deps": ["stub.py"], "params": ["run.seed"], "outs": ["data/tables"]},
    "sft": {"deps": ["data/tables"], "params": ["run.seed", "sft"], "outs": ["models/sft"]},
    "evaluate": {"deps": ["models/sft"], "params": ["evaluate"], "outs": ["data/evaluated.parquet"]},
}
VARIANTS = ("--variant", "recipe:", "--variant", "constrained:evaluate.constrained=true,sft.adam_betas=[0.9, 0.99]")

pytestmark = pytest.mark.timeout(600)  # each of two dozen stages starts DVC and Python anew


class Project:
    """A checkout whose stages are stubs, and the folder of its benchmark."""

    def __init__(self, folder: Path):
        self.root, self.out = make(folder / "project"), folder / "out"
        shutil.copytree(ROOT / "benchmarks", self.root / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
        stages = {
            name: {"cmd": f"python stub.py {name}", **stage, "metrics": [{f"metrics/{name}.json": {"cache": False}}]}
            for name, stage in STAGES.items()
        }
        (self.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
        self.commit()

    def commit(self) -> None:
        for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "more"]):
            subprocess.run(["git", *command], cwd=self.root, check=True)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen:
        command = [sys.executable, "benchmarks/seeds.py", "--out", str(self.out), "--threads", "1", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.root, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Exit status and output."""
        process = self.start(*arguments, **environ)
        try:
            output, _ = process.communicate()
        finally:
            process.kill()
        return process.returncode, output

    def calls(self, run: str) -> list[str]:
        """Stages whose code ran in a run's checkout, in order."""
        return (self.out / "runs" / run / "calls.log").read_text().split()

    def figures(self) -> dict:
        return json.loads((self.out / "seeds.json").read_text())


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory) -> Project:
    """A benchmark of two arithmetics that was killed while `sft` of the first run was at work, and started again."""
    project = Project(tmp_path_factory.mktemp("seeds"))
    wanted = ("--seeds", "1", "--arithmetic", "native,generic")
    process = project.start(*wanted, STUB_HANG="sft")
    pid = project.out / "runs" / "recipe-1-native" / "hangs.pid"
    try:
        while not pid.exists() or not pid.read_text():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        stage = psutil.Process(int(pid.read_text()))
    finally:
        process.kill()
        process.communicate()
    status, output = project.run(*wanted)
    assert status == 0, output
    assert not stage.is_running()
    (project.out / "output.txt").write_text(output)
    return project


def test_after_a_kill_finished_stages_stay_and_the_killed_one_runs_again(gone_on):
    assert gone_on.calls("recipe-1-native") == ["plan", "sft", "sft", "evaluate"]


def test_arithmetics_share_the_tables_and_no_policy(gone_on):
    assert gone_on.calls("recipe-1-generic") == ["sft", "evaluate"]
    steps = {run["arithmetic"]: run["steps"] for run in gone_on.figures()["runs"]}
    assert steps["generic"]["plan"]["state"] == "restored"
    assert steps["generic"]["evaluate"]["state"] == "ran"


def test_the_seconds_of_a_stage_that_was_killed_or_restored_count_in_no_mean(gone_on):
    seconds = gone_on.figures()["variants"]["recipe"]["seconds"]
    runs = {stage: seconds[stage]["runs"] for stage in STAGES}
    assert runs == {"plan": 1, "sft": 1, "evaluate": 2}  # plan was restored once, sft killed once


def test_the_report_says_where_its_figures_come_from(gone_on):
    figures = gone_on.figures()
    assert (
        figures["commit"] == subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=gone_on.root, text=True).strip()
    )
    assert figures["machines"][0]["cores"] == os.cpu_count()
    assert "--arithmetic native,generic" in figures["command"]
    assert "softmax" in figures["arithmetics"]["generic"]["differs_from_native"]
    assert figures["unfinished"] == []
    output = (gone_on.out / "output.txt").read_text()
    assert "[2/2] recipe-1-generic  evaluate  ran in" in output
    assert "about 0 s to come" in output


def test_variants_share_the_stages_that_they_have_in_common(gone_on):
    """The second one only decodes otherwise: its betas are those of the recipe."""
    status, output = gone_on.run("--seeds", "1", *VARIANTS)
    assert status == 0, output
    assert gone_on.calls("constrained-1-native") == ["evaluate"]
    params = yaml.safe_load((gone_on.out / "runs" / "constrained-1-native" / "params.yaml").read_text())
    assert (params["run"]["seed"], params["evaluate"]["constrained"]) == (1, True)
    differences = gone_on.figures()["differences"]["constrained"]["grpo"]
    assert differences["safety"]["mean"] == 0  # the stub's scores are always the same


def test_a_run_of_the_same_name_with_other_parameters_is_refused(gone_on):
    status, output = gone_on.run("--seeds", "1", "--set", "sft.epochs=3")
    assert status == 1
    assert "recipe-1-native: changes {'run.seed': 1} and not {'run.seed': 1, 'sft.epochs': 3}" in output


def test_a_stage_that_fails_is_reported_and_tried_again(gone_on):
    status, output = gone_on.run("--seeds", "2", STUB_FAIL="sft")
    assert status == 1
    assert "for a reason" in output  # the stage's last line
    assert gone_on.figures()["unfinished"] == ["recipe-2-native"]
    status, output = gone_on.run("--seeds", "2")
    assert status == 0, output
    # the stub's policy is the same for every seed, so that its scores are in the cache
    assert gone_on.calls("recipe-2-native") == ["plan", "sft", "sft"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--profile", "enormous"), "no profile enormous; there are embedded", id="profile"),
        pytest.param(("--stages", "sft,dpo"), "no stage dpo; there are plan, sft, evaluate", id="stage"),
        pytest.param(("--set", "sft.epoch=3"), "names like it: sft.epochs", id="parameter"),
        pytest.param(("--attack", "5", "--stages", "sft"), "leave out --stages", id="attack"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(gone_on, arguments, message):
    status, output = gone_on.run("--seeds", "9", *arguments)
    assert status == 1
    assert message in output


def test_a_changed_commit_goes_on_only_where_no_figure_depends_on_it(gone_on, tmp_path):
    """The last test of the folder: it changes the project."""
    (gone_on.root / "NOTES.md").write_text("no code")
    gone_on.commit()
    status, output = gone_on.run("--seeds", "1", "--stages", "plan")
    assert status == 0, output
    (gone_on.root / "src" / "more.py").write_text("")
    gone_on.commit()
    status, output = gone_on.run("--seeds", "1", "--stages", "plan")
    assert status == 1
    assert "was begun at commit" in output


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        pytest.param("recipe:", [], id="nothing-changed"),
        pytest.param("no-dpo:dpo=null", ["dpo=null"], id="one"),
        pytest.param("two:grpo.rewards={a: 1, b: 1},grpo.kl=0", ["grpo.rewards={a: 1, b: 1}", "grpo.kl=0"], id="braces"),
        pytest.param("box:curate.quality=[0, 1]", ["curate.quality=[0, 1]"], id="brackets"),
        pytest.param("named:run.profile='a,b',grpo.kl=0", ["run.profile='a,b'", "grpo.kl=0"], id="quotes"),
    ],
)  # fmt: skip
def test_commas_within_a_value_do_not_end_it(text, settings):
    assert variant(text) == (text.partition(":")[0], settings)


@pytest.mark.parametrize("text", ["no-dpo", "dpo=null", ":dpo=null", "../out:dpo=null"])
def test_a_variant_without_a_usable_name_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        variant(text)


def test_changing_parameters_leaves_the_others_and_the_original():
    params = {"grpo": {"kl": 0.02, "rewards": {"toolkit": 1.0}}, "dpo": {"beta": 0.1}}
    assert changed(params, {"grpo.kl": 0.5, "dpo": None}) == {
        "grpo": {"kl": 0.5, "rewards": {"toolkit": 1.0}},
        "dpo": None,
    }
    assert params["dpo"] == {"beta": 0.1}


SUCCESS = {"policy": "grpo", "method": "role_play", "success": 12.5, "valid": 90.0}


@pytest.mark.parametrize(
    ("document", "name"),
    [
        pytest.param([SUCCESS], "attack role play", id="a-list"),
        pytest.param({"trained": [SUCCESS]}, "attack trained role play", id="forms-apart"),
        pytest.param({"unseen": {"grpo": [SUCCESS]}}, "attack unseen role play", id="forms-and-policies-apart"),
        pytest.param([{**SUCCESS, "form": "unseen"}], "attack unseen role play", id="a-form-of-its-own"),
        pytest.param([{**SUCCESS, "forms": ""}], "attack role play", id="no-form"),
    ],
)
def test_the_successes_of_attacks_are_read_wherever_they_stand(document, name):
    assert attack_figures(document) == {"grpo": {name: 12.5}}


def test_a_run_without_attacks_has_none():
    assert attack_figures(None) == {}


FIGURES = {
    "runs": 2,
    "measures": {
        "base": {"safety": {"mean": 35.0, "lowest": 34.0, "highest": 36.0, "spread": 36.0 - 34.0, "within_seed": None}}
    },
    "steps": {},
    "gate": {"runs": 2, "passed": 1, "failed_checks": {"safety": 1}},
    "seconds": {},
}  # fmt: skip
RUNS = [
    {"variant": "recipe", "seed": seed, "arithmetic": "native", "measures": {"base": {"safety": safety}}}
    for seed, safety in ((11, 34.0), (12, 36.0))
]


def test_the_page_for_a_readme_has_mean_and_range_and_every_run():
    about = {
        "command": "python benchmarks/seeds.py",
        "date": "2026-01-01",
        "commit": "0123456789",
        "machines": [],
        "unfinished": [],
    }
    page = report.page({**about, "variants": {"recipe": FIGURES}, "differences": {}, "runs": RUNS, "stages": []})
    lines = page.splitlines()
    assert "| safety | 35.0 (34.0 to 36.0) |" in lines
    assert lines[lines.index("base by run:") + 2 :][:7] == [
        "| run | safety |",
        "| --- | --- |",
        "| seed 11, native | 34.0 |",
        "| seed 12, native | 36.0 |",
        "| mean | 35.0 |",
        "| lowest | 34.0 |",
        "| highest | 36.0 |",
    ]
    assert "| spread | 2.0 |" in lines
    assert "gate: passed in 1 of 2 runs; failed checks: safety (1)." in lines


def test_a_difference_of_a_single_seed_has_no_interval_in_the_tables():
    gain = {"mean": 1.5, "low": None, "high": None, "by_seed": {"11": 1.5}}
    figures = {
        **FIGURES,
        "steps": {
            "sft-base": {"safety": gain},
            "dpo-sft": {"safety": {**gain, "mean": -0.01, "low": -0.5, "high": 0.5}},
        },
    }
    shown = list(tables.sheets({"variants": {"recipe": figures}, "differences": {}, "runs": RUNS, "stages": []}))
    steps = next(sheet for sheet in shown if sheet.title.startswith("points"))
    assert steps.headings == ("", "SFT − base", "DPO − SFT")
    assert steps.rows == [["safety", "+1.5", "0.0 [−0.5, +0.5]"]]


@pytest.mark.slow
def test_two_seeds_of_the_micro_profile_come_to_a_report_and_another_arithmetic_to_another_policy(tmp_path):
    def run(*arguments: str) -> None:
        command = [
            sys.executable,
            "benchmarks/seeds.py",
            "--profile",
            "micro",
            "--out",
            str(tmp_path),
            "--threads",
            "1",
        ]
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run("--seeds", "1,2", "--attack", "2")
    figures = json.loads((tmp_path / "seeds.json").read_text())
    recipe = figures["variants"]["recipe"]
    assert recipe["runs"] == 2
    assert set(recipe["steps"]) == {"sft-base", "dpo-sft", "grpo-dpo"}
    assert set(tables.MEASURES) < set(recipe["measures"]["grpo"])
    assert "attack plain" in recipe["measures"]["grpo"]
    assert recipe["gate"]["runs"] == 2
    run("--seeds", "1", "--arithmetic", "native,generic", "--stages", "base,plan")
    locks = [
        yaml.safe_load((tmp_path / "runs" / f"recipe-1-{name}" / "dvc.lock").read_text())["stages"]
        for name in ("native", "generic")
    ]
    weights, data = ([lock[stage]["outs"][0]["md5"] for lock in locks] for stage in ("base", "plan"))
    assert weights[0] != weights[1]
    assert data[0] == data[1]
