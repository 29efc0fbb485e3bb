"""What a run keeps of a stage's numbers."""

import pytest

from saferflow.tracking import runs


class Store:
    """Stands in for MLflow's client: keeps metrics."""

    def __init__(self):
        self.metrics = {}

    def log_batch(self, run, metrics):
        self.metrics |= {metric.key: metric.value for metric in metrics}


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(runs, "client", lambda: store)
    return store


def test_an_interval_becomes_its_two_ends(store):
    runs.log_numbers("run", {"policies": {"sft": {"safety": 79.5}}, "intervals": {"sft": {"safety": [75, 84.25]}}})
    assert store.metrics == {
        "policies.sft.safety": 79.5,
        "intervals.sft.safety.low": 75.0,
        "intervals.sft.safety.high": 84.25,
    }


def test_what_no_row_measures_is_left_out(store):
    """Rows of one's own hold no general questions: their score is None and its interval a pair of them."""
    runs.log_numbers("run", {"rows": 152, "general": None, "intervals": {"general": [None, None]}})
    assert store.metrics == {"rows": 152.0}
