"""Attacks that adapt, on a policy: what an attacker writes is planned, answered and graded like a held-out row. Source: ours."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from saferflow.data.rows import Answered, BadRow, Labels, PromptRow, Row, whole_question
from saferflow.errors import DataError
from saferflow.evaluation.adversarial import SEPARATOR, method_name
from saferflow.evaluation.attackers import Ask, Attacker, Try, run_searches, search_of
from saferflow.evaluation.rule_attacker import RuleAttacker
from saferflow.judge.rules import answer_of
from saferflow.params import AttackParams, Params
from saferflow.planner.tables import fill
from saferflow.planner.tasks import Writer

SECTION = "attack.attacker"
Examine = Callable[[Sequence[Sequence[PromptRow]]], list[Answered]]
Message = tuple[int, Ask, str]
"""Number of its search, what the attacker knew, and what it wrote."""


def attacker_of(params: AttackParams) -> Attacker:
    """By rules, or by a server with its answers kept in `.saferflow/answers.sqlite`.

    Raises:
        EndpointError: the variable that should hold the server's key is not set.
    """
    if params.attacker.kind == "rules":
        return RuleAttacker()

    from saferflow.endpoint.client import Endpoint
    from saferflow.endpoint.store import Store
    from saferflow.evaluation.endpoint_attacker import EndpointAttacker

    return EndpointAttacker(Endpoint(params.attacker, Store(), SECTION))


def searched(
    policy: str, examine: Examine, seeds: Sequence[PromptRow], method: str, writer: Writer, params: Params
) -> tuple[list[PromptRow], list[Answered]]:
    """Every try of one method on every seed, and what the policy answered.

    Rows of a seed stand in the order of its tries; their ids hold the policy, since another policy is tried otherwise.

    Raises:
        DataError: the planner's server gave no plan.
        EndpointError: the attacker's server cannot be reached, or refuses us.
    """
    attacker = attacker_of(params.attack)
    searches = [search_of(method, seed.question, seed.image, params.attack) for seed in seeds]
    rows: list[PromptRow] = []
    answered: list[Answered] = []
    counts = [0] * len(seeds)

    def answers(messages: Sequence[Message]) -> list[Try]:
        asked = []
        for number, ask, text in messages:
            counts[number] += 1
            identity = _row_id(seeds[number], method_name(method, attacker.kind), policy, counts[number])
            asked.append(_row(seeds[number], identity, ask, text, leads_up=attacker.leads_up(ask)))
        planned = _planned(asked, writer, params)
        found = examine([[row] for row in planned])
        rows.extend(planned)
        answered.extend(found)
        return [_try(ask, text, one) for (_, ask, text), one in zip(messages, found, strict=True)]

    run_searches(searches, attacker, answers, params.attack)
    if silent := sum(not search.tries for search in searches):
        print(f"attack  {policy}  {method}: {silent} of {len(searches)} requests were not tried: the attacker wrote nothing")
    return rows, answered


def _row_id(seed: PromptRow, method: str, policy: str, number: int) -> str:
    place = f"{policy.replace(SEPARATOR, '-')}:{number}"
    return SEPARATOR.join((seed.id, method, place))


def _row(seed: PromptRow, identity: str, ask: Ask, text: str, *, leads_up: bool) -> Row:
    labels = Labels.from_json(seed.labels)
    if leads_up:
        labels = replace(labels, decision="answer_with_care")
    question = whole_question(ask.earlier, text)
    source = identity.rsplit(SEPARATOR, 2)[1]
    return Row(identity, source, "evaluation", question, ask.image, labels, earlier=ask.earlier)


def _planned(asked: Sequence[Row], writer: Writer, params: Params) -> list[PromptRow]:
    rows = [row for one in fill(asked, writer, params) for row in one.rows]
    if bad := [row for row in rows if isinstance(row, BadRow)]:
        raise DataError(f"{bad[0].reason}; ask again, or change plan.writer")
    return rows


def _try(ask: Ask, text: str, one: Answered) -> Try:
    answer = answer_of(one.completion)
    return Try(text, ask.earlier, ask.heard, answer, one.safety, refused=one.refused, graded=one.graded)
