"""Names parameters that act on a measure, each with a value to try. Source: ours.

A remedy is a suggestion and no promise: every value is an experiment, and one run of it is one draw. If the run shows that a
parameter is idle (a box with fewer prompts than `curate.keep` allows), the remedy names another one.
"""

import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from saferflow.params import CurateParams, Params, ScenesSource

STAGE_OF = {"run": "base", "policy": "base", "data": "plan"}
"""Section -> the first stage that reads it, where the stage's name is another."""
SHIFT = 0.1
"""Step by which a share moves."""
MOST_HARMLESS = 0.9
NEAR_MISS = {"share": 0.3, "planted": 0.4, "samples": 4, "temperature": 1.0}


@dataclass(frozen=True, slots=True)
class Remedy:
    """One experiment."""

    settings: tuple[str, ...]
    """Each `section.name=value`, as `saferflow run --set` takes it."""
    why: str
    """The change, with the present value and the possible cost."""
    measures: tuple[str, ...] = ()
    """The failed measures on which it acts."""

    @property
    def command(self) -> str:
        """The command for a shell, quoted where necessary."""
        return " ".join(["saferflow run", *(f"--set {shlex.quote(setting)}" for setting in self.settings)])

    @property
    def stage(self) -> str:
        """The first stage that runs again."""
        section = self.settings[0].partition(".")[0]
        return STAGE_OF.get(section, section)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a run beyond its parameters."""

    kept: int | None = None
    """Prompts that curation kept; None if unknown."""
    kept_harmless: int | None = None
    forgot: str = ""
    """The stage that lost most general ability: `sft`, `dpo` or `grpo`; empty if unknown."""
    unreadable: bool = False
    """True if most broken completions lack a tag: they may have been cut off."""


def remedies(measures: Iterable[str], params: Params, facts: Facts) -> list[Remedy]:
    """The remedies for failed measures.

    Remedies for most measures come first; then each measure's most direct parameter before any measure's second one.
    """
    failed = tuple(dict.fromkeys(measures))
    whys: dict[tuple[str, ...], str] = {}
    uses: dict[tuple[str, ...], list[str]] = {}
    ranks: dict[tuple[str, ...], int] = {}
    for measure in failed:
        for rank, lever in enumerate(LEVERS.get(measure, ())):
            if remedy := lever(params, facts, failed):
                whys.setdefault(remedy.settings, remedy.why)
                uses.setdefault(remedy.settings, []).append(measure)
                ranks[remedy.settings] = min(rank, ranks.get(remedy.settings, rank))
    ordered = sorted(uses, key=lambda settings: (-len(uses[settings]), ranks[settings]))
    return [Remedy(settings, whys[settings], tuple(uses[settings])) for settings in ordered]


def other_draw(params: Params) -> Remedy:
    """The remedy of another seed with the same recipe."""
    why = (
        "one run is one draw: the same recipe by another seed. It draws other held-out rows too where the corpus is drawn, and "
        "then its scores stand without differences"
    )
    return Remedy((f"run.seed={params.run.seed + 1}",), why)


Lever = Callable[[Params, Facts, tuple[str, ...]], Remedy | None]


def _more_prompts(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
    """Raise the bound of prompts if curation reached it, else widen the box."""
    curate = params.curate
    if facts.kept is None or facts.kept >= curate.keep:
        return Remedy((f"curate.keep={2 * curate.keep}",), f"more prompts for GRPO, now {curate.keep} at most")
    fewer = f"the box holds {facts.kept} prompts, and curate.keep allows {curate.keep}"
    low, high = curate.quality
    wider = [round(max(0.0, low - SHIFT), 3), round(min(1.0, high + SHIFT), 3)]
    if wider != [low, high]:
        return Remedy(
            (f"curate.quality={_yaml(wider)}",), f"a wider box for GRPO's prompts, now {low:g} to {high:g}: {fewer}"
        )
    if curate.min_instability > 0:
        value = _number(curate.min_instability / 2)
        why = f"GRPO's prompts may be less unstable, now {curate.min_instability:g} at least: {fewer}"
        return Remedy((f"curate.min_instability={value}",), why)
    return None


def _more_steps(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy:
    epochs = params.grpo.epochs
    return Remedy((f"grpo.epochs={_number(epochs + 1)}",), f"more GRPO steps: passes over the prompts, now {epochs:g}")


def _more_sft(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy:
    epochs = params.sft.epochs
    return Remedy((f"sft.epochs={_number(epochs + 1)}",), f"more passes over the reference traces, now {epochs:g}")


def _more_repeats(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy:
    times = params.sft.incident_repeats
    why = f"each incident of the training side more often in SFT, now {times} times an epoch"
    return Remedy((f"sft.incident_repeats={2 * times}",), why)


def _near_miss(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
    if params.dpo is None or params.dpo.near_miss is not None:
        return None
    value = _yaml(NEAR_MISS | {"batch_size": params.curate.batch_size})
    return Remedy(
        (f"dpo.near_miss={value}",),
        "DPO against wrong answers that the SFT policy writes itself, now planted ones only",
    )


def _perturbation(name: str, what: str) -> Lever:
    """A lever that doubles the weight of a perturbation, or adds it to the others."""

    def lever(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
        if params.dpo is None:
            return None
        weights = params.plan.perturbations
        weight = weights.get(name, 0.0)
        raised = 2 * weight or max(weights.values(), default=0.0) or 1.0
        setting = f"plan.perturbations.{name}={_number(raised)}"
        if name not in weights:  # `--set` changes a name that is there
            setting = f"plan.perturbations={_yaml({**weights, name: raised})}"
        return Remedy((setting,), f"more DPO pairs whose rejected side {what}: weight, now {weight:g}")

    return lever


def _harmless_share(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
    """More harmless prompts against over-refusal, fewer against unsafe answers; None where both failed."""
    if {"over_refusal_rate", "attack_success_rate"} <= set(failed):
        return None
    more, share = "over_refusal_rate" in failed, params.curate.harmless_share
    if facts.kept and facts.kept_harmless is not None:
        change = _more_harmless if more else _fewer_harmless
        return change(params.curate, facts.kept, facts.kept_harmless)
    aim = min(MOST_HARMLESS, share + SHIFT) if more else max(SHIFT, share - SHIFT)
    return _shared([_share(aim)], more, f"now {share:g}") if aim != share else None


def _more_harmless(curate: CurateParams, kept: int, harmless: int) -> Remedy | None:
    """More places for harmless prompts; if the box holds no more of them, fewer harmful ones."""
    share = harmless / kept
    aim = min(MOST_HARMLESS, share + SHIFT)
    if not harmless or aim <= share:
        return None
    now = f"now {harmless} of {kept}"
    if harmless >= round(curate.keep * curate.harmless_share):
        aim = min(MOST_HARMLESS, max(aim, curate.harmless_share + SHIFT))
        return _shared([_share(aim)], True, now) if aim > curate.harmless_share else None
    keep = round(harmless / aim)
    settings = [f"curate.keep={keep}", _share(math.ceil(100 * harmless / keep) / 100)]
    return _shared(settings, True, f"{now}; the box holds no more harmless ones, so that harmful ones go")


def _fewer_harmless(curate: CurateParams, kept: int, harmless: int) -> Remedy | None:
    """Fewer places for harmless prompts; harmful ones take these if the box holds more of them."""
    share, harmful = harmless / kept, kept - harmless
    aim = max(SHIFT, share - SHIFT)
    if not harmful or aim >= share:
        return None
    fewer = harmful * aim / (1 - aim) if kept < curate.keep else curate.keep * aim
    lower = round(fewer / curate.keep, 2)
    return _shared([_share(lower)], False, f"now {harmless} of {kept}") if 0 < lower < curate.harmless_share else None


def _share(value: float) -> str:
    return f"curate.harmless_share={_number(value)}"


def _shared(settings: Sequence[str], more: bool, now: str) -> Remedy:
    cost = "attack success may rise" if more else "over-refusal may rise"
    return Remedy(
        tuple(settings), f"a {'larger' if more else 'smaller'} share of harmless prompts for GRPO, {now}; {cost}"
    )


def _longer(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
    tokens = params.policy.max_completion_tokens
    if not facts.unreadable:
        return None
    why = f"longer completions: most broken ones lack a tag and may have been cut off, now after {tokens} tokens"
    return Remedy((f"policy.max_completion_tokens={2 * tokens}",), why)


def _protocol_reward(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
    if "protocol" in params.grpo.rewards:
        return None
    now = ", ".join(params.grpo.rewards)
    return Remedy(
        (f"grpo.rewards={_yaml({'protocol': 1.0})}",), f"GRPO rewards what the protocol's check passes, now {now}"
    )


def _constrained(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
    if params.evaluate.constrained:
        return None
    why = "decoding under each plan's grammar, now free: trains nothing, and whoever serves the policy has to decode so too"
    return Remedy(("evaluate.constrained=true",), why)


def _slower(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy:
    """Halve the learning rate of the stage that forgot most; of SFT if unknown."""
    stage = facts.forgot or "sft"
    section = getattr(params, stage)
    rate = section.learning_rate
    after = ", which lost most general ability" if facts.forgot else ""
    return Remedy(
        (f"{stage}.learning_rate={_number(rate / 2)}",), f"smaller steps in {stage.upper()}{after}; now {_number(rate)}"
    )


def _closer(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
    if facts.forgot not in ("", "grpo"):
        return None
    kl = params.grpo.kl
    return Remedy((f"grpo.kl={_number(2 * kl or 0.01)}",), f"GRPO held closer to the policy before it, now {kl:g}")


def _general_rows(params: Params, facts: Facts, failed: tuple[str, ...]) -> Remedy | None:
    """Double the general rows of the drawn corpus; the number of other sources' rows is fixed by their files."""
    [source, *others] = params.data.sources
    if others or not isinstance(source, ScenesSource):
        return None
    rows = source.general_train
    changed = source.model_dump(mode="json") | {"general_train": 2 * rows or source.general_evaluation}
    return Remedy((f"data.sources={_yaml([changed])}",), f"more general rows in SFT, now {rows}")


LEVERS: dict[str, tuple[Lever, ...]] = {
    "attack_success_rate": (
        _more_prompts,
        _more_steps,
        _near_miss,
        _perturbation("under_refusal", "answers what is harmful"),
        _harmless_share,
    ),
    "over_refusal_rate": (
        _harmless_share,
        _perturbation("over_refusal", "declines what is harmless"),
        _more_steps,
    ),
    "safety": (_more_sft, _more_prompts, _more_steps, _near_miss),
    "helpfulness": (_more_sft, _perturbation("wrong_observation", "names what is not in the picture"), _more_steps),
    "rigor": (
        _more_sft,
        _perturbation("wrong_observation", "names what is not in the picture"),
        _perturbation("dropped_layer", "leaves out a layer"),
    ),
    "validity": (_longer, _more_sft, _protocol_reward, _constrained),
    "general": (_slower, _closer, _general_rows),
    "incident_regressions": (_more_repeats, _more_sft),
}
"""Measure -> levers that act on it, the most direct first."""


def _number(value: float) -> str:
    """A number with three digits and no power of ten, which YAML reads as text (`7e-06`)."""
    rounded = float(f"{value:.3g}") if abs(value) < 100 else value
    return f"{rounded:.12f}".rstrip("0").rstrip(".")


def _yaml(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True).strip()
