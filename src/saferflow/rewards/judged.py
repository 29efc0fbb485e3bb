"""The reward that a stage's params name, fed by a judge's marks."""

from collections.abc import Callable

from saferflow.data.rows import Labels, PromptRow
from saferflow.judge.rubrics import Item, Judge
from saferflow.params import GRPOParams
from saferflow.protocol.plan import Plan
from saferflow.rewards.protocol import protocol_reward
from saferflow.rewards.toolkit import toolkit_reward

Reward = Callable[[PromptRow, str], float]
"""The reward in [0, 1] of one completion of a prompt."""


def judged_reward(params: GRPOParams, judge: Judge) -> Reward:
    """A judge that cannot be reached raises; it never becomes a reward."""

    def reward(row: PromptRow, completion: str) -> float:
        marks = judge.marks(Item(row.question, row.image, Labels.from_json(row.labels), completion))
        if params.reward == "toolkit":
            return toolkit_reward(completion, marks, params.reward_weights).overall
        return protocol_reward(Plan.from_json(row.plan), completion, marks, params.reward_weights).overall

    return reward
