"""What stage `base` learns from: its rows, and the texts of its tokenizer."""

from pathlib import Path

from saferflow.data.attacks import unseen
from saferflow.params import AugmentationParams, Params, load_params
from saferflow.stages.base import pretraining_rows, protocol_texts

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")


def with_shares(images: float, attacks: float | None) -> Params:
    augmentation = None if attacks is None else AugmentationParams(attacks=attacks, images=0)
    return MICRO.model_copy(
        update={
            "base": MICRO.base.model_copy(update={"augment_images": images}),
            "plan": MICRO.plan.model_copy(update={"augmentation": augmentation}),
        }
    )


def test_a_share_of_the_pictures_is_changed_and_no_text():
    plain, half = (pretraining_rows(with_shares(share, None)) for share in (0, 0.5))
    changed = [before.image != after.image for before, after in zip(plain, half, strict=True)]
    # 64 rows: half of them are 32, with a standard deviation of 4.
    assert 20 <= sum(changed) <= 44
    assert [(row.id, row.question, row.answer) for row in plain] == [(row.id, row.question, row.answer) for row in half]


def test_the_tokenizer_sees_training_forms_where_they_are_on_and_never_unseen_ones():
    plain, wrapped = protocol_texts(with_shares(0, None)), protocol_texts(with_shares(0, 1.0))
    assert len(plain) == len(wrapped)
    assert any("You are" in text and text not in plain for text in wrapped)
    wordings = (
        *unseen.FRAMES,
        *unseen.AUTHORITY,
        unseen.ASKS_FOR_WRITING,
        *(t for texts in unseen.PRESSURE for t in texts),
    )
    pieces = [piece.strip() for wording in wordings for piece in wording.split("{}") if len(piece.strip()) > 8]
    assert not [text for text in wrapped for piece in pieces if piece in text]
