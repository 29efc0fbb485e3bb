"""Drift of served requests: the measure of `data drift`, over what the server counted."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from flows.retrain import DRIFTED, UNCHANGED, undisturbed
from saferflow.cli.drift import tell_served
from saferflow.errors import PipelineError
from saferflow.layout import PROFILE
from saferflow.params import StoreParams
from saferflow.serving.drift import ENOUGH, served_profile, served_shifts, trained_profile
from saferflow.serving.record import Record
from saferflow.serving.store import FILE, Served, Store
from tests.serving.written import WrittenPolicy, params_with, question, served

STORE = StoreParams(days=7, pictures=False, redact=())
TABLES = {
    "sft": {"hazard": {"none": 60, "S1": 10}, "decision": {"answer": 60, "refuse": 10}, "suspicion": {"none": 70},
            "question characters": {"32-63": 70}, "source": {"scenes": 70}},
    "dpo": {"hazard": {"none": 20, "S1": 10}, "decision": {"answer": 20, "refuse": 10}, "suspicion": {"none": 30},
            "question characters": {"32-63": 30}},
    "evaluation": {"hazard": {"S9": 500}, "decision": {"refuse": 500}},
}  # fmt: skip
ALIKE = [Served(1, "answer", "none", "none", 40, "")] * 160 + [Served(1, "refuse", "S1", "none", 40, "")] * 40
OTHERS = [Served(1, "", "S2", "S2", 2000, "T302 T101")] * 200


def keep(rows):
    store = Store(Path(FILE), STORE)
    for number, one in enumerate(rows):
        store.keep(f"{one.hazard}-{number}", b"{}", None, {}, one)


def test_requests_are_counted_by_aspect_and_a_withheld_one_has_no_decision():
    assert served_profile(OTHERS[:2]) == {
        "hazard": {"S2": 2},
        "suspicion": {"S2": 2},
        "question characters": {"1024-2047": 2},
        "violations": {"T101": 2, "T302": 2},
    }


def test_the_training_rows_are_those_of_the_training_tables_and_break_no_rule():
    trained = trained_profile(TABLES)
    assert trained["hazard"] == {"none": 80, "S1": 20}
    assert trained["violations"] == {"none": 100}
    assert "source" not in trained


def test_the_index_is_that_of_data_drift():
    shifts = {shift.aspect: shift for shift in served_shifts(trained_profile(TABLES), ALIKE)}
    # two bins: 80 and 20 of 100 rows, 160 and 40 of 200 requests; half a row is added to each bin
    old, new = [80.5 / 101, 20.5 / 101], [160.5 / 201, 40.5 / 201]
    expected = sum((now - was) * math.log(now / was) for was, now in zip(old, new, strict=True))
    assert shifts["hazard"].index == pytest.approx(expected)
    assert all(shift.verdict == "no shift" for shift in shifts.values())
    large = served_shifts(trained_profile(TABLES), OTHERS)
    assert {shift.aspect for shift in large if shift.verdict == "large shift"} == {
        "hazard", "suspicion", "question characters", "violations",
    }  # fmt: skip


def test_retrain_tells_someone_only_of_a_large_drift():
    trained = trained_profile(TABLES)
    assert undisturbed([]) == (UNCHANGED, "neither data nor code nor parameters changed since the last run")
    assert undisturbed(served_shifts(trained, ALIKE))[0] == UNCHANGED
    outcome, reason = undisturbed(served_shifts(trained, OTHERS))
    assert outcome == DRIFTED
    assert "S2 0.0% of the rows and 100.0% of the requests" in reason
    assert "saferflow incident add" in reason


def test_the_command_prints_the_kept_requests_against_the_tables_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = params_with(store=STORE)
    with pytest.raises(PipelineError, match=r"serve\.store is null"):
        tell_served(tmp_path, params_with(store=None), Console(quiet=True))
    with pytest.raises(PipelineError, match=f"holds 0 requests .* from {ENOUGH} on"):
        tell_served(tmp_path, params, Console(quiet=True))
    keep(ALIKE)
    with pytest.raises(PipelineError, match="saferflow run makes it"):
        tell_served(tmp_path, params, Console(quiet=True))
    Path(PROFILE).parent.mkdir()
    Path(PROFILE).write_text(json.dumps(TABLES))
    keep(OTHERS)
    console = Console(record=True, width=160)
    tell_served(tmp_path, params, console)
    told = console.export_text()
    assert "400 served requests" in told
    assert "S2 0.0 -> 50.0" in told


def test_the_metrics_show_the_index_from_enough_requests_on():
    record = Record(trained=trained_profile(TABLES))
    with served(WrittenPolicy(), record=record) as client:
        metrics = f"http://{client.base_url.netloc.decode()}/metrics"
        for _ in range(2):
            assert client.post("chat/completions", json=question("Where is it?")).status_code == 200
        before = client.get(metrics).text
        assert "saferflow_drift_requests 2.0" in before
        assert "saferflow_drift_index{" not in before
        for one in OTHERS:
            record.count(one)
        lines = dict(line.rpartition(" ")[::2] for line in client.get(metrics).text.splitlines())
    assert float(lines['saferflow_drift_index{aspect="hazard"}']) > 0.25
    assert float(lines["saferflow_drift_requests"]) == 202
