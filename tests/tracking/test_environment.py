"""Where records are kept, and that nothing phones home."""

import pytest

from saferflow.errors import PipelineError
from saferflow.tracking import environment


@pytest.fixture
def root(tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "server.env").write_text(
        "# comment\nMLFLOW_BACKEND_STORE_URI=sqlite:///.saferflow/mlflow.db\nMLFLOW_DEFAULT_ARTIFACT_ROOT=.saferflow/mlartifacts\n"
    )
    return tmp_path


def test_relative_paths_count_from_the_project(root):
    settings = environment.mlflow_settings(root)
    assert settings["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{root}/.saferflow/mlflow.db"
    assert settings["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == f"file://{root}/.saferflow/mlartifacts"


def test_what_a_person_set_wins(root):
    environ = {"MLFLOW_TRACKING_URI": "http://tracking.example"}
    environment.prepare(environ, root)
    assert environ["MLFLOW_TRACKING_URI"] == "http://tracking.example"


def test_telemetry_of_every_library_is_off(root):
    environ = {}
    environment.prepare(environ, root)
    assert {name: environ[name] for name in environment.TELEMETRY_OFF} == environment.TELEMETRY_OFF


def test_no_pickle_of_a_registered_model_is_read(root):
    from mlflow import environment_variables

    environ = {}
    environment.prepare(environ, root)
    for name, value in environment.GUARDED.items():
        assert environ[name] == value
        assert hasattr(environment_variables, name)  # MLflow still knows it by that name


def test_the_folder_that_dvc_unpickles_from_is_the_users_own(root):
    environ = {}
    environment.prepare(environ, root)
    folder = root / ".saferflow" / "dvc"
    assert environ["DVC_SITE_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_is_no_project_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(PipelineError, match=r"server\.env: no such file"):
        environment.prepare({}, tmp_path)
    assert list(tmp_path.iterdir()) == []
