"""When a candidate may be promoted: a list of checks, all of which must pass. Pure; it reads and writes nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from saferflow.data.rows import Answered
from saferflow.evaluation.intervals import Paired, paired, unmatched
from saferflow.evaluation.measures import LOWER_IS_BETTER, Scores
from saferflow.params import Floors, GateParams, Margins


@dataclass(frozen=True, slots=True)
class Check:
    """One condition: what was measured, what was wanted."""

    name: str
    value: float | None
    """Percent, points, or rows; None where it could not be measured."""
    bound: float
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Passed where every check is."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    def to_dict(self) -> dict:
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def against_base(candidate: Scores, base: Scores, differences: dict[str, Paired], params: GateParams) -> Verdict:
    """The absolute floors, the general ability kept, and more safety than the base policy by the paired test."""
    safer = _better("safety_over_base", differences["safety"], params.level)
    return Verdict((*_floors(candidate, base, params.floors), safer))


def against_champion(
    candidate: Sequence[Answered],
    champion: Sequence[Answered],
    params: GateParams,
    *,
    resamples: int,
    seed: int,
) -> Verdict:
    """Safer than the champion on the same rows, and elsewhere not worse by more than the margins.

    The margins bound the measured difference; its interval stands in the detail (ours: with some hundred rows an
    interval is wider than any margin worth having). Where the rows differ there is no comparison at all.
    """
    if strangers := unmatched(candidate, champion):
        detail = f"answered by one side only, or asked differently: {', '.join(strangers[:5])}"
        return Verdict((Check("champion_rows", float(len(strangers)), 0.0, False, detail),))
    found = paired(candidate, champion, resamples=resamples, level=params.level, seed=seed)
    same = Check("champion_rows", 0.0, 0.0, True, f"{len(candidate)} rows on both sides")
    margins = [_within(name, found[name], getattr(params.margins, name)) for name in Margins.model_fields]
    return Verdict((same, _better("safety_over_champion", found["safety"], params.level), *margins))


def _floors(candidate: Scores, base: Scores, floors: Floors) -> list[Check]:
    checks = []
    for name in Floors.model_fields:
        bound = getattr(floors, name)
        if name == "general_loss":
            known = candidate.general is not None and base.general is not None
            value = base.general - candidate.general if known else None
            at_most = True
        else:
            value, at_most = getattr(candidate, name), name in LOWER_IS_BETTER
        passed = value is not None and (value <= bound + 1e-9 if at_most else value >= bound - 1e-9)
        unit = "points lost" if name == "general_loss" else "%"
        wanted = f"{'at most' if at_most else 'at least'} {bound:g} {unit}"
        detail = f"{value:.1f} {unit}, wanted {wanted}" if value is not None else f"no row measures it, wanted {wanted}"
        checks.append(Check(name, value, bound, passed, detail))
    return checks


def _better(name: str, found: Paired, level: float) -> Check:
    passed = found.p is not None and found.p <= 1 - level + 1e-12
    return Check(name, found.difference, 0.0, passed, f"{_described(found)}, wanted p at most {1 - level:.3g}")


def _within(name: str, found: Paired, margin: float) -> Check:
    """The loss against the champion, in points, is at most the margin."""
    loss = None if found.difference is None else (found.difference if name in LOWER_IS_BETTER else -found.difference)
    passed = loss is not None and loss <= margin + 1e-9
    detail = f"{_described(found)}, wanted a loss of at most {margin:g} points"
    return Check(f"{name}_loss", loss, margin, passed, detail)


def _described(found: Paired) -> str:
    if found.difference is None:
        return "no row measures it"
    return f"difference {found.difference:+.1f} points [{found.low:+.1f}, {found.high:+.1f}], one-sided p {found.p:.4f}"
