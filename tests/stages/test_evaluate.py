"""Stage `evaluate` without a model: what is kept, and what is taken up again after a break."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from saferflow.data.rows import Labels, PromptRow
from saferflow.judge.rubrics import Grades
from saferflow.params import load_params
from saferflow.stages.evaluate import _examined, _key
from saferflow.training.homes import shelf

PARAMS = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
PARAMS = PARAMS.model_copy(update={"evaluate": PARAMS.evaluate.model_copy(update={"batch_size": 2})})
LABELS = Labels("safety", "none", 0, "none", "none", "answer").to_json()


def row(name: str, question: str) -> PromptRow:
    return PromptRow(name, "scenes", "safety", None, "", question, "", LABELS)


DIALOGUES = [[row(f"d{number}", "q"), row(f"d{number}-2", "q\nand then?")][: 1 + number % 2] for number in range(5)]
"""Of one and two turns: seven rows, in batches of 2, 2, 1 and then 2."""


class Counting:
    """Counts what it is asked; breaks off at the grade `stop`."""

    identity = "counting"

    def __init__(self, stop: int = 99):
        self.stop, self.graded = stop, []

    def prepare(self, what, items):
        """Nothing to do ahead."""

    def grade(self, item):
        if len(self.graded) == self.stop:
            raise KeyboardInterrupt
        self.graded.append(item.completion)
        return Grades(len(item.completion) % 7 - 3, 1, 1, False, item.completion)


def run(file, *, draws: int = 99, grades: int = 99):
    """The answered rows (None where the run broke off), the prompts that were drawn, and what was graded."""
    drawn, judge = [], Counting(grades)

    def draw(batches):
        for batch in batches:
            if len(drawn) == draws:
                raise KeyboardInterrupt
            drawn.append([(prompt.question, prompt.earlier) for prompt in batch.prompts])
            yield [[f"Answer to {prompt.question!r} after {prompt.earlier}."] for prompt in batch.prompts]

    answered = None
    with suppress(KeyboardInterrupt):
        answered = _examined("p", DIALOGUES, draw, judge, PARAMS, planned=False, file=file)
    return answered, drawn, judge.graded


@pytest.mark.parametrize("place", [{"draws": n} for n in range(4)] + [{"grades": n} for n in range(7)])
def test_after_a_break_nothing_that_is_kept_is_drawn_or_graded_again(tmp_path, place):
    whole, all_drawn, all_graded = run(None)
    assert [one.row for one in whole] == ["d0", "d1", "d2", "d3", "d4", "d1-2", "d3-2"]
    assert all_drawn[3][0] == ("and then?", (("q", "Answer to 'q' after ()."),))
    file = tmp_path / "home" / "graded.jsonl"
    broken, drawn, graded = run(file, **place)
    assert broken is None
    kept = sum(len(line.split('"row":')) - 1 for line in file.read_text().splitlines())
    assert len(graded) - 2 < kept <= len(graded)
    again, drawn_again, graded_again = run(file)
    assert again == whole
    assert drawn + drawn_again == all_drawn
    assert graded_again == all_graded[kept:]
    assert run(file) == (whole, [], [])


def test_another_row_judge_or_parameter_is_another_key():
    def key(judge="j", asked=DIALOGUES, params=PARAMS):
        return _key(["policy", "p", True, False, judge], asked, params)

    other = PARAMS.model_copy(update={"evaluate": PARAMS.evaluate.model_copy(update={"batch_size": 3})})
    changed = [[replace(DIALOGUES[0][0], image=b"picture")], *DIALOGUES[1:]]
    apart = [[one] for turns in DIALOGUES for one in turns]
    keys = [key(), key("k"), key(asked=changed), key(asked=DIALOGUES[:4]), key(asked=apart), key(params=other)]
    assert len(set(keys)) == len(keys)
    assert key() == key(asked=[list(turns) for turns in DIALOGUES])


def test_a_shelf_is_for_one_process_and_goes_when_its_work_is_done(tmp_path):
    with suppress(KeyboardInterrupt), shelf("evaluate", tmp_path) as folder:
        (folder / "batch").parent.mkdir()
        (folder / "batch").touch()
        raise KeyboardInterrupt
    assert (folder / "batch").exists()
    with shelf("evaluate", tmp_path) as folder, shelf("evaluate", tmp_path) as second:
        assert second is None
        assert (folder / "batch").exists()
    assert not folder.exists()
