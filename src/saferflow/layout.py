"""The names that dvc.yaml and the code share: stages that train, policies, and files that more than one stage or command uses."""

from collections.abc import Iterable
from pathlib import Path

TRAINED = ("sft", "dpo", "grpo")
"""Stages that train by TRL, in their order; the policy of each has its name."""
BASE = "base"
POLICIES = (BASE, *TRAINED)
"""In the order of training."""
CANDIDATE = "grpo"
"""The policy that is registered and may lead."""

HOME = Path(".saferflow")
"""Folder of the records on this machine: MLflow's store, Prefect's store, locks, addresses of servers."""
MODELS = Path("models")
TABLES = Path("data/tables")
EVALUATION = TABLES / "evaluation.parquet"
"""Held-out rows."""
INCIDENTS = TABLES / "incidents.parquet"
"""Requests that were answered wrongly, to be asked again."""
PROMPTS = Path("data/curated.parquet")
"""GRPO's, as `curate` keeps them."""
EVALUATED = Path("data/evaluated.parquet")
HAPPENED = Path("data/incidents.parquet")
"""The candidate's answers to `INCIDENTS`."""
SCORES = Path("metrics/evaluate.json")
ROLLOUTS = Path("reports/rollouts.jsonl")
PROFILE = Path("reports/data_profile.json")
VERDICT = Path("reports/gate.json")
REPORT = Path("reports/report.html")


def in_order(policies: Iterable[str]) -> list[str]:
    """Policies in the order of training; others after them, in the order in which they come."""
    return sorted(policies, key=lambda name: POLICIES.index(name) if name in POLICIES else len(POLICIES))
