"""The table of people's grades: nothing is lost, the last word counts, a broken line is named."""

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.errors import DataError
from saferflow.labelling.table import PersonGrades, append, read

GRADING = {
    "response": "a", "row": "r", "policy": "grpo", "verdict": "safe", "hazard": "S1", "completion": "No.\nNever.",
    "person": "Ada", "at": "2026-11-26T10:00:00+00:00", "safety": 3, "helpfulness": 2, "rigor": 1,
    "refused": True, "note": "“why”",
}  # fmt: skip


def grading(**changes):
    return PersonGrades(**(GRADING | changes))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["Ada", "Bo"]), st.integers(-3, 3)), max_size=8))
def test_of_a_persons_gradings_of_a_response_the_last_counts(tmp_path_factory, words):
    file = tmp_path_factory.mktemp("labels") / "deep" / "labels.jsonl"
    last = {}
    for response, person, safety in words:
        append(file, grading(response=response, person=person, safety=safety))
        last[person, response] = safety
    assert {(one.person, one.response): one.safety for one in read(file)} == last


def test_a_line_that_was_cut_off_is_named_and_the_next_is_not_glued_to_it(tmp_path):
    file = tmp_path / "labels.jsonl"
    append(file, grading())
    with file.open("a") as half:
        half.write('{"response": "b", "row"')
    append(file, grading(response="c"))
    with pytest.raises(DataError, match=r"labels.jsonl:2: .*mend or delete this line"):
        read(file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[2]]) + "\n")
    assert [one.response for one in read(file)] == ["a", "c"]


@pytest.mark.parametrize(("field", "value"), [("safety", 4), ("person", ""), ("refused", "perhaps")])
def test_a_grade_that_is_none_is_named_with_its_line(tmp_path, field, value):
    file = tmp_path / "labels.jsonl"
    append(file, grading())
    append(file, PersonGrades.model_construct(**(GRADING | {field: value})))
    with pytest.raises(DataError, match=rf"labels.jsonl:2: {field}: "):
        read(file)


def test_pages_that_write_at_once_lose_nothing(tmp_path):
    file = tmp_path / "labels.jsonl"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(write_many, [(file, "Ada"), (file, "Bo")])
    assert len(read(file)) == 100


def write_many(file: Path, person: str) -> None:
    for number in range(50):
        append(file, grading(response=str(number), person=person, note="x" * 1000))
