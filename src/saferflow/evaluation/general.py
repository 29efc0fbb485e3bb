"""General ability by an existing harness, lmms-eval: builds its command and reads its files.

lmms-eval rather than VLMEvalKit: it is on PyPI with versions, takes a local checkpoint or any OpenAI-compatible server, strips
the trace from an answer by tags, writes every sample as JSON Lines, and reads a user's tasks from a folder. It needs
torchvision and some fifty packages in versions of its own, so it may have an environment of its own.
Source: [K] for the five benchmarks; the harness is arXiv 2407.12772.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saferflow.errors import DataError

TASKS = ("mathvista_testmini", "mmmu_val", "mmstar", "mmvet", "pope")
"""The five benchmarks of [K] under lmms-eval's names; mathvista_testmini and mmvet need a judge's key (its own settings)."""
TRACE = [["<thinking>", "<answer>"], ["</answer>", "</answer>"]]
"""Pairs of tags between which lmms-eval removes text from a response, so that the answer is left."""


@dataclass(frozen=True, slots=True)
class Score:
    """A policy's value of one metric of a task."""

    task: str
    metric: str
    value: float
    """The harness's value: mostly a share, for some metrics a score of 0 to 100."""
    samples: int
    by_sample: Mapping[int, float]
    """Sample -> its value, where the harness stores one per sample."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two policies in a metric; with an interval only where both have one value per sample."""

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
        python: the interpreter of the environment with lmms-eval.
        backend: lmms-eval's name of a model class: `qwen2_5_vl`, `vllm`, `openai`.
        model: the arguments of that class.
        own_tasks: a folder with the user's tasks.
        limit: most samples of each task.
    """
    arguments = ",".join(f"{name}={value}" for name, value in model.items())
    words = [
        python, "-m", "lmms_eval", "eval", "--model", backend, "--model_args", arguments, "--tasks", ",".join(tasks),
        "--batch_size", "1", "--output_path", str(out), "--log_samples", "--reasoning_tags", json.dumps(TRACE),
    ]  # fmt: skip
    words += ["--include_path", str(own_tasks)] if own_tasks else []
    return words + (["--limit", str(limit)] if limit else [])


def read_scores(out: Path) -> list[Score]:
    """Read the scores of the newest run in `out`.

    Raises:
        DataError: there are no files, or they are not as lmms-eval writes them.
    """
    files = sorted(out.rglob("*_results.json"))
    if not files:
        raise DataError(f"{out}: lmms-eval left no *_results.json here; its own output says why")
    file = files[-1]
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        counts = {task: int(count["effective"]) for task, count in results["n-samples"].items()}
        scores = []
        for task, values in results["results"].items():
            samples = file.with_name(file.name.replace("_results.json", f"_samples_{task}.jsonl"))
            lines = samples.read_text(encoding="utf-8").splitlines() if samples.exists() else []
            rows = [json.loads(line) for line in lines]
            for name, value in values.items():
                metric, _, kind = name.partition(",")
                if not kind or "_stderr" in metric or not isinstance(value, int | float):
                    continue
                by_sample = {int(row["doc_id"]): row[metric] for row in rows if isinstance(row.get(metric), int | float)}
                scores.append(Score(task, metric, float(value), counts.get(task, len(rows)), by_sample))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{file}: not as lmms-eval writes it ({error!r}); its version may be another") from None
    if not scores:
        raise DataError(f"{file}: holds no figure; lmms-eval's own output says why")
    return scores


def difference(after: Score, before: Score, *, resamples: int, level: float, seed: int) -> Difference:
    """`after` - `before`, with a bootstrap interval over the samples that both have."""
    both = sorted(after.by_sample.keys() & before.by_sample.keys())
    gap = after.value - before.value
    if not both or len(both) != after.samples:
        return Difference(gap, None, None)
    gains = np.array([float(after.by_sample[i]) - float(before.by_sample[i]) for i in both])
    draws = np.random.default_rng(seed).integers(0, len(gains), (resamples, len(gains)))
    tail = 50 * (1 - level)
    low, high = np.percentile(gains[draws].mean(axis=1), (tail, 100 - tail))
    return Difference(gap, float(low), float(high))
