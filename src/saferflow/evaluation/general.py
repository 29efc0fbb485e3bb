"""General ability by an existing harness, lmms-eval: which command asks it, and what its files say.

lmms-eval rather than VLMEvalKit: it is on PyPI with versions, takes a local checkpoint or any OpenAI-compatible server, strips
the trace from an answer by tags, writes every sample as JSON Lines, and reads tasks of one's own from a folder. What it needs
(torchvision and some fifty packages, in versions of its own) is not what training needs, so it may live in an
environment of its own.
Source: [K] for the five benchmarks; the harness is arXiv 2407.12772.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saferflow.errors import DataError

TASKS = ("mathvista_testmini", "mmmu_val", "mmstar", "mmvet", "pope")
"""The five benchmarks of [K], as lmms-eval calls them; mathvista_testmini and mmvet want a judge's key (its own settings)."""
TRACE = [["<thinking>", "<answer>"], ["</answer>", "</answer>"]]
"""From where to where lmms-eval takes text out of a response: what is left is the answer."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a policy reached in a task, by one of its metrics."""

    task: str
    metric: str
    value: float
    """As the harness gives it: mostly a share, for some a score of 0 to 100."""
    samples: int
    each: Mapping[int, float]
    """Sample -> its value, where the harness keeps one a sample."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two policies are apart in a metric; an interval only where both have a value a sample."""

    value: float
    low: float | None
    high: float | None


def command(
    python: str,
    backend: str,
    model: Mapping[str, str],
    tasks: Sequence[str],
    out: Path,
    *,
    own_tasks: Path | None = None,
    limit: int | None = None,
) -> list[str]:
    """The command line that evaluates one policy.

    Args:
        python: of the environment that has lmms-eval.
        backend: lmms-eval's name for a way of asking: `qwen2_5_vl`, `vllm`, `openai`.
        model: its arguments.
        own_tasks: a folder with tasks of one's own.
        limit: samples of each task, at most.
    """
    arguments = ",".join(f"{name}={value}" for name, value in model.items())
    asked = [
        python, "-m", "lmms_eval", "eval", "--model", backend, "--model_args", arguments, "--tasks", ",".join(tasks),
        "--batch_size", "1", "--output_path", str(out), "--log_samples", "--reasoning_tags", json.dumps(TRACE),
    ]  # fmt: skip
    asked += ["--include_path", str(own_tasks)] if own_tasks else []
    return asked + (["--limit", str(limit)] if limit else [])


def read_scores(out: Path) -> list[Score]:
    """The scores of the newest run whose files are in `out`.

    Raises:
        DataError: there are none, or they are not as lmms-eval writes them.
    """
    files = sorted(out.rglob("*_results.json"))
    if not files:
        raise DataError(f"{out}: lmms-eval left no *_results.json here; its own output says why")
    file = files[-1]
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        counts = {task: int(each["effective"]) for task, each in told["n-samples"].items()}
        found = []
        for task, values in told["results"].items():
            samples = file.with_name(file.name.replace("_results.json", f"_samples_{task}.jsonl"))
            lines = samples.read_text(encoding="utf-8").splitlines() if samples.exists() else []
            rows = [json.loads(line) for line in lines]
            for name, value in values.items():
                metric, _, kind = name.partition(",")
                if not kind or "_stderr" in metric or not isinstance(value, int | float):
                    continue
                each = {int(row["doc_id"]): row[metric] for row in rows if isinstance(row.get(metric), int | float)}
                found.append(Score(task, metric, float(value), counts.get(task, len(rows)), each))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{file}: not as lmms-eval writes it ({error!r}); its version may be another") from None
    if not found:
        raise DataError(f"{file}: holds no figure; lmms-eval's own output says why")
    return found


def difference(after: Score, before: Score, *, resamples: int, level: float, seed: int) -> Difference:
    """`after` - `before`, with a bootstrap interval over the samples that both have."""
    both = sorted(after.each.keys() & before.each.keys())
    gap = after.value - before.value
    if not both or len(both) != after.samples:
        return Difference(gap, None, None)
    gains = np.array([float(after.each[i]) - float(before.each[i]) for i in both])
    draws = np.random.default_rng(seed).integers(0, len(gains), (resamples, len(gains)))
    tail = 50 * (1 - level)
    low, high = np.percentile(gains[draws].mean(axis=1), (tail, 100 - tail))
    return Difference(gap, float(low), float(high))
