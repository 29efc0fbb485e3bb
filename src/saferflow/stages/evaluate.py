"""Stage `evaluate`: every policy answers the held-out rows, and the judge grades the answers.

Reads models/{base,sft,dpo,grpo}, data/tables/{evaluation,incidents}.parquet. Writes data/{evaluated,incidents}.parquet.

The candidate alone is asked the incidents of before; they count in no score, only the gate reads what it answers.

The base policy has no protocol and no planner: it gets the question alone, as it was pre-trained. The judge reads while the
policy writes. Killed, the stage goes on with the batch that it was at.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saferflow.data.origins import GUESSED
from saferflow.data.rows import Answered, Labels, PromptRow, Turn
from saferflow.data.tables import read_table, write_table
from saferflow.evaluation.grading import grade, item, picture
from saferflow.evaluation.measures import released_name
from saferflow.evaluation.scores import evaluate_metrics
from saferflow.judge.rubrics import Grader
from saferflow.layout import BASE, CANDIDATE, EVALUATED, HAPPENED, INCIDENTS, MODELS, POLICIES
from saferflow.layout import EVALUATION as TABLE
from saferflow.params import Params, load_params
from saferflow.protocol.plan import Plan
from saferflow.stages.entry import imports, run_stage
from saferflow.stages.metrics import write_metrics

if TYPE_CHECKING:
    from saferflow.training.samples import Draw

Graded = list[tuple[PromptRow, str]]
"""Rows and completions that the judge is sent together."""
NAMED = 10
"""Rows without grades that the terminal names, of each policy."""


def main() -> None:
    """Run the stage."""
    params = load_params()

    with imports():
        from saferflow.training.homes import shelf

    rows, again = measured(read_table(TABLE, PromptRow)), read_table(INCIDENTS, PromptRow)
    with shelf("evaluate") as kept_at:
        answered = [one for name in POLICIES for one in answers(name, MODELS / name, rows, params, kept_at=kept_at)]
        write_table(EVALUATED, answered, Answered)
        happened = answers(CANDIDATE, MODELS / CANDIDATE, again, params, kept_at=kept_at) if again else []
        write_table(HAPPENED, happened, Answered)
        write_metrics("evaluate", evaluate_metrics(answered, params.evaluate, params.run.seed))


def measured(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """The rows whose labels are no guesses of the rule planner: by a guess nothing is measured."""
    kept = [row for row in rows if Labels.from_json(row.labels).label_source != GUESSED]
    if len(kept) < len(rows):
        print(f"evaluate  WARNING: {len(rows) - len(kept):,} rows with guessed labels are left out", flush=True)
    return kept


def answers(
    name: str,
    folder: Path,
    rows: Sequence[PromptRow],
    params: Params,
    *,
    planned: bool = True,
    released: bool = False,
    kept_at: Path | None = None,
) -> list[Answered]:
    """What a policy says to each row, graded by the evaluation's judge; tells on the terminal how far it is.

    Args:
        planned: the policy is asked with the row's plan, as it is trained; the base policy never is.
        released: it is asked as [K]'s released evaluation does, without a plan; its rows stand under `released_name`.
        kept_at: the folder where finished batches are kept, by all that they depend on; None keeps nothing.
    """
    asked = [[row] for row in rows]
    return dialogues(name, folder, asked, params, planned=planned, released=released, kept_at=kept_at)


def dialogues(
    name: str,
    folder: Path,
    asked: Sequence[Sequence[PromptRow]],
    params: Params,
    *,
    planned: bool = True,
    released: bool = False,
    kept_at: Path | None = None,
) -> list[Answered]:
    """What a policy says in each turn of each dialogue, graded like the answer to a single row, turn by turn.

    Args:
        asked: the turns of each dialogue, a row a turn with a plan of its own. A turn's question is all that the user has said
            so far, a line after the question of the turn before; the policy is shown its own earlier answers between, after
            the turns that the first row has before its question.
        planned, released, kept_at: as in `answers`.
    """
    return examiner(name, folder, params, planned=planned, released=released, kept_at=kept_at)(asked)


def examiner(
    name: str,
    folder: Path,
    params: Params,
    *,
    planned: bool = True,
    released: bool = False,
    kept_at: Path | None = None,
) -> Callable[[Sequence[Sequence[PromptRow]]], list[Answered]]:
    """`dialogues` of one policy, which is loaded once and can be asked again and again."""
    with imports():
        from saferflow.judge.choice import grader_of
        from saferflow.training.engines import Drawing, drawer, fingerprint
        from saferflow.training.released import small_pictures

    judge, planned = grader_of(params.evaluate.judge), planned and name != BASE and not released
    policy = small_pictures(params.policy) if released else params.policy
    draw = drawer(folder, policy, Drawing(policy.max_completion_tokens, released=released), params.run)
    shown = released_name(name) if released else name
    inputs = [fingerprint(folder), shown, planned, released, judge.identity] if kept_at else []

    def examine(asked: Sequence[Sequence[PromptRow]]) -> list[Answered]:
        file = kept_at / f"{_key(inputs, asked, params)}.jsonl" if kept_at else None
        return _examined(shown, asked, draw, judge, params, planned=planned, file=file)

    return examine


def _key(inputs: Sequence[Any], asked: Sequence[Sequence[PromptRow]], params: Params) -> str:
    """A digest of all that answers and grades depend on, the policy's files and this package's code among it."""
    with imports():
        from saferflow.training.homes import libraries

    sections = [section.model_dump(mode="json") for section in (params.policy, params.evaluate)]
    rows = [[asdict(row) | {"image": picture(row)} for row in turns] for turns in asked]
    return hashlib.sha256(json.dumps([*inputs, libraries(), params.run.seed, sections, rows]).encode()).hexdigest()[:16]


def _examined(
    name: str,
    asked: Sequence[Sequence[PromptRow]],
    draw: "Draw",
    judge: Grader,
    params: Params,
    *,
    planned: bool,
    file: Path | None,
) -> list[Answered]:
    """The dialogues turn by turn, in batches that the judge reads while the next ones are drawn.

    Args:
        file: where graded batches are kept, and the completions of each turn beside it.
    """
    with imports():
        from saferflow.judge.ahead import read_ahead
        from saferflow.training.samples import resumed

    def graded(batches: Iterable[Graded]) -> Iterator[list[dict[str, Any]]]:
        for batch in read_ahead(batches, lambda batch: judge.prepare("grade", [item(*one) for one in batch])):
            yield [asdict(grade(row, name, completion, judge)) for row, completion in batch]

    total, shown, answered = sum(map(len, asked)), 0, []
    for batch in resumed(file, _spoken(asked, draw, params, planned=planned, file=file), graded):
        answered += [Answered(**fields) for fields in batch]
        if len(answered) - shown >= 4 * params.evaluate.batch_size or len(answered) == total:
            shown = len(answered)
            print(f"evaluate  {name}  {shown:,} of {total:,} rows", flush=True)
    say_ungraded(name, answered)
    return answered


def _spoken(
    asked: Sequence[Sequence[PromptRow]], draw: "Draw", params: Params, *, planned: bool, file: Path | None
) -> Iterator[Graded]:
    """What the policy says, as it says it; the arguments are those of `_examined`."""
    with imports():
        from saferflow.judge.rules import answer_of
        from saferflow.training.generate import Prompt
        from saferflow.training.samples import sampled

    size, constrained = params.evaluate.batch_size, params.evaluate.constrained and planned
    said: list[list[Turn]] = [list(rows[0].turns) for rows in asked]
    """What was asked and answered so far, dialogue by dialogue."""
    for turn in range(max(map(len, asked), default=0)):
        live = [number for number, rows in enumerate(asked) if turn < len(rows)]
        rows = [asked[number][turn] for number in live]
        texts = [_told(asked[number], turn) for number in live]
        prompts = [
            Prompt(row.system if planned else "", text, row.image, tuple(said[number]))
            for number, row, text in zip(live, rows, texts, strict=True)
        ]
        drawn = sampled(
            file and file.with_suffix(f".{turn}.jsonl"), prompts, size, params.run.seed, draw,
            plans(rows) if constrained else None,
        )  # fmt: skip
        spoken = zip(live, rows, texts, drawn, strict=True)
        while batch := list(islice(spoken, size)):
            for number, _, text, [completion] in batch:
                said[number].append((text, answer_of(completion)))
            yield [(row, completion) for _, row, _, [completion] in batch]


def say_ungraded(name: str, answered: Sequence[Answered]) -> None:
    """Name the rows that the judge left without grades; no measure that counts grades counts them."""
    lost = [row for row in answered if not row.graded]
    for row in lost[:NAMED]:
        print(f"evaluate  {name}  no grades for {row.row}: {row.reason}", flush=True)
    if lost:
        print(f"evaluate  {name}  {len(lost):,} of {len(answered):,} rows without grades, left out of the scores", flush=True)


def _told(rows: Sequence[PromptRow], turn: int) -> str:
    """What the user says in a turn."""
    return rows[turn].question.removeprefix(rows[turn - 1].question + "\n") if turn else rows[turn].last_question


def plans(rows: Sequence[PromptRow]) -> list[Plan | None]:
    """What constrained decoding holds each row to; general questions have no plan."""
    return [Plan.from_json(row.plan) if row.plan else None for row in rows]


if __name__ == "__main__":
    run_stage(main)
