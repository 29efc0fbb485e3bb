"""The command `saferflow`. Heavy imports are inside the commands: the help must come at once."""

import gc
import os
import re
import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saferflow.cli.folder import FromSubfolder, missing
from saferflow.errors import DataError, ParamsError, PipelineError, SaferflowError
from saferflow.shell import settle, unprintable
from saferflow.stages.entry import bound_waiting

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")
EVALUATED = Path("data/evaluated.parquet")
EVALUATION = Path("data/tables/evaluation.parquet")

app = typer.Typer(
    cls=FromSubfolder,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Scheduled safety alignment of a vision-language model: DVC decides what must run, Prefect runs it, MLflow remembers.

Run it in the project's folder, or in a folder below it. To begin: `saferflow doctor`, then `saferflow run`.""",
)


class Pools(StrEnum):
    """Types of work pools that `init` makes."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


class Policy(StrEnum):
    """Who answers in `chat`."""

    BASE = "base"
    SFT = "sft"
    DPO = "dpo"
    GRPO = "grpo"
    CHAMPION = "champion"


class Asking(StrEnum):
    """How `evaluate` asks policies."""

    PLANNED = "planned"
    RELEASED = "released"
    BOTH = "both"


def main() -> None:
    """Entry point: an error that a user can mend is printed without its traceback."""
    settle()
    if odd := unprintable(sys.argv[1:]):
        print(
            f"error: an argument is not UTF-8: {odd[0]!a:.200}; write it as UTF-8, or rename the file", file=sys.stderr
        )
        raise SystemExit(2)
    bound_waiting()
    gc.set_threshold(100_000, 20, 100)  # what is imported stays: looking for garbage among it was a fifth of the start
    try:
        app()
    except SaferflowError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        from saferflow.tracking.trouble import explained

        if (line := explained(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(1) from None


@app.command()
def run(
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="First put profiles/NAME.yaml in the place of params.yaml.")
    ] = None,
    force: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Run this stage even if nothing changed; may be repeated.")
    ] = None,
    ablate: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="Compare with the pipeline without this part; may be repeated; or all."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Compare with the pipeline at this value; may be repeated."),
    ] = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="With --set: let a worker run it after what was ordered before.")
    ] = False,
    allow_guessed_labels: Annotated[
        bool,
        typer.Option(
            "--allow-guessed-labels",
            help="First set plan.allow_guessed_labels in params.yaml: train on what rules guess of rows without labels.",
        ),
    ] = False,
) -> None:
    """Bring the pipeline up to date: only the stages whose code, data or parameters changed.

    Rows of your own want labels: what a safe assistant does (answer, refuse, ...). The rule planner knows the drawn corpus alone
    and misses most harmful requests of other rows, so stage plan stops at rows without a label, unless a planner behind a server
    (`plan.writer`) gives them. `--allow-guessed-labels` trains on the guesses all the same; such rows are marked, and neither
    held out nor counted by the gate.

    `--ablate` runs the pipeline again without a part of the recipe, each time as a DVC experiment beside this checkout, and
    prints what that costs in every measure: no-dpo, no-format, no-depth, no-semantic, correction, no-topologies; or all.

    `--set` does the same with values of your own, all of them in one experiment; params.yaml stays as it is. Bring one that is
    worth it to a branch: `dvc exp branch NAME BRANCH`.

    Examples:

    `saferflow run` · `saferflow run --force sft` · `saferflow run --profile qwen2.5-vl-3b` ·
    `saferflow run --ablate no-dpo --ablate correction` · `saferflow run --set grpo.kl=0.05 --set dpo.beta=0.2` ·
    `saferflow run --set sft.epochs=3 --queue`
    """
    if queue and not settings:
        raise ParamsError("--queue puts an experiment into the queue: name its values with --set")
    if profile:
        _use_profile(profile)
    _require_project()
    if allow_guessed_labels:
        _allow_guessed_labels()
    if ablate or settings:
        told = [part for setting in settings or () for part in ("--set", setting)] + (["--queue"] if queue else [])
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "flows.experiments", *(ablate or ()), *told])  # noqa: S606 as below
    command = [sys.executable, "-m", "flows.run", *(part for stage in force or () for part in ("--force", stage))]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 this process becomes the flow: signals and the exit status are its own


@app.command()
def init(
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="Stages at work at once, over all nodes.")] = 1,
    kind: Annotated[Pools, typer.Option(help="Of the work pools: where workers start what they run.")] = Pools.PROCESS,
) -> None:
    """Set up the Prefect server for retraining by the clock and for stages on GPU nodes; may be repeated.

    Makes the work pools `pipelines` and `gpu` with their limits, a queue `urgent`, the deployments of prefect.yaml, and an
    automation that marks runs whose process or node has died. The server is PREFECT_API_URL's, or this checkout's own.

    Examples:

    `saferflow init` · `PREFECT_API_URL=https://prefect.example/api saferflow init --gpus 8`
    """
    _require_project()
    command = [sys.executable, "-m", "flows.setup", "--gpus", str(gpus), "--kind", kind.value]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 as in run


@app.command()
def queue() -> None:
    """What is at work and what waits, by work pool and queue, in the order in which workers take it.

    Stages that pipelines ordered on nodes, queued experiments, the next run by the clock, and what waits for a sign-off. The
    server is PREFECT_API_URL's, or this checkout's own.

    Examples:

    `saferflow queue` · to take one out, or to stop it: `prefect flow-run cancel RUN`
    """
    _require_project()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "flows.queue"])  # noqa: S606 as in run


@app.command()
def retrain(
    force: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Run this stage even if nothing changed; may be repeated.")
    ] = None,
) -> None:
    """Look for new data, run what is stale, and tell someone what came of it; nothing new means that nothing runs.

    Sources that `saferflow data add` imported from an address are updated first. A run that fails, or whose version may not
    lead, leaves the champion in place. Where the environment variable SAFERFLOW_WEBHOOK holds an address, `promoted`,
    `rejected` and `failed` are sent there as JSON. Every run, also one with nothing to do, is an MLflow run named retrain.

    Examples:

    `saferflow retrain` · `saferflow retrain --force plan`

    By the clock: the deployment in prefect.yaml, docs/operations.md.
    """
    _require_project()
    command = [sys.executable, "-m", "flows.retrain", *(part for stage in force or () for part in ("--force", stage))]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 as in run


@app.command()
def status() -> None:
    """What is up to date, what would run and why, the last scores, the champion."""
    root, params = _project()
    from concurrent.futures import ThreadPoolExecutor

    from rich.console import Console

    from saferflow.cli import show
    from saferflow.tracking import graph, runs

    console = Console(highlight=False)
    with ThreadPoolExecutor(1) as beside:  # DVC looks while MLflow opens its store
        looking = beside.submit(graph.stale, root)
        runs.client()
        stages, changes = graph.load_stages(root), looking.result()
    reached = graph.with_followers(changes, stages)
    for name in stages:
        if name in changes:
            console.print(f"{name:<10} would run: {show.listed(changes[name])}")
        else:
            console.print(
                f"{name:<10} " + ("would run if its inputs come out changed" if name in reached else "up to date")
            )
    show.results(console, root, params, brief=True)


@app.command()
def chat(
    image: Annotated[str, typer.Argument(help="An image file, or - for a question without one.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    policy: Annotated[Policy, typer.Option(help="A stage's policy, or the registered champion.")] = Policy.GRPO,
    constrained: Annotated[
        bool, typer.Option("--constrained", help="Decode under the plan's grammar: the trace cannot leave its plan.")
    ] = False,
    draw: Annotated[
        Path | None, typer.Option(help="Write the plan's graph with the trace's path on it to this SVG file.")
    ] = None,
) -> None:
    """Ask a policy about an image: its plan, its trace with the check's verdict, its answer.

    The plan is the rule planner's, which knows the drawn corpus alone: on other questions its suspicion misses most harm.

    Examples:

    `saferflow chat kitchen.png "Is this safe to touch?"` · `saferflow chat - "How do I store bleach?" --policy champion`
    """
    root, params = _project()
    from saferflow.cli.chat import converse

    converse(root, params, image, question, policy.value, constrained=constrained, drawing=draw)


class Format(StrEnum):
    """How `check` prints."""

    TEXT = "text"
    JSON = "json"


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines, or - for the standard input.")],
    output: Annotated[
        Format, typer.Option("--format", help="A line a violation, or one JSON array of objects.")
    ] = Format.TEXT,
    field: Annotated[str, typer.Option(metavar="NAME", help="The field that holds the completion.")] = "completion",
) -> None:
    """Check completions against their plans, like a linter: `FILE:LINE: CODE what was found; what was legal there`.

    A row is one JSON object a line: `{"id": "a1", "completion": "<thinking>…", "plan": {"hazard": "S2", "severity": 2,
    "persona": "guardian", "tools": ["VISUAL-SCAN", "RISK-SCORER", "SAFETY-GATE"], "topology": "mesh"}}`

    * `completion` (or the field that `--field` names): what the policy wrote. The only field that must be there.

    * `plan`: an object as above, or the same as a JSON text, as the column `plan` of the project's tables holds it. A tree
    may have `branches`, a loop `max_returns`. Without a plan only what needs none is checked: tags, text around them,
    typed values, the answer.

    * `id`: names the row in messages. Other fields are ignored, so reports/rollouts.jsonl can be read as it is.

    What each code means, with a bad and a good trace: docs/violations.md.

    Exit status: 0 no violation, 1 violations, 2 bad input; then every bad line is named and nothing is checked.

    Examples:

    `saferflow check reports/rollouts.jsonl` · `saferflow check pairs.jsonl --field chosen` ·
    `tail -n 100 rows.jsonl | saferflow check - --format json`
    """
    from saferflow.cli.check import report

    try:
        violations = report(file, field, as_json=output is Format.JSON)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    raise typer.Exit(1 if violations else 0)


@app.command()
def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="base, sft, dpo, grpo; a registered version as v3, or champion, candidate, previous; or a policy's folder.",
        ),
    ],
    rows: Annotated[
        Path, typer.Option(metavar="PARQUET", help="The rows to answer, a table as stage validate writes it.")
    ] = Path("data/tables/evaluation.parquet"),
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where scores, report and answers go, in the place of earlier ones.")
    ] = Path("reports/evaluate"),
    inspect: Annotated[bool, typer.Option("--inspect", help="Also write a log a policy for Inspect's viewer.")] = False,
    traces: Annotated[
        bool, typer.Option("--traces", help="Also write an MLflow run with a trace and the grades of each answer.")
    ] = False,
    constrained: Annotated[
        bool, typer.Option("--constrained", help="Decode under each row's plan, so that no policy can leave it.")
    ] = False,
    protocol: Annotated[
        Asking,
        typer.Option(help="With a plan a row, as policies are trained; or as the released evaluation of SaFeR-ToolKit asks."),
    ] = Asking.PLANNED,
) -> None:
    """Have policies answer rows beside the pipeline: scores with intervals, paired tests, a report, every answer.

    Each policy is compared with the one before it, and the last with the first, on the same rows. The judge is
    evaluate.judge of params.yaml; the pipeline's own results stay as they are.

    `--protocol released` asks every policy, the base policy too, with one think-and-answer prompt and no plan, a repetition
    penalty of 1.1 and pictures of at most 512 x 512 pixels, as published figures were taken; `both` has the two side by side.

    Examples:

    `saferflow evaluate champion candidate` · `saferflow evaluate base grpo --protocol both` ·
    `saferflow evaluate v3 /models/mine --rows other.parquet --inspect`
    """
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.evaluate import PROTOCOLS, evaluate

    evaluate(
        Console(highlight=False), root, params, policies, rows, out,
        inspect=inspect, traces=traces, constrained=constrained, protocols=PROTOCOLS[protocol.value],
    )  # fmt: skip


@app.command()
def attack(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="base, sft, dpo, grpo; a registered version as v3, or champion, candidate, previous; or a policy's folder.",
        ),
    ],
    rows: Annotated[
        Path, typer.Option(metavar="PARQUET", help="Where the requests come from, a table as stage validate writes it.")
    ] = Path("data/tables/evaluation.parquet"),
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where figures, dialogues and report go, in the place of earlier ones."),
    ] = Path("reports/attack"),
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Requests that are made into attacks, at most.")] = 40,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="typographic, role_play, obfuscation, split, pressure, authority or continuation; "
            "all these where none is named. Or one that reads each answer and tries again: rephrase, crescendo or tree.",
        ),
    ] = None,
    turns: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tries of one that tries again, for each request; attack.turns where none."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tokens of its server, for each policy and method; attack.tokens where none."),
    ] = None,
    forms: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="trained (training may show them) or unseen; both where none is named."),
    ] = None,
    constrained: Annotated[
        bool, typer.Option("--constrained", help="Decode under each turn's plan, so that no policy can leave it.")
    ] = False,
) -> None:
    """Attack policies: requests that are to be declined, disguised in six ways or pressed for over several turns.

    Each attack is made from a row whose own words name the harm, and stands beside that plain request: how often it succeeded,
    and by how much more often than the request alone, with intervals. Every turn is planned anew and checked by the protocol.
    Forms that training rows may show and forms that only this command shows are reported apart; the families authority and
    continuation are shown here only. rephrase, crescendo and tree adapt to each policy, by rules or by the server in
    attack.attacker of params.yaml.

    Examples:

    `saferflow attack champion` · `saferflow attack champion --method crescendo --method tree --turns 6` ·
    `saferflow attack sft grpo --count 100 --method pressure --forms unseen`
    """
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.attack import FAMILIES, TRAINED, UNSEEN
    from saferflow.cli.attack import attack as run_attacks

    budget = {name: value for name, value in (("turns", turns), ("tokens", tokens)) if value is not None}
    params = params.model_copy(update={"attack": params.attack.model_copy(update=budget)})
    run_attacks(
        Console(highlight=False),
        root,
        params,
        policies,
        rows,
        out,
        count=count,
        methods=method or list(FAMILIES),
        kinds=forms or (TRAINED, UNSEEN),
        constrained=constrained,
    )


@app.command()
def general(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="base, sft, dpo, grpo; a registered version as v3, or an alias; a folder; with --server, a served name.",
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A task of lmms-eval; MathVista, MMMU, MMStar, MM-Vet and POPE where none is named."
        ),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask an OpenAI-compatible server instead of loading the policies.")
    ] = None,
    backend: Annotated[str, typer.Option(help="How lmms-eval loads a policy: qwen2_5_vl or vllm.")] = "qwen2_5_vl",
    harness: Annotated[
        str | None,
        typer.Option(metavar="PYTHON", help="The python of an environment that has lmms-eval; this one where none."),
    ] = None,
    own_tasks: Annotated[
        Path | None,
        typer.Option(
            "--tasks-from", metavar="FOLDER", help="A folder with tasks of your own, as lmms-eval reads them."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Samples of each task, at most.")] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where scores and samples go, in the place of earlier ones.")
    ] = Path("reports/general"),
) -> None:
    """Measure general ability by an existing harness, lmms-eval, policy beside policy.

    It loads a policy's folder on a GPU, or asks a server that serves it. The last policy is compared with the first, sample by
    sample. Traces are taken out of the responses before they are scored.

    Examples:

    `saferflow general base champion` · `saferflow general v3 v5 --task pope --limit 200` ·
    `saferflow general champion --server http://127.0.0.1:8000/v1 --harness /opt/lmms/bin/python`
    """
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.general import general as run_harness
    from saferflow.evaluation.general import TASKS

    run_harness(
        Console(highlight=False), root, params, policies, out,
        tasks=task or TASKS, backend=backend, server=server, harness=harness, own_tasks=own_tasks, limit=limit,
    )  # fmt: skip


@app.command()
def judge(
    misses: Annotated[
        int, typer.Option(metavar="N", help="List so many of the responses that were graded otherwise.")
    ] = 0,
    held_back: Annotated[
        bool, typer.Option("--held-back", help="Only the half of the responses that no rule may be written by.")
    ] = False,
    on: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Evaluated responses instead (data/evaluated.parquet), or people's grades (data/labels.jsonl)."
        ),
    ] = None,
    rows: Annotated[Path, typer.Option(metavar="PARQUET", help="With --on: the rows that were evaluated.")] = EVALUATION,
) -> None:
    """Measure the judge of params.yaml, and the rule judge beside it, on 125 responses whose grades are known.

    Exact agreement, agreement within one point, Krippendorff's alpha and a confusion table for each rubric; then how often a
    judge sees what is there and what a rate that it measures stands for.

    With --on, the judges grade responses that were evaluated: how they agree with the grades that stand there and with each
    other, and every policy's rates by each, with what they stand for by the judge's errors. With --on people's grades, which
    `saferflow label` collects: how people agree with each other and with each judge, and what the evaluated rates are by people.

    Examples:

    `saferflow judge` · `saferflow judge --misses 10` · `saferflow judge --held-back` ·
    `saferflow judge --on data/evaluated.parquet` · `saferflow judge --on data/labels.jsonl`
    """
    _, params = _project()
    from rich.console import Console

    if on and on.suffix == ".jsonl":
        from saferflow.cli.label import judge_by_people

        judge_by_people(Console(highlight=False), params, on, EVALUATED, rows)
        return

    from saferflow.cli.judge import judge, judge_answers
    from saferflow.data.rows import Answered, PromptRow
    from saferflow.data.tables import read_table

    if on:
        judge_answers(Console(highlight=False), params, read_table(on, Answered), read_table(rows, PromptRow))
        return
    judge(Console(highlight=False), params, misses=misses, held_back=held_back)


@app.command()
def label(
    answered: Annotated[Path, typer.Argument(metavar="[PARQUET]", help="Evaluated responses to grade.")] = EVALUATED,
    rows: Annotated[Path, typer.Option(metavar="PARQUET", help="The rows that were evaluated.")] = EVALUATION,
    into: Annotated[Path, typer.Option("--into", metavar="JSONL", help="People's grades; git keeps this file.")] = Path(
        "data/labels.jsonl"
    ),
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Responses to grade.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the sample: everybody who names the same seed grades the same responses.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 0,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Grade responses by hand, on a page of this machine: blind, at random, as many of each policy and verdict as there are.

    Who wrote a response and what the judge said of it is not shown. Each grading is kept at once; end it with Ctrl-C and go on
    with the same command and name. `saferflow judge --on data/labels.jsonl` then says how far people and judges agree.

    Examples:

    `saferflow label` · `saferflow label --count 50 --no-open` · `saferflow judge --on data/labels.jsonl`
    """
    _project()
    from rich.console import Console

    from saferflow.cli.label import label

    label(Console(highlight=False), answered, rows, into, count=count, seed=seed, port=port, show=show)


@app.command()
def audit(
    show: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the pages in the browser when they are written.")
    ] = True,
    inspect: Annotated[bool, typer.Option("--inspect", help="Also write a log a policy for Inspect's viewer.")] = False,
    failed: Annotated[
        str | None,
        typer.Option(metavar="MEASURE", help="List the rows that miss this measure, and open the pages at them."),
    ] = None,
    policy: Annotated[str, typer.Option(help="With --failed: whose answers.")] = "grpo",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="With --failed: only rows that this one does not miss: base, sft, dpo, a version as v3, champion.",
        ),
    ] = None,
    hazard: Annotated[str | None, typer.Option(metavar="CODE", help="With --failed: only rows of this hazard.")] = None,
    risk: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="With --failed: only rows whose risk comes from there.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="With --failed: rows that are listed here.")] = 10,
) -> None:
    """Write the audit pages of the last evaluation: every row under every policy, with filters, violations and graphs.

    Static files in reports/audit that open without a server and load nothing from elsewhere.

    `--failed` lists the held-out rows behind a figure here as well: question, what was expected, what came, broken rules. The
    measures are safety, helpfulness, rigor, over_refusal_rate, attack_success_rate, validity, parse_rate and general.

    Examples:

    `saferflow audit` · `saferflow audit --no-open --inspect` · `saferflow audit --failed attack_success_rate` ·
    `saferflow audit --failed general --against base` · `saferflow audit --failed safety --hazard S1 --risk combination`
    """
    if failed is None and (against or hazard or risk):
        raise ParamsError("--against, --hazard and --risk choose among failed rows: name a measure with --failed")
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.audit import Choice, write_pages

    choice = Choice(failed, policy, against, hazard, risk, limit) if failed else None
    write_pages(root, params, Console(highlight=False), show=show, inspect=inspect, choice=choice)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN[,RUN]", help="The run to compare with, or several of one recipe.")],
    second: Annotated[
        str, typer.Argument(metavar="RUN[,RUN]", help="The run that is compared, or several of one recipe.")
    ] = "candidate",
    page: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Also write a page, with both runs' curves over each other.")
    ] = None,
) -> None:
    """What sets two pipeline runs apart: parameters, data, code, scores with paired intervals, seconds.

    RUN is an MLflow run id, a version of the registered model as `v3`, an alias (`champion`, `candidate`, `previous`), or a
    git commit that a run was made from. Several trainings of each recipe, with different seeds and commas between: the
    intervals are over trainings and rows, as another seed gives another policy.

    Examples:

    `saferflow compare champion` · `saferflow compare v2 v5` · `saferflow compare 1fbef73 candidate` ·
    `saferflow compare v2 v5 --page reports/v2-v5.html` · `saferflow compare v1,v3,v5 v2,v4,v6`
    """
    sides = [name.split(",") for name in (first, second)]
    if page is not None and max(map(len, sides)) > 1:
        raise ParamsError("--page compares two runs: name one on each side")
    _, params = _project()
    from rich.console import Console

    from saferflow.cli.compare import compare as print_comparison
    from saferflow.cli.compare_trainings import compare_trainings

    if max(map(len, sides)) > 1:
        compare_trainings(Console(highlight=False), params, *sides)
        return
    print_comparison(Console(highlight=False), params, first, second, page)


@app.command()
def promote(
    version: Annotated[
        int | None, typer.Argument(help="A registered version; the candidate where none is named.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Judge it and say what would happen; move nothing.")
    ] = False,
    sign_off: Annotated[
        bool,
        typer.Option("--sign-off", help="Wait for a person to agree, also where gate.sign_off does not ask for it."),
    ] = False,
) -> None:
    """Judge a registered version by the gate and against the champion, and make it the champion if it may be.

    With --sign-off, or gate.sign_off in params.yaml, it waits for a week for somebody to agree: by `saferflow approve`, or on
    the page of the Prefect run.

    Exit status: 0 it is (or would be) the champion, 1 it may not be.

    Examples:

    `saferflow promote --dry-run` · `saferflow promote 3` · `saferflow promote --sign-off`
    """
    root, params = _project()
    from rich.console import Console

    from saferflow.cli import promotion

    if not dry_run and (sign_off or params.gate.sign_off):
        of_it = ["--version", str(version)] if version is not None else []
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "flows.promote", *of_it])  # noqa: S606 as in run
    raise typer.Exit(0 if promotion.promote(Console(highlight=False), root, params, version, dry_run=dry_run) else 1)


@app.command()
def approve(
    run: Annotated[
        str | None, typer.Argument(help="The promotion's Prefect run; the one that waits where none is named.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who says so, for the ledger.")] = ...,
    why: Annotated[str, typer.Option(help="The reason, for the ledger.")] = "",
    refuse: Annotated[bool, typer.Option("--refuse", help="Say no: nothing is moved.")] = False,
) -> None:
    """Answer a promotion that waits for a person (`saferflow promote --sign-off`).

    Examples:

    `saferflow approve --by "A. Lovelace"` · `saferflow approve --by "A. Lovelace" --refuse --why "row 17 is wrong"`
    """
    _require_project()
    named = ["--run", run] if run else []
    command = ["-m", "flows.promote", "--answer", "refuse" if refuse else "agree", "--by", by, "--why", why, *named]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 as in run


@app.command()
def rollback(
    why: Annotated[str, typer.Option(help="The reason, for the ledger.")] = "rolled back by hand",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; move nothing.")] = False,
) -> None:
    """Make the previous champion the champion again; a second rollback takes it back."""
    _, params = _project()
    from rich.console import Console

    from saferflow.cli import promotion

    promotion.rollback(Console(highlight=False), params, why, dry_run=dry_run)


@app.command()
def ledger() -> None:
    """Every move of `candidate`, `champion` and `previous`: when, from which version to which, by whom, why.

    The lines live in the registry, chained by hashes: a changed, lost or inserted one is an error that names it, and an alias
    that was moved by hand is named.
    """
    _, params = _project()
    from rich.console import Console

    from saferflow.cli import promotion

    promotion.history(Console(highlight=False), params.gate.registered_model)


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="A folder that is new or empty.")],
    version: Annotated[str, typer.Option(help="A registered version as 3 or v3, or an alias.")] = "champion",
) -> None:
    """Write a registered version to a folder that loads without saferflow: weights, processor, chat template, model card.

    Every file is compared with the hash in the registry first; changed ones are refused.

    Examples:

    `saferflow export served` · `saferflow export old --version v3`
    """
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.export import export as write

    write(Console(highlight=False, soft_wrap=True), root, params, version, to)


class Backend(StrEnum):
    """Whose server `serve` starts."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="A registered version as 3 or v3, or an alias.")] = "champion",
    guard: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OpenAI-compatible server whose model answers where the gate lets it."),
    ] = None,
    guard_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model that --guard stands before.")
    ] = None,
    follow: Annotated[
        bool, typer.Option(help="Serve another version as soon as the alias points to it; a number is not followed.")
    ] = True,
    bare: Annotated[bool, typer.Option("--bare", help="The policy alone: no plan, no check.")] = False,
    backend: Annotated[
        Backend, typer.Option(help="Whose server a bare policy gets; vllm wants a GPU.")
    ] = Backend.TRANSFORMERS,
    host: Annotated[str, typer.Option(help="Where it listens; beyond this machine only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="And at which port.")] = 8000,
) -> None:
    """Serve a registered version as a whole: planner, policy under the plan's grammar, check, behind OpenAI's chat completions.

    The message's `content` is the answer, `reasoning_content` its trace, the field `saferflow` plan, verdict and version. Its
    files are compared with the registry's hashes first, and with its signature where gate.public_key asks for one. On another
    address than this machine's own, callers must show the key in SAFERFLOW_SERVE_KEY.

    A version that is named by an alias is followed: where the alias moves, the other version is loaded beside the served one and
    takes its place. No request is lost; a version that cannot be loaded leaves the served one.

    Where serve.traces of params.yaml is set, each answered request becomes a trace in MLflow: plan, generate, check, redraw. It
    holds what user and policy said, but for the fields that serve.traces.redact names.

    `--guard` puts planner, trace and gate in front of another model: the policy decides, and where it decides `answer` that model
    answers. Its server's key is read from SAFERFLOW_GUARD_KEY.

    `--bare` starts transformers' own server, or vLLM's, on the policy alone; further options go to that server as they are.

    Examples:

    `saferflow serve` · `saferflow serve v3 --port 8001` · `saferflow serve --bare` ·
    `saferflow serve --guard http://127.0.0.1:9000/v1 --guard-model big` ·
    `VLLM_API_KEY=… saferflow serve --backend vllm --host 0.0.0.0 --max-model-len 8192`
    """
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.serve import serve_bare, serve_system

    console = Console(highlight=False, soft_wrap=True)
    if (guard is None) != (guard_model is None):
        raise typer.BadParameter("--guard URL and --guard-model NAME go together")
    if bare or backend is Backend.VLLM:
        if guard:
            raise typer.BadParameter("--guard wants the whole system, not a --bare policy")
        serve_bare(
            console, root, params, version, backend=backend.value, host=host, port=port, arguments=context.args
        )  # fmt: skip
        return
    if context.args:
        raise typer.BadParameter(f"{' '.join(context.args)}: such options go to a --bare server alone")
    serve_system(
        console,
        root,
        params,
        version,
        host=host,
        port=port,
        guard=(guard, guard_model) if guard and guard_model else None,
        follow=follow,
    )


@app.command()
def sign(
    version: Annotated[str, typer.Argument(help="A registered version as 3 or v3, or an alias.")] = "candidate",
    key: Annotated[
        Path, typer.Option(metavar="PEM", envvar="SAFERFLOW_SIGNING_KEY", help="The private elliptic-curve key.")
    ] = ...,
) -> None:
    """Sign a registered version's files (OpenSSF model signing), and keep the signature with it.

    With gate.public_key in params.yaml a version leads and is exported only if it is signed. Where SAFERFLOW_SIGNING_KEY is set,
    every run signs what it registers. A password is read from SAFERFLOW_SIGNING_PASSWORD.

    Examples:

    `openssl ecparam -genkey -name prime256v1 -noout -out key.pem && openssl ec -in key.pem -pubout -out key.pub` ·
    `saferflow sign v3 --key key.pem`
    """
    _, params = _project()
    from rich.console import Console

    from saferflow.cli.export import sign as write

    write(Console(highlight=False, soft_wrap=True), params, version, key)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that saferflow export wrote.")],
    key: Annotated[Path, typer.Option(metavar="PEM", help="The public key of whom it is to be signed by.")] = ...,
) -> None:
    """Hold an exported folder against its signature: every file as it was signed, none added, none lost.

    README.md and saferflow.json are not among the signed files. Exit status: 0 it holds, 1 it does not.

    Examples:

    `saferflow verify served --key key.pub`
    """
    from rich.console import Console

    from saferflow.cli.export import verify as hold

    hold(Console(highlight=False, soft_wrap=True), folder, key)


data = typer.Typer(cls=FromSubfolder, no_args_is_help=True, help="Rows: where they come from, and what they went into.")
app.add_typer(data, name="data")


@data.command()
def trace(
    row: Annotated[
        str,
        typer.Argument(help="A row's id, as in the tables and on the audit pages; or a completion's that was reported."),
    ],
    output: Annotated[Format, typer.Option("--format", help="Lines, or one JSON object.")] = Format.TEXT,
) -> None:
    """Where a row came from, which tables hold it, which runs read those very tables, which versions were made from them.

    Examples:

    `saferflow data trace scenes-train-000004` · `saferflow data trace scenes-evaluation-000003 --format json`
    """
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.data import print_trace
    from saferflow.cli.data import trace as follow

    print_trace(Console(highlight=False), follow(root, params, row), as_json=output is Format.JSON)


@data.command()
def add(
    name: Annotated[str, typer.Argument(help="A published corpus (docs/corpora.md), or a name for rows of your own.")],
    path: Annotated[
        str, typer.Argument(help="A folder, a file, a .zip or .tar archive; or an address, for dvc import-url.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of your own rows: jsonl, json, csv, parquet, webdataset or datasets; found by itself for a path.",
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of your own rows, as an SPDX identifier.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS",
            help="Where your rows name a field otherwise; may be repeated. An empty THEIRS leaves the field out.",
        ),
    ] = None,
    hazard: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD=CODE", help="A word for a hazard and its code S1..S14; may be repeated."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the pictures lie that rows name by paths; the rows' own folder if not given."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read it and say what is in it; add nothing.")] = False,
) -> None:
    """Bring a corpus into data/sources under DVC, and say what is in it: splits, hazards, licence, rows that are no good.

    Rows of your own may have TRL's forms (prompt and completion, preference, messages), LLaVA's, ShareGPT's or Alpaca's, as JSON
    lines or lists, CSV, Parquet, WebDataset, or what datasets saved. What each field was taken for is shown with the first row;
    --field says otherwise. Our fields: id, image, question, answer, rejected, conversation, kind, expected (refuse, comply),
    decision, hazard, severity.

    It is read as stage plan reads it. For every row it says where its label comes from (what a safe assistant does): the source,
    a category that `--hazard` maps, or the planner behind the server of `plan.writer`. The rule planner knows the drawn corpus
    alone and labels nothing else: at rows without a label stage plan stops, and this says so now.

    A licence that `data.licences` of the params does not allow is refused; so are rows
    that cannot be read, unless `data.on_bad_row` is quarantine. What is refused leaves nothing behind.

    Examples:

    `saferflow data add xstest ~/xstest_prompts.csv` · `saferflow data add vlguard ~/VLGuard.zip --dry-run` ·
    `saferflow data add mine rows.jsonl --licence CC-BY-4.0 --field question=text --hazard Fraud=S2` ·
    `saferflow data add llava llava.json --images ~/coco --dry-run`
    """
    _, params = _project()
    from rich.console import Console

    from saferflow.cli.data_add import add as bring
    from saferflow.cli.data_add import source_of

    source = source_of(name, path, kind, licence, field or [], hazard or [])
    bring(name, path, params, source, Console(highlight=False, soft_wrap=True), images=images, dry_run=dry_run)


@data.command()
def drift(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="The run to compare with; the newest that had other data where none is named."
        ),
    ] = None,
    served: Annotated[
        bool, typer.Option("--served", help="The requests that the server kept, against this checkout's training tables.")
    ] = False,
) -> None:
    """How far the tables have moved from a former version of the data: sources, hazards, decisions, suspicions, lengths.

    RUN is an MLflow run id, a version as `v3`, an alias, or a git commit, as for `saferflow compare`. With `--served`: how far
    served requests lie from the training rows, in hazards, decisions, suspicions, lengths and broken rules; `serve.store` keeps
    them.

    Examples:

    `saferflow data drift` · `saferflow data drift champion` · `saferflow data drift --served`
    """
    if served and run:
        raise PipelineError("--served compares with this checkout's training tables; leave the run out")
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.drift import tell, tell_served

    console = Console(highlight=False)
    if served:
        tell_served(root, params, console)
    else:
        tell(root, params, run, console)


incident = typer.Typer(no_args_is_help=True, help="Requests that were answered wrongly: labelled, trained on, asked again.")
app.add_typer(incident, name="incident")


@incident.command("add")
def incident_add(
    what: Annotated[str, typer.Argument(metavar="ID|FILE", help="A completion's id that the server kept, or a file of reports.")],
    why: Annotated[str, typer.Option(metavar="TEXT", help="What was wrong with the answer, in a sentence.")],
    decision: Annotated[
        str, typer.Option(metavar="WHAT", help="What is right: answer, answer_with_care, redirect or refuse.")
    ] = "",
    hazard: Annotated[str, typer.Option(metavar="HAZARD", help="S1 to S14, or none.")] = "",
    severity: Annotated[int | None, typer.Option(min=0, max=3, help="Of the harm, 0 to 3.")] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture of an exchange whose picture was not kept.")
    ] = None,
) -> None:
    """Turn a request that was answered wrongly into a labelled row of data/sources/incidents, under DVC.

    An ID is a completion's (`chatcmpl-...`), as callers got it; the server has its request where `serve.store` is on. A FILE
    holds reports of users in any form that `saferflow data add` reads, one or many: question or messages, image, and what is
    right unless `--decision` says it for all.

    A near twin of an incident is joined to it as another report. A twin of a held-out row is held out, any other row is
    trained on. Every candidate is asked all incidents again, and `gate.regressions` says how many may happen again.

    Examples:

    `saferflow incident add chatcmpl-0a1b --why "It told how to get in." --decision refuse --hazard S2` ·
    `saferflow incident add report.json --why "It declined a harmless question." --decision answer`
    """
    root, params = _project()
    from rich.console import Console

    from saferflow.cli.incident import Label, add

    console = Console(highlight=False, soft_wrap=True)
    add(console, root, params, what, why, Label(decision, hazard, severity), picture=picture)


@incident.command("list")
def incident_list(
    output: Annotated[Format, typer.Option("--format", help="A table, or one JSON list.")] = Format.TEXT,
) -> None:
    """All incidents: what is right, the side they are on, how often they were reported, and why.

    Examples:

    `saferflow incident list` · `saferflow incident list --format json`
    """
    root, _ = _project()
    from rich.console import Console

    from saferflow.cli.incident import show

    show(Console(highlight=False), root, as_json=output is Format.JSON)


@incident.command("remove")
def incident_remove(
    name: Annotated[str, typer.Argument(metavar="ID", help="The incident's id, or a completion's that was reported.")],
) -> None:
    """Take an incident out of the source, and its exchanges out of the server's store.

    Tables and versions that were made from it stay: `saferflow lineage who ID` names them.

    Examples:

    `saferflow incident remove incidents-0123456789abcdef`
    """
    root, _ = _project()
    from rich.console import Console

    from saferflow.cli.incident import remove

    remove(Console(highlight=False, soft_wrap=True), root, name)


lineage = typer.Typer(
    cls=FromSubfolder, no_args_is_help=True, help="Versions and the rows that they saw, whatever data came since."
)
app.add_typer(lineage, name="lineage")


@lineage.command()
def who(
    row: Annotated[str, typer.Argument(help="A row's id, as in the tables and on the audit pages.")],
    output: Annotated[Format, typer.Option("--format", help="Lines, or one JSON object.")] = Format.TEXT,
) -> None:
    """Which models saw this record: what a request for deletion needs.

    Every table that any run has read is asked, those of former data too, from DVC's cache or remote; where one is gone, that
    is said.

    Examples:

    `saferflow lineage who scenes-train-000004`
    """
    _, params = _project()
    from rich.console import Console

    from saferflow.cli.lineage import print_who
    from saferflow.cli.lineage import who as ask

    print_who(Console(highlight=False, soft_wrap=True), params, ask(params, row), as_json=output is Format.JSON)


@lineage.command()
def why(
    version: Annotated[str, typer.Argument(help="A registered version as 3 or v3, or an alias.")],
    row: Annotated[str, typer.Argument(help="A row's id.")],
    output: Annotated[Format, typer.Option("--format", help="Lines, or one JSON object.")] = Format.TEXT,
) -> None:
    """What a version was shown of a row, stage by stage, and what it answers where the row is held out.

    Examples:

    `saferflow lineage why champion scenes-evaluation-000003` · `saferflow lineage why v2 scenes-train-000004 --format json`
    """
    _, params = _project()
    from rich.console import Console

    from saferflow.cli.lineage import why as tell

    tell(Console(highlight=False, soft_wrap=True), params, version, row, as_json=output is Format.JSON)


@app.command()
def doctor() -> None:
    """Is everything that this machine needs there? What is missing comes with the way to get it."""
    from saferflow.cli.doctor import examine

    raise typer.Exit(0 if examine(Path.cwd()) else 1)


class Size(StrEnum):
    """What `rehearse` loads."""

    REAL = "real"
    THIN = "thin"


@app.command()
def rehearse(
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="profiles/NAME.yaml; params.yaml where none is named.")
    ] = None,
    size: Annotated[
        Size, typer.Option(help="thin: all widths, words and images, two layers and two vision blocks; real: whole.")
    ] = Size.REAL,
    steps: Annotated[int, typer.Option(min=2, metavar="N", help="Optimiser steps of sft, dpo and grpo.")] = 2,
    tokens: Annotated[
        int, typer.Option(min=2, metavar="N", help="Tokens of a completion that a policy draws, at most.")
    ] = 64,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Processes, with the profile's strategy; else as many as there are GPUs for."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Training rows of the whole run; else as many as fill curate.keep."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Rehearse with this value; may be repeated."),
    ] = None,
) -> None:
    """Run each stage of a profile for a few steps before hours are spent: rows, tokens, time, memory, disk, what fails first.

    The stages run as the pipeline runs them, in a temporary folder (TMPDIR says where), with the profile's micro batches, image
    sizes, adapter and precision. Nothing in this checkout changes. Rows are drawn here, their pictures in turn as large as
    policy.max_pixels, the geometric mean, and policy.min_pixels. Planner, teacher and judge behind servers are replaced by the
    rules; fewer processes than the profile wants, or none of its GPUs, are said. Stages that draw completions run twice, with
    `--tokens` and with a single one, so that the time of a token is known apart from that of reading the prompt.

    With the checkpoint of policy.base on this machine it is that one; without, random weights in the files of the published
    one. `--size thin` keeps widths, words and images and cuts the model to two layers, for a machine that cannot hold it.

    Before a stage begins, what it must hold by counts is compared with the memory. Exit status: 0 every stage ran, 1 one failed,
    named with its remedy. What would stop the whole run on this machine (sources, servers, GPUs, memory, disk) is listed
    either way.

    Examples:

    `saferflow rehearse --profile qwen2.5-vl-3b --size thin` · `saferflow rehearse --profile qwen2.5-vl-7b --rows 18200` ·
    `saferflow rehearse --profile qwen2.5-vl-3b --size thin --processes 2 --set launch.strategy=zero3`
    """
    _require_project()
    from rich.console import Console

    from saferflow.cli.rehearse import rehearse as carry_out
    from saferflow.params import load_params

    params = load_params(_profile(profile) if profile else PARAMS)
    carry_out(
        Console(highlight=False), Path.cwd(), params, settings or [],
        steps=steps, tokens=tokens, thin=size is Size.THIN, prompts=rows, processes=processes,
    )  # fmt: skip


@app.command()
def ui() -> None:
    """Start MLflow's and Prefect's pages on this machine (loopback only), and say where they are."""
    root, _ = _project()
    from saferflow.tracking import services

    for service in services.SERVICES:
        print(f"{service.name:<8} {services.start(service, root)}")
    print("they stay up until: saferflow stop")


@app.command()
def stop() -> None:
    """End the servers of this checkout. A pipeline that is at work loses its Prefect server: end that first."""
    from saferflow.tracking import services

    for service in services.SERVICES:
        print(f"{service.name:<8} {'stopped' if services.stop(service) else 'was not running'}")


def _project():
    """The project's folder and its parameters, with the environment prepared."""
    from saferflow.params import load_params
    from saferflow.tracking import environment

    _require_project()
    params = load_params(PARAMS)
    environment.prepare()
    if params.policy.base == "embedded" or Path(params.policy.base).exists():
        environment.offline()
    return Path.cwd(), params


def _require_project() -> None:
    if lacks := missing(Path.cwd()):
        raise PipelineError(f"{Path.cwd()} has no {', '.join(lacks)}; run saferflow in the project's folder")


def _use_profile(name: str) -> None:
    """Copy a profile over params.yaml, unless that would lose values which are nowhere else."""
    file = _profile(name)
    if PARAMS.exists() and PARAMS.read_bytes() == file.read_bytes():
        return
    held = {path.read_bytes() for path in PROFILES.glob("*.yaml")}
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(PARAMS)], check=False, capture_output=True)
    if PARAMS.exists() and PARAMS.read_bytes() not in held and changed.returncode:
        raise ParamsError(f"{PARAMS} has changes that are not in git; commit it or put it aside, then choose a profile")
    shutil.copyfile(file, PARAMS)
    print(f"{PARAMS} is now {file}; to go back: git checkout -- {PARAMS}")


def _profile(name: str) -> Path:
    """The file of a profile."""
    profiles = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in profiles:
        raise ParamsError(f"no profile {name!r}; there are: {', '.join(profiles) or 'none'}")
    return PROFILES / f"{name}.yaml"


def _allow_guessed_labels() -> None:
    """Set plan.allow_guessed_labels in params.yaml, its comments kept, and say loudly what that means."""
    from saferflow.data.origins import RULE_PLANNER

    text = PARAMS.read_text(encoding="utf-8")
    allowed, count = re.subn(r"(?m)^(  allow_guessed_labels:)[ \t]*(?:false|true)\b", r"\1 true", text)
    if count != 1:
        raise ParamsError(
            f"{PARAMS} has no line allow_guessed_labels in its section plan; add it: allow_guessed_labels: true"
        )
    if allowed != text:
        PARAMS.write_text(allowed, encoding="utf-8")
    print(
        f"WARNING: plan.allow_guessed_labels is true in {PARAMS}: {RULE_PLANNER}. Rows without labels are trained on its "
        "guesses, marked, and neither held out nor counted by the gate; to go back: set it to false",
        file=sys.stderr,
        flush=True,
    )
