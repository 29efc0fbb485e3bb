"""The model families that a policy may be of, and the names that differ between them. Source: ours."""

from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from saferflow.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture, with the names of its parts in checkpoints and transformers."""

    kind: str
    """`model_type` in a checkpoint's config.json."""
    title: str
    """The name that people use."""
    tower: str
    """The vision tower's path in the whole model."""
    placeholders: tuple[str, ...]
    """Fields of the configuration with ids that stand for pictures; a policy must not sample them."""

    def vision(self, model: PreTrainedModel) -> nn.Module:
        """The vision tower of a whole model, without adapters around it."""
        return model.get_submodule(self.tower)

    def placeholder_ids(self, config: PretrainedConfig) -> list[int]:
        """Token ids that stand for pictures, in the order of `placeholders`."""
        return [getattr(config, name) for name in self.placeholders]


QWEN2_5_VL = Family("qwen2_5_vl", "Qwen2.5-VL", "model.visual", ("image_token_id", "video_token_id"))
FAMILIES = {family.kind: family for family in (QWEN2_5_VL,)}


def family_of(config: PretrainedConfig, where: str = "the model") -> Family:
    """The family of a model's configuration.

    Args:
        where: folder or checkpoint that the configuration is from, for the error.

    Raises:
        PolicyError: no policy can be of this kind.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(f"{family.kind} ({family.title})" for family in FAMILIES.values())
        raise PolicyError(
            f"{where} is a {config.model_type}; set policy.base to a checkpoint of a kind that works: {known}"
        )
    return family
