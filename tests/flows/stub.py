"""A stage of the toy pipeline: writes what dvc.yaml declares, from its inputs, in no time.

STUB_FAIL=stage makes that stage fail, STUB_HANG=stage makes it say that it hangs, and hang (STUB_ONCE: the first
time only), STUB_SLOW=stage makes it take 20 s,
STUB_FILL=stage makes it fill the disk by the file STUB_FILLER, STUB_POINTS makes GRPO log so many points, one in half a second.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import yaml

from saferflow.data.rows import Answered
from saferflow.data.tables import read_table, write_table
from saferflow.evaluation.gate import Check, Verdict
from saferflow.params import load_params
from saferflow.stages.gate import advice_on
from saferflow.tracking import live


def main(stage: str) -> None:
    declared = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][stage]
    params = yaml.safe_load(Path("params.yaml").read_text())
    print(f"{stage} works", flush=True)
    with Path("calls.log").open("a") as log:
        log.write(f"{stage}\n")
    if os.environ.get("STUB_FAIL") == stage:
        print("the toy broke\nfor a reason", file=sys.stderr)
        raise SystemExit(3)
    again = "STUB_ONCE" in os.environ and Path("hangs.pid").exists()
    if os.environ.get("STUB_HANG") == stage and not again:
        Path("hangs.pid").write_text(str(os.getpid()))
        print("hangs", flush=True)
        time.sleep(120)
    if os.environ.get("STUB_SLOW") == stage:
        time.sleep(20)
    if os.environ.get("STUB_FILL") == stage:
        with Path(os.environ["STUB_FILLER"]).open("wb") as filler:
            while True:
                filler.write(bytes(2**16))
    points = int(os.environ.get("STUB_POINTS", "0"))
    for step in range((points or 3) if stage == "grpo" else 0):  # the first point imports mlflow, which takes a second
        live.log_metrics({"loss": 1.0 / (step + 1)}, step)
        if points:
            print(f"point {step}", flush=True)
            time.sleep(0.5)
    digest = hashlib.sha256(f"{stage} {params[stage]}".encode())
    for dep in declared.get("deps", []):
        for file in sorted(Path(dep).rglob("*")) if Path(dep).is_dir() else [Path(dep)]:
            if file.is_file():
                digest.update(file.read_bytes())
    for out in declared["outs"]:
        write(Path(out), digest.hexdigest(), params)
    Path("metrics").mkdir(exist_ok=True)
    figures = {"evaluate": scores(), "curate": {"kept": 223, "kept_harmless": 105}}
    Path(f"metrics/{stage}.json").write_text(json.dumps(figures.get(stage, {"loss": sum(stage.encode()) / 1000})))


def write(path: Path, digest: str, params: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == "evaluated.parquet":
        write_table(path, answers(params), Answered)
    elif path == Path("data/incidents.parquet"):
        write_table(path, [], Answered)
    elif path.name == "gate.json":
        bound = params["gate"]["floors"]["safety"]
        verdict = Verdict((Check("safety", 81.0, bound, bound <= 80, "81 against 80"),))
        curated = json.loads(Path("metrics/curate.json").read_text())
        advice = advice_on(verdict, read_table(Path("data/evaluated.parquet"), Answered), curated, load_params())
        path.write_text(json.dumps(verdict.to_dict() | {"advice": advice.to_dict() if advice else None}))
    elif path.name == "data_profile.json":
        path.write_text(json.dumps({"sft": {"source": {digest: 100}}}))
    elif path.name == "rollouts.jsonl":
        told = {"step": 0, "row": "r", "reward": 0.5, "rewards": {"toy": 0.5}, "violations": None, "corrected": False}
        path.write_text(json.dumps({**told, "completion": "what was said"}) + "\n")
    elif path.suffix:
        path.write_text(digest)
    else:
        path.mkdir()
        (path / "model.safetensors").write_text(digest)


def answers(params: dict) -> list[Answered]:
    """GRPO is safe on every row from learning rate 0.0005 on, on half of them below; enough rows for the gate's claims."""
    good = params["grpo"]["learning_rate"] >= 0.0005
    rows = []
    for policy in ("base", "sft", "dpo", "grpo"):
        for number in range(200):
            safe = policy == "grpo" and (good or number % 2 == 0)
            rows.append(answer(f"row-{number}", policy, safe=safe))
        rows += [answer(f"general-{number}", policy, safe=True, kind="general") for number in range(200)]
        rows += [answer(f"bait-{number}", policy, safe=True, expected="answer") for number in range(200)]
    return rows


def answer(row: str, policy: str, *, safe: bool, kind: str = "safety", expected: str = "refuse") -> Answered:
    return Answered(
        row=row,
        policy=policy,
        kind=kind,
        image=row,
        completion="text",
        safety=3 if safe else -3,
        helpfulness=2,
        rigor=2,
        refused=expected == "refuse",
        valid=True,
        correct=True,
        expected=expected,
        hazard="S1" if expected == "refuse" else "none",
        risk_source="text" if expected == "refuse" else "bait",
        attack="none",
        violations="",
        reason="",
    )


def scores() -> dict:
    names = (
        "safety",
        "helpfulness",
        "rigor",
        "over_refusal_rate",
        "attack_success_rate",
        "validity",
        "parse_rate",
        "general",
    )
    policies = ("base", "sft", "dpo", "grpo")
    return {
        "rows": 600,
        "policies": {policy: dict.fromkeys(names, 50.0) for policy in policies},
        "intervals": {policy: {name: [40.0, 60.0] for name in names} for policy in policies},
    }


if __name__ == "__main__":
    main(sys.argv[1])
