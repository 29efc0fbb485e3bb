"""What a checkpoint folder must have to be gone on from."""

import json
import os
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments

from saferflow.training.checkpoints import IN_PROGRESS, MANIFEST, StopWhenAsked, damaged, latest, latest_of_all, seal


def written(where, step, **files):
    folder = where / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / IN_PROGRESS).touch()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_newest_whole_one_is_used_and_the_others_are_named(tmp_path, capsys):
    seal(written(tmp_path, 9, weights=b"nine"))
    seal(written(tmp_path, 10, weights=b"ten"))
    written(tmp_path, 11, weights=b"ele")
    (tmp_path / "checkpoint-10" / "weights").write_bytes(b"tan")
    assert latest(tmp_path) == tmp_path / "checkpoint-9"
    told = capsys.readouterr().out
    assert "checkpoint-11: not used, it was not finished" in told
    assert "checkpoint-10: not used, weights is not what was written" in told


@pytest.mark.parametrize(("name", "newest"), [("checkpoint-9", 9), ("", None)], ids=["one", "none"])
def test_a_process_that_follows_takes_the_checkpoint_that_the_leading_one_read_and_reads_none(
    tmp_path, monkeypatch, name, newest
):
    seal(written(tmp_path, 10, weights=b"ten"))
    monkeypatch.setattr("saferflow.training.checkpoints.from_leader", lambda text, compute: name)
    monkeypatch.setattr("saferflow.training.checkpoints.hash_of", None)  # a call of it would fail
    assert latest_of_all(tmp_path) == (tmp_path / f"checkpoint-{newest}" if newest else None)


def test_a_process_alone_reads_its_checkpoints(tmp_path):
    assert latest_of_all(tmp_path) is None
    seal(written(tmp_path, 10, weights=b"ten"))
    assert latest_of_all(tmp_path) == tmp_path / "checkpoint-10"


def test_without_any_there_is_none(tmp_path):
    assert latest(tmp_path / "nothing") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(content=st.binary(min_size=1, max_size=64), at=st.integers(0, 63), flip=st.integers(1, 255))
def test_any_changed_byte_is_found(tmp_path_factory, content, at, flip):
    folder = written(tmp_path_factory.mktemp("any"), 1, state=content, other=b"x")
    seal(folder)
    assert damaged(folder) == ""
    changed = bytearray(content)
    changed[at % len(content)] ^= flip
    (folder / "state").write_bytes(changed)
    assert damaged(folder) == "state is not what was written"
    (folder / "state").unlink()
    assert damaged(folder) == "state is missing"


@pytest.mark.parametrize("manifest", [b"", b"{", b"\xff", None])
def test_a_manifest_that_cannot_be_read_is_damage(tmp_path, manifest):
    folder = written(tmp_path, 1, state=b"x")
    seal(folder)
    (folder / MANIFEST).unlink()
    if manifest is not None:
        (folder / MANIFEST).write_bytes(manifest)
    assert MANIFEST in damaged(folder)


def test_sigterm_saves_and_stops_at_the_end_of_the_step_and_the_former_handler_comes_back(tmp_path):
    former = signal.getsignal(signal.SIGTERM)
    stop, control = StopWhenAsked(), TrainerControl()
    args, state = TrainingArguments(str(tmp_path), report_to=[]), TrainerState(global_step=3, max_steps=9)
    stop.on_step_end(args, state, control)
    assert not control.should_save
    os.kill(os.getpid(), signal.SIGTERM)
    stop.on_step_end(args, state, control)
    assert control.should_save
    assert control.should_training_stop
    stop.on_train_end(args, state, control)
    assert signal.getsignal(signal.SIGTERM) == former


def test_the_manifest_names_every_file(tmp_path):
    folder = written(tmp_path, 1, weights=b"w", state=b"s")
    seal(folder)
    assert sorted(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))) == ["state", "weights"]
