"""What an evaluation takes where the judge reads while the policy writes, beside the slower of the two alone.

    PYTHONPATH=src python benchmarks/overlap.py

1,000 rows; the judge's server on loopback answers each after 200 ms, 64 at once (`benchmarks/endpoint.py`). In the policy's place
a draw sleeps, as a processor does whose work is on a GPU, and takes as long as the judge alone just did: where one of them is
slower, there is more room. Source: ours.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from endpoint import AT_ONCE, ROOT, serve

from saferflow.data.rows import PromptRow
from saferflow.data.scenes.corpus import safety_rows
from saferflow.endpoint.client import Endpoint
from saferflow.endpoint.store import Store
from saferflow.judge.endpoint import EndpointJudge
from saferflow.judge.rubric_text import RubricText
from saferflow.judge.rubrics import Grader
from saferflow.judge.rules import RuleJudge
from saferflow.params import EndpointJudgeParams, load_params
from saferflow.stages.evaluate import _examined, item
from saferflow.training.generate import Batch

SAID = "<thinking>\n[VISUAL-SCAN]: objects=cup; setting=kitchen; confidence=0.9\n</thinking>\n<answer>\nResponse {}.\n</answer>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="evaluate.batch_size")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    ready: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(ready,), daemon=True)
    server.start()
    judge = EndpointJudgeParams(
        kind="endpoint", model="m", base_url=f"http://127.0.0.1:{ready.get()}/v1", key_variable=None, concurrency=AT_ONCE,
        timeout=60, retries=2, repairs=0, token_cap=None, rubric="condensed",
        request={"temperature": 0, "max_tokens": 256, "max_completion_tokens": None, "reasoning_effort": None},
    )  # fmt: skip
    found = [measured(rows(asked.rows), asked.batch, judge) for _ in range(asked.repeat)]
    print(f"median of {len(found)}: {statistics.median(found):.2f} times the slower of the two alone")
    server.terminate()


def rows(count: int) -> list[PromptRow]:
    return [
        PromptRow(row.id, row.source, "safety", row.image, "", row.question, "", row.labels.to_json())
        for row in safety_rows(count, 1, "evaluation")
    ]


def measured(asked: list[PromptRow], size: int, params: EndpointJudgeParams) -> float:
    """Time of both together, by that of the slower one alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def judge(store: str) -> Grader:
            endpoint = Endpoint(params, Store(folder / store), "evaluate.judge")
            return EndpointJudge(endpoint, params.model, RubricText.named(params.rubric))

        items = [item(row, SAID.format(row.id)) for row in asked]
        alone = judge("alone")
        started = time.perf_counter()
        alone.prepare("grade", items)
        reading = time.perf_counter() - started
        pause = reading / -(-len(asked) // size)
        writing = evaluated(asked, size, RuleJudge(), pause, folder / "rules.jsonl")
        both = evaluated(asked, size, judge("both"), pause, folder / "both.jsonl")
        after = evaluated(asked, size, judge("after"), 0, None) + writing
    ratio = both / max(reading, writing)
    print(
        f"the judge alone {reading:.2f} s, the policy alone {writing:.2f} s, both {both:.2f} s: {ratio:.2f} times the slower; "
        f"one after the other {after:.2f} s",
        flush=True,
    )
    return ratio


def evaluated(asked: list[PromptRow], size: int, judge: Grader, pause: float, file: Path | None) -> float:
    """Seconds of an evaluation whose policy takes `pause` seconds for a batch."""
    params = load_params(ROOT / "params.yaml")
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"batch_size": size})})

    def draw(batches: Iterable[Batch]) -> Iterator[list[list[str]]]:
        numbers = iter(asked)
        for batch in batches:
            time.sleep(pause)
            yield [[SAID.format(next(numbers).id)] for _ in batch.prompts]

    started = time.perf_counter()
    answered = _examined("p", [[row] for row in asked], draw, judge, params, planned=False, file=file)
    seconds = time.perf_counter() - started
    if len(answered) != len(asked) or not all(row.graded for row in answered):
        raise SystemExit("some rows have no grades")
    return seconds


if __name__ == "__main__":
    main()
