"""Training curves: in order, complete at the end, and never in the way of training."""

import pytest

from saferflow.tracking import live


class Store:
    """Stands in for MLflow's client: keeps batches, and is away when told so."""

    def __init__(self):
        self.batches = []
        self.away = False

    def log_batch(self, run, metrics):
        if self.away:
            raise ConnectionError("away")
        self.batches.append([(run, metric.key, metric.value, metric.step) for metric in metrics])

    def points(self):
        return [point for batch in self.batches for point in batch]


@pytest.fixture
def curve():
    curve = live._Curve("run")
    curve._client = Store()
    return curve


def test_points_go_in_batches_and_all_of_them_at_the_end(curve):
    for step in range(live.POINTS + 5):
        curve.add({"loss": float(step)}, step)
    assert [len(batch) for batch in curve._client.batches] == [live.POINTS]
    curve.send(last=True)
    assert curve._client.points() == [("run", "loss", float(step), step) for step in range(live.POINTS + 5)]


def test_a_tracker_that_is_away_costs_nothing_but_time(curve, capsys):
    curve._client.away = True
    for step in range(3 * live.POINTS):
        curve.add({"loss": 1.0}, step)
    curve._client.away = False
    curve.send(last=True)
    assert len(curve._client.points()) == 3 * live.POINTS
    assert capsys.readouterr().err.count("wait") == 1, "it is said once"


def test_a_request_holds_no_more_than_the_store_takes(curve):
    curve._client.away = True
    for step in range(2 * live.BATCH):
        curve.add({"loss": 1.0}, step)
    curve._client.away = False
    curve.send()
    assert [len(batch) for batch in curve._client.batches] == [live.BATCH, live.BATCH]


def test_what_is_no_number_is_left_out(curve):
    curve.add({"loss": float("nan"), "reward": float("inf"), "kl": 0.1}, 1)
    curve.send()
    assert curve._client.points() == [("run", "kl", 0.1, 1)]


def test_without_a_run_it_says_so_once_and_keeps_nothing(capsys):
    curve = live._Curve(None)
    curve.add({"loss": 1.0}, 0)
    curve.add({"loss": 1.0}, 1)
    curve.send(last=True)
    assert curve._waiting == []
    assert capsys.readouterr().err.count("no MLFLOW_RUN_ID") == 1


def test_what_could_not_be_sent_at_the_end_waits_in_a_file_and_goes_later(curve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = curve._client
    store.away = True
    curve.add({"loss": 1.0}, 1)
    assert not curve.send(last=True)
    made = live._Curve

    def of_store(run):
        later = made(run)
        later._client = store
        return later

    monkeypatch.setattr(live, "_Curve", of_store)
    live.send_left("run")
    assert store.points() == [], "the tracker is away still"
    store.away = False
    live.send_left("run")
    assert store.points() == [("run", "loss", 1.0, 1)]
    assert not list(live.LEFT.iterdir())
    live.send_left("run")
    assert len(store.points()) == 1, "once"
