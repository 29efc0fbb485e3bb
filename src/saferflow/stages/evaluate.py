"""Stage `evaluate`: every policy answers the held-out rows, and the judge grades the answers.

Reads models/{base,sft,dpo,grpo}, data/tables/{evaluation,incidents}.parquet. Writes data/{evaluated,incidents}.parquet.

The candidate alone is asked the incidents of before; they count in no score, only the gate reads what it answers.

The base policy has no protocol and no planner: it gets the question alone, as it was pre-trained.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from saferflow.data.origins import GUESSED
from saferflow.data.rows import Answered, Labels, PromptRow, Turn
from saferflow.data.tables import read_table, write_table
from saferflow.evaluation.grading import grade, item
from saferflow.evaluation.measures import released_name
from saferflow.evaluation.scores import evaluate_metrics
from saferflow.judge.rubrics import Grader
from saferflow.params import Params, PolicyParams, load_params
from saferflow.protocol.plan import Plan
from saferflow.stages.entry import imports, run_stage
from saferflow.stages.metrics import write_metrics

if TYPE_CHECKING:
    from saferflow.training.generate import Prompt

Speaker = Callable[[Sequence["Prompt"], Sequence[PromptRow]], Iterator[str]]
BASE = "base"
POLICIES = (BASE, "sft", "dpo", "grpo")
MODELS = Path("models")
TABLE = Path("data/tables/evaluation.parquet")
OUT = Path("data/evaluated.parquet")
INCIDENTS, HAPPENED = Path("data/tables/incidents.parquet"), Path("data/incidents.parquet")
NAMED = 10
"""Rows without grades that the terminal names, of each policy."""


def main() -> None:
    params = load_params()
    rows = measured(read_table(TABLE, PromptRow))
    answered = [one for policy in POLICIES for one in answers(policy, MODELS / policy, rows, params)]
    write_table(OUT, answered, Answered)
    again = read_table(INCIDENTS, PromptRow)
    write_table(HAPPENED, answers("grpo", MODELS / "grpo", again, params) if again else [], Answered)
    write_metrics("evaluate", evaluate_metrics(answered, params.evaluate, params.run.seed))


def measured(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """The rows whose labels are no guesses of the rule planner: by a guess nothing is measured."""
    kept = [row for row in rows if Labels.from_json(row.labels).label_source != GUESSED]
    if len(kept) < len(rows):
        print(f"evaluate  WARNING: {len(rows) - len(kept):,} rows with guessed labels are left out", flush=True)
    return kept


def answers(
    name: str, folder: Path, rows: Sequence[PromptRow], params: Params, *, planned: bool = True, released: bool = False
) -> list[Answered]:
    """What a policy says to each row, graded by the evaluation's judge; tells on the terminal how far it is.

    Args:
        planned: the policy is asked with the row's plan, as it is trained; the base policy never is.
        released: it is asked as [K]'s released evaluation does, without a plan; its rows stand under `released_name`.
    """
    return dialogues(name, folder, [[row] for row in rows], params, planned=planned, released=released)


def dialogues(
    name: str,
    folder: Path,
    asked: Sequence[Sequence[PromptRow]],
    params: Params,
    *,
    planned: bool = True,
    released: bool = False,
) -> list[Answered]:
    """What a policy says in each turn of each dialogue, graded like the answer to a single row, turn by turn.

    Args:
        asked: the turns of each dialogue, a row a turn with a plan of its own. A turn's question is all that the user has said
            so far, a line after the question of the turn before; the policy is shown its own earlier answers between, after
            the turns that the first row has before its question.
        planned, released: as in `answers`.
    """
    return examiner(name, folder, params, planned=planned, released=released)(asked)


def examiner(
    name: str, folder: Path, params: Params, *, planned: bool = True, released: bool = False
) -> Callable[[Sequence[Sequence[PromptRow]]], list[Answered]]:
    """`dialogues` of one policy, which is loaded once and can be asked again and again."""
    with imports():
        from saferflow.judge.choice import grader_of

    judge, planned = grader_of(params.evaluate.judge), planned and name != BASE and not released
    speak = _speaker(folder, params, planned=planned, released=released)
    shown, batch_size = released_name(name) if released else name, 4 * params.evaluate.batch_size

    def examine(asked: Sequence[Sequence[PromptRow]]) -> list[Answered]:
        return _examined(shown, asked, speak, judge, planned=planned, batch_size=batch_size)

    return examine


def _examined(
    name: str, asked: Sequence[Sequence[PromptRow]], speak: Speaker, judge: Grader, *, planned: bool, batch_size: int
) -> list[Answered]:
    """The dialogues turn by turn, in batches that the judge is sent as they come."""
    with imports():
        from saferflow.judge.rules import answer_of
        from saferflow.training.generate import Prompt

    total, answered = sum(map(len, asked)), []
    said: list[list[Turn]] = [list(rows[0].turns) for rows in asked]
    """What was asked and answered so far, dialogue by dialogue."""
    for turn in range(max(map(len, asked), default=0)):
        live = [number for number, rows in enumerate(asked) if turn < len(rows)]
        rows = [asked[number][turn] for number in live]
        told = [_told(asked[number], turn) for number in live]
        prompts = [
            Prompt(row.system if planned else "", text, row.image, tuple(said[number]))
            for number, row, text in zip(live, rows, told, strict=True)
        ]
        spoken = zip(live, rows, told, speak(prompts, rows), strict=True)
        while batch := list(islice(spoken, batch_size)):
            judge.prepare("grade", [item(row, completion) for _, row, _, completion in batch])
            for number, row, text, completion in batch:
                answered.append(grade(row, name, completion, judge))
                said[number].append((text, answer_of(completion)))
            print(f"evaluate  {name}  {len(answered):,} of {total:,} rows", flush=True)
    say_ungraded(name, answered)
    return answered


def _speaker(folder: Path, params: Params, *, planned: bool, released: bool) -> Speaker:
    """What a policy says to prompts, which are those of rows; the arguments are those of `answers`."""
    with imports():
        from saferflow.training.generate import complete
        from saferflow.training.policy import device, load_model, load_processor
        from saferflow.training.released import complete_released, small_pictures

    policy = small_pictures(params.policy) if released else params.policy
    if params.run.ray is not None:
        return _speaker_over_ray(folder, policy, params, planned=planned, released=released)
    model, processor = load_model(folder, policy).to(device(policy)), load_processor(folder, policy)
    sizes = {"batch_size": params.evaluate.batch_size, "max_tokens": policy.max_completion_tokens}

    def speak(prompts: Sequence["Prompt"], rows: Sequence[PromptRow]) -> Iterator[str]:
        if released:
            return complete_released(model, processor, prompts, **sizes)
        bound = plans(rows) if params.evaluate.constrained and planned else None
        return (completion for [completion] in complete(model, processor, prompts, plans=bound, **sizes))

    return speak


def _speaker_over_ray(
    folder: Path, policy: PolicyParams, params: Params, *, planned: bool, released: bool
) -> Speaker:
    """The same over the cluster of `run.ray`."""
    from saferflow.training.engines import Drawing, batches, drawn_over_ray

    how = Drawing(policy.max_completion_tokens, released=released)

    def speak(prompts: Sequence["Prompt"], rows: Sequence[PromptRow]) -> Iterator[str]:
        bound = plans(rows) if params.evaluate.constrained and planned else None
        parts = batches(prompts, params.evaluate.batch_size, bound)
        drawn = drawn_over_ray(folder, policy, how, parts, params.run)
        return (completion for batch in drawn for [completion] in batch)

    return speak


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
