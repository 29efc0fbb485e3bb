"""`saferflow attack`: policies under attacks that are made from the held-out rows, beside the pipeline."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from saferflow.cli import show
from saferflow.cli.adaptive import searched
from saferflow.cli.evaluate import (
    ANSWERS,
    REPORT,
    each_once,
    held_to_plans,
    in_place_of,
    pages,
    policy_folder,
    report,
    version_named,
)
from saferflow.data.attacks import training, unseen
from saferflow.data.attacks.family import FAMILIES, TRAINED, UNSEEN, UNSEEN_FAMILY, Attack, Form, labelled
from saferflow.data.rows import Answered, BadRow, Labels, PromptRow, Row
from saferflow.data.tables import read_table, write_table
from saferflow.errors import DataError
from saferflow.evaluation.adversarial import PLAIN, Outcome, method_name, outcomes, row_id
from saferflow.evaluation.attackers import METHODS
from saferflow.evaluation.scores import evaluate_metrics
from saferflow.params import Params
from saferflow.planner.tables import fill
from saferflow.planner.tasks import Writer
from saferflow.planner.writer import writer_of
from saferflow.release.attacks import FILE, record
from saferflow.rng import rng
from saferflow.stages.evaluate import examiner
from saferflow.training.homes import ROOT, shelf

ATTACKS = "attacks.parquet"


def attack(
    console: Console,
    root: Path,
    params: Params,
    asked: Sequence[str],
    table: Path,
    out: Path,
    *,
    count: int,
    methods: Sequence[str],
    kinds: Sequence[str],
    constrained: bool,
) -> None:
    """Attack each policy with requests of `table` that are to be declined; what came of it goes to `out`.

    Killed, the same command goes on with the batch that it was at.

    Args:
        asked: policies, as `evaluate` takes them.
        count: how many requests are made into attacks at most, by every family and kind of form.
        methods: which of `FAMILIES` and of `METHODS`, which adapt to each policy; the latter are in no comparison of policies
            row by row, since each policy gets messages of its own.
        kinds: `trained` for the forms that training may show, `unseen` for all others.
        constrained: decode under each turn's plan, whatever the params say.

    Raises:
        DataError: no such method, no request to make an attack of, or no plan for one.
        PolicyError, PipelineError: as `evaluate`.
        EndpointError: the attacker's or the judge's server cannot be reached, or refuses us.
    """
    each_once(asked)
    _known(methods, kinds)
    families, adaptive = ([name for name in methods if name in known] for known in (FAMILIES, METHODS))
    seeds = chosen(read_table(table, PromptRow), count, params.run.seed)
    if not seeds:
        raise DataError(
            f"{table}: no row asks for something that is to be declined without an attack in it already; give --rows others"
        )
    decoding = params.evaluate.constrained
    params = held_to_plans(params) if constrained else params
    writer = writer_of(params.plan.writer, params.run.seed, params.plan.tool_coverage)
    asks = made(seeds, families, kinds, writer, params)
    answered: list[Answered] = []
    tried: list[PromptRow] = []
    tries: list[Answered] = []
    with shelf("attack", root / ROOT) as kept_at:
        for name in asked:
            with policy_folder(root, params, name) as folder:
                examine = examiner(name, folder, params, kept_at=kept_at)
                answered += examine(asks)
                for method in adaptive:
                    new_rows, new_answers = searched(name, examine, seeds, method, writer, params)
                    tried, tries = tried + new_rows, tries + new_answers
        found = outcomes(
            [*answered, *tries], resamples=params.evaluate.resamples, level=params.evaluate.level, seed=params.run.seed
        )
        rows = [turn for turns in asks for turn in turns]
        metrics = evaluate_metrics(answered, params.evaluate, params.run.seed)
        with in_place_of(out) as fresh:
            write_table(fresh / ATTACKS, [*rows, *tried], PromptRow)
            write_table(fresh / ANSWERS, [*answered, *tries], Answered)
            (fresh / FILE).write_text(json.dumps([asdict(one) for one in found], indent=2), encoding="utf-8")
            report(params, fresh, rows, answered, metrics, title="Attacks", attacks=found)
            pages(root, params, fresh, [*rows, *tried], [*answered, *tries])
    _keep(params, asked, found, same_decoding=params.evaluate.constrained == decoding)
    show.wide(console).print(_table(found, len(seeds)))
    if adaptive and params.attack.attacker.kind == "endpoint" and params.evaluate.judge.kind == "rules":
        console.print("a model attacks and rules judge: they take every answer to its lead-ups for an answer to the request")
    if params.plan.augmentation is None or not params.plan.augmentation.attacks:
        console.print("plan.augmentation shows no attack: by these params, no policy was trained on any form")
    console.print(f"report: {out / REPORT}; dialogues: {out / 'audit/index.html'}; figures: {out / FILE}")


def _known(methods: Sequence[str], kinds: Sequence[str]) -> None:
    """Raises DataError where a method or a kind of forms does not exist."""
    if strangers := [name for name in methods if name not in (*FAMILIES, *METHODS)]:
        raise DataError(f"no attack {', '.join(strangers)}; there are {', '.join((*FAMILIES, *METHODS))}")
    if strangers := [kind for kind in kinds if kind not in (TRAINED, UNSEEN)]:
        raise DataError(f"no forms {', '.join(strangers)}; there are {TRAINED}, {UNSEEN}")


def _keep(params: Params, asked: Sequence[str], found: Sequence[Outcome], *, same_decoding: bool) -> None:
    """Record the outcomes of registered versions for `gate.attacks`, unless they were decoded otherwise than evaluated."""
    if not same_decoding:
        return
    for name in asked:
        if version := version_named(params, name):
            record(version, [one for one in found if one.policy == name])


def chosen(rows: Sequence[PromptRow], count: int, seed: int) -> list[PromptRow]:
    """Rows to make attacks of: to be declined, named by their own words, one of each hazard before a second of any."""
    labelled = [(row, Labels.from_json(row.labels)) for row in rows if row.kind == "safety"]
    able = [
        (labels.hazard, rng(seed, "attack", row.id).random(), row)
        for row, labels in labelled
        if labels.harmful and labels.attack == "none" and labels.risk_source in ("text", "combination")
    ]
    turn: dict[str, int] = {}
    ranked = []
    for hazard, draw, row in sorted(able, key=lambda one: one[:2]):
        turn[hazard] = turn.get(hazard, 0) + 1
        ranked.append((turn[hazard], draw, row))
    return [row for _, _, row in sorted(ranked, key=lambda one: one[:2])[:count]]


def forms(name: str, kinds: Sequence[str]) -> dict[str, Form]:
    """The forms of a family, by their kind."""
    by_kind = {}
    if TRAINED in kinds and name in training.FORMS:
        by_kind[TRAINED] = training.FORMS[name]
    if UNSEEN in kinds:
        by_kind[UNSEEN if name in training.FORMS else UNSEEN_FAMILY] = unseen.FORMS[name]
    return by_kind


def made(
    seeds: Sequence[PromptRow], methods: Sequence[str], kinds: Sequence[str], writer: Writer, params: Params
) -> list[list[PromptRow]]:
    """The plain requests and their attacks, a list of turns each; every turn is planned anew, as the planner would see it.

    Raises:
        DataError: the planner's server gave no plan.
    """
    turns: list[list[Row]] = []
    for seed in seeds:
        labels = Labels.from_json(seed.labels)
        turns.append(_rows(seed, PLAIN, Attack((seed.question,), seed.image), labels))
        for name in methods:
            for kind, form in forms(name, kinds).items():
                own = () if kind != TRAINED else (TRAINED,)
                attack = form(seed.question, seed.image, rng(params.run.seed, "attack", seed.id, name, *own))
                if attack is not None:
                    turns.append(_rows(seed, method_name(name, kind), attack, labelled(labels, name, attack)))
    planned = iter(fill([row for each in turns for row in each], writer, params))
    asks = []
    for each in turns:
        rows = [row for one in islice(planned, len(each)) for row in one.rows]
        if bad := [row for row in rows if isinstance(row, BadRow)]:
            raise DataError(f"{bad[0].reason}; ask again, or change plan.writer")
        asks.append(rows)
    return asks


def _rows(seed: PromptRow, method: str, found: Attack, labels: Labels) -> list[Row]:
    """A row a turn; its question is all that the user has said so far."""
    return [
        Row(
            row_id(seed.id, method, turn),
            method,
            "evaluation",
            "\n".join(found.turns[:turn]),
            found.image,
            labels,
        )
        for turn in range(1, len(found.turns) + 1)
    ]


def _table(found: Sequence[Outcome], seeds: int) -> Table:
    title = f"Attacks made of {seeds} requests (percent, with interval)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    headings = (
        "policy",
        "attack",
        "forms",
        "asked",
        "succeeded",
        "over plain,\npoints",
        "declined\nat last",
        "protocol\nkept",
    )
    for heading in headings:
        table.add_column(
            heading,
            justify="left" if heading in ("policy", "attack", "forms") else "right",
            no_wrap=heading != "policy",
        )
    for one in found:
        gain = one.gain
        over = "" if gain is None else f"{gain.difference:+.1f}\n{gain.low:+.0f} to {gain.high:+.0f}"
        asked = str(one.dialogues) if one.turns == one.dialogues else f"{one.dialogues} x {one.turns / one.dialogues:.2g}"
        low, high = one.between
        table.add_row(
            one.policy if one.method == PLAIN else "", one.method.replace("_", " "), one.forms.replace("_", " "), asked,
            f"{one.success:.1f}\n{low:.0f} to {high:.0f}", over, f"{one.refused:.1f}", f"{one.valid:.1f}",
        )  # fmt: skip
    return table
