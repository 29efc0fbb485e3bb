"""Stage `curate`: QI-Box, which keeps the GRPO prompts of moderate quality and high instability.

Reads models/dpo, data/tables/grpo.parquet. Writes data/curated.parquet,
reports/box.svg. The judge reads while the policy writes. Killed, it goes on with the batch that it was at.

Source: SaFeR-VLM's QI-Box [V]; scores, bounds, the strata (hazard, severity and risk source) and solved prompts are ours.
"""

import shutil
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from saferflow.data.rows import Labels, PromptRow
from saferflow.data.tables import read_table, write_table
from saferflow.errors import DataError
from saferflow.layout import MODELS, PROMPTS, TABLES
from saferflow.params import CurateParams, load_params
from saferflow.protocol.hazards import NONE
from saferflow.stages.entry import imports, run_stage
from saferflow.stages.metrics import write_metrics

POLICY = MODELS / "dpo"
TABLE = TABLES / "grpo.parquet"
PICTURE = Path("reports/box.svg")

Stratum = tuple[str, ...]
"""Hazard, severity and risk source."""
JUDGED = 2
"""Rewards without which a prompt has no spread."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A prompt with the rewards of its sampled completions, each in [0, 1], None where the judge gave no marks."""

    row: PromptRow
    rewards: tuple[float | None, ...]

    @property
    def judged(self) -> bool:
        """Quality and spread can be told: at least two completions have a reward."""
        return len(self._known) >= JUDGED

    @property
    def quality(self) -> float:
        """Mean reward; only of a prompt that is `judged`."""
        return statistics.fmean(self._known)

    @property
    def instability(self) -> float:
        """Standard deviation of the rewards; only of a prompt that is `judged`."""
        return statistics.pstdev(self._known)

    @property
    def _known(self) -> tuple[float, ...]:
        return tuple(reward for reward in self.rewards if reward is not None)

    @property
    def harmless(self) -> bool:
        """Whether the row has no hazard."""
        return Labels.from_json(self.row.labels).hazard == NONE

    @property
    def resembling(self) -> bool:
        """Harmless, and its labels say what it resembles."""
        return bool(Labels.from_json(self.row.labels).resembles)

    @property
    def stratum(self) -> Stratum:
        """Hazard, severity and risk source: those of the row, or those that a harmless row resembles."""
        labels = Labels.from_json(self.row.labels)
        return labels.resembles or (labels.hazard, str(labels.severity), labels.risk_source)


def main() -> None:
    """Run the stage."""
    params = load_params()

    with imports():
        from saferflow.evaluation.box import draw_box
        from saferflow.judge.ahead import read_ahead
        from saferflow.judge.choice import judge_of
        from saferflow.rewards.judged import judged_ahead, reward_functions, weighted
        from saferflow.training.engines import sampler
        from saferflow.training.generate import Prompt
        from saferflow.training.homes import delete_others, home
        from saferflow.training.policy import load_processor
        from saferflow.training.preflight import fitting
        from saferflow.training.samples import sampled

    everything = read_table(TABLE, PromptRow)
    processor, most = load_processor(POLICY, params.policy), params.curate.max_prompt_tokens
    rows = fitting("curate", "curate.max_prompt_tokens", processor, everything, most)
    judge = judge_of(params.judge)
    functions = reward_functions(params.grpo, judge, rows)
    ahead = judged_ahead(params.grpo, judge, rows, reflected=False)
    kept_at = home("curate", [TABLE, POLICY], [params.policy, params.curate], params.run.seed)
    delete_others(kept_at)
    draw = sampler(POLICY, params, params.curate.samples, params.curate.temperature)
    prompts = [Prompt.of(row) for row in rows]
    size = params.curate.batch_size
    samples = zip(rows, sampled(kept_at / "samples.jsonl", prompts, size, params.run.seed, draw), strict=True)

    def prepare(batch: Sequence[tuple[PromptRow, list[str]]]) -> None:
        drawn = [(row.id, text) for row, texts in batch for text in texts]
        ahead([row for row, _ in drawn], [text for _, text in drawn])

    scored = []
    for batch in read_ahead(iter(lambda: list(islice(samples, size)), []), prepare):
        for row, completions in batch:
            columns = {name: [value] * len(completions) for name, value in row.columns().items()}
            turns = [[{"role": "assistant", "content": text}] for text in completions]  # as GRPO's trainer hands them over
            rewards = weighted(functions, params.grpo.rewards, completions=turns, **columns)
            scored.append(Scored(row, tuple(rewards)))
            if len(scored) % (4 * size) == 0 or len(scored) == len(rows):
                print(f"curate  {len(scored):,} of {len(rows):,} prompts", flush=True)
    kept = filled_box(scored, params.curate)
    write_table(PROMPTS, [item.row for item in kept], PromptRow)
    chosen = {item.row.id for item in kept}
    draw_box(
        PICTURE,
        [(item.quality, item.instability, item.row.id in chosen) for item in scored if item.judged],
        params.curate.quality,
        params.curate.min_instability,
    )
    too_long = {"prompts_too_long": len(everything) - len(rows)}
    write_metrics("curate", summary(scored, kept, params.curate) | too_long)
    shutil.rmtree(kept_at)


def filled_box(scored: Sequence[Scored], params: CurateParams) -> list[Scored]:
    """The prompts of `box`.

    Raises:
        DataError: there are none.
    """
    if not any(item.judged for item in scored):
        raise DataError(
            f"curate: the judge gave marks to fewer than {JUDGED} completions of each of the {len(scored):,} prompts; see "
            "whether its answers can be read (saferflow judge), or choose another judge"
        )
    kept = box(scored, params)
    if not kept:
        low, high = params.quality
        raise DataError(
            f"curate: no prompt has a mean reward in [{low}, {high}] and enough spread; "
            "widen curate.quality or lower curate.min_instability"
        )
    return kept


def box(scored: Sequence[Scored], params: CurateParams) -> list[Scored]:
    """The prompts inside the box, the most unstable first, and solved prompts beside them, in the order of their ids.

    One that the judge left without marks is not among them.

    `harmless_share` of the places go to harmless prompts: dealt by hazard alone they would be one stratum of many, and
    the policy would learn to refuse. On both sides the places are dealt evenly to the strata, and a stratum gets no more harmless
    prompts that resemble it than harmful ones that are in it: else GRPO answers that kind of request. `solved_share` of the
    places go to prompts whose quality is above the box, in the strata that have the fewest.
    """
    low, high = params.quality
    judged = [item for item in scored if item.judged]
    ranked = sorted(judged, key=lambda item: (-item.instability, item.row.id))
    inside = [item for item in ranked if low <= item.quality <= high and item.instability >= params.min_instability]
    solved = [item for item in ranked if item.quality > high]
    places = round(params.keep * params.harmless_share)
    harmful = _side(inside, solved, False, params.keep - places, params.solved_share, {})
    balance = {item.stratum: 0 for item in ranked if item.resembling} | Counter(item.stratum for item in harmful)
    harmless = _side(inside, solved, True, places, params.solved_share, balance)
    return sorted([*harmless, *harmful], key=lambda item: item.row.id)


def _side(
    inside: Sequence[Scored],
    solved: Sequence[Scored],
    harmless: bool,
    places: int,
    solved_share: float,
    most: Mapping[Stratum, int],
) -> list[Scored]:
    """The prompts kept of one side, harmless or harmful; of a stratum at most as many as `most` says, where it says."""
    taken: Counter[Stratum] = Counter()
    unstable = [item for item in inside if item.harmless == harmless]
    easy = [item for item in solved if item.harmless == harmless]
    return [
        *_deal(unstable, round(places * (1 - solved_share)), taken, most),
        *_deal(easy, round(places * solved_share), taken, most),
    ]


def _deal(items: Sequence[Scored], places: int, taken: Counter[Stratum], most: Mapping[Stratum, int]) -> list[Scored]:
    """Each place to the first item left of the stratum that has taken the fewest; `taken` counts on."""
    strata: dict[Stratum, list[Scored]] = defaultdict(list)
    for item in reversed(items):
        strata[item.stratum].append(item)
    dealt: list[Scored] = []
    while len(dealt) < places:
        open_ = [key for key, left in strata.items() if left and taken[key] < most.get(key, places)]
        if not open_:
            break
        stratum = min(open_, key=lambda key: (taken[key], key))
        dealt.append(strata[stratum].pop())
        taken[stratum] += 1
    return dealt


def summary(scored: Sequence[Scored], kept: Sequence[Scored], params: CurateParams) -> dict[str, float]:
    """The metrics of the stage."""
    judged = [item for item in scored if item.judged]
    rewards = [reward for item in scored for reward in item.rewards]
    return {
        "prompts": len(scored),
        "unjudged_prompts": len(scored) - len(judged),
        "unjudged_share": sum(reward is None for reward in rewards) / len(rewards),
        "kept": len(kept),
        "kept_harmless": sum(item.harmless for item in kept),
        "kept_solved": sum(item.quality > params.quality[1] for item in kept),
        "strata": len({item.stratum for item in kept}),
        "quality": statistics.fmean(item.quality for item in judged),
        "quality_kept": statistics.fmean(item.quality for item in kept),
        "instability": statistics.fmean(item.instability for item in judged),
        "instability_kept": statistics.fmean(item.instability for item in kept),
    }


if __name__ == "__main__":
    run_stage(main)
