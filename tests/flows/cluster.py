"""Servers as docs/cluster.md sets them up, for real: PostgreSQL, MLflow and Prefect on it with authentication, an S3 store."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from saferflow.tracking import environment

BUCKETS = ("dvc", "mlflow")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_programs() -> Path | None:
    """The folder with initdb and postgres; Debian keeps it off the PATH."""
    found = [Path(shutil.which("initdb") or "/nowhere").parent, *Path("/usr/lib/postgresql").glob("*/bin")]
    return next((folder for folder in found if (folder / "initdb").exists()), None)


@dataclass
class Cluster:
    """Addresses, and what a process needs to know to use them."""

    postgres: str
    """`user:password@host:port`"""
    prefect: str
    mlflow: str
    s3: str
    environ: dict[str, str]
    prefect_server: "Server"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A database server that lets nobody in without the password; pytest-postgresql starts none for root, as in a container."""
    programs, port, password = postgres_programs(), free_port(), secrets.token_hex(8)
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    as_user = []
    if os.getuid() == 0:
        os.chown(home, pwd.getpwnam("postgres").pw_uid, -1)
        as_user = ["runuser", "-u", "postgres", "--"]
    secret = home / "secret"
    secret.write_text(password)
    secret.chmod(0o644)
    data = home / "data"
    subprocess.run(
        [*as_user, programs / "initdb", "-D", data, "-U", "saferflow", "-A", "scram-sha-256", "--pwfile", secret],
        check=True, capture_output=True, cwd=home,
    )  # fmt: skip
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={home}"]
    log = (folder / "postgres.log").open("wb")
    server = subprocess.Popen(
        [*as_user, programs / "postgres", "-D", data, *settings, "-c", "fsync=off"], stdout=log, stderr=log, cwd=home
    )
    try:
        import psycopg

        told = {"host": "127.0.0.1", "port": port, "user": "saferflow", "password": password}
        for _ in range(100):
            with suppress(psycopg.OperationalError):
                connection = psycopg.connect(dbname="postgres", autocommit=True, **told)
                break
            time.sleep(0.1)
        with connection.cursor() as cursor:
            for name in ("prefect", "mlflow", "mlflow_auth"):
                cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        yield f"saferflow:{password}@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class Server:
    """A server of its own process, which may go away and come back."""

    name: str
    command: list[str]
    health: str
    environ: dict[str, str]
    folder: Path
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self.folder / f"{self.name}.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, env=self.environ, cwd=self.folder, stdout=output, stderr=output, start_new_session=True
            )
        for _ in range(600):
            with suppress(httpx.TransportError):
                if httpx.get(self.health, timeout=2).status_code in (200, 401):
                    return
            assert self.process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
        raise AssertionError(log.read_text()[-3000:])

    def kill(self) -> None:
        """kill -9 of it and of all that it started."""
        if self.process:
            end(self.process)


@contextmanager
def started(*server) -> Iterator[Server]:
    """A server that answers when the block begins, and is gone when it ends."""
    made = Server(*server)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def end(process: subprocess.Popen) -> None:
    """A process and all that it started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)
    process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """All of it on loopback; every server refuses who does not say its password."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_", "STUB_"))}
    clean |= environment.TELEMETRY_OFF
    user, password = "admin", secrets.token_hex(8)
    s3, prefect, mlflow = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
    keys = {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": s3, "MLFLOW_S3_ENDPOINT_URL": s3, "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    python = [sys.executable, "-m"]
    with postgres(folder) as database:
        config = folder / "basic_auth.ini"
        config.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = postgresql+psycopg://{database}/mlflow_auth\n"
            f"admin_username = {user}\nadmin_password = {password}\n"
        )
        with (
            started("s3", [*python, "moto.server", "-p", s3.rpartition(":")[2]], s3, clean, folder),
            started(
                "mlflow",
                [
                    *python, "mlflow", "server", "--host", "127.0.0.1", "--port", mlflow.rpartition(":")[2],
                    "--workers", "1", "--app-name", "basic-auth", "--backend-store-uri", f"postgresql+psycopg://{database}/mlflow",
                    "--artifacts-destination", "s3://mlflow",
                ],
                f"{mlflow}/health",
                {
                    **clean, **keys, "MLFLOW_AUTH_CONFIG_PATH": str(config),
                    "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(8), "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
                },
                folder,
            ),
            started(
                "prefect",
                [*python, "prefect", "server", "start", "--host", "127.0.0.1", "--port", prefect.rpartition(":")[2]],
                f"{prefect}/api/health",
                {
                    **clean, "PREFECT_HOME": str(folder / "prefect"),
                    "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}/prefect",
                    "PREFECT_SERVER_API_AUTH_STRING": f"{user}:{password}",
                },
                folder,
            ) as prefect_server,
        ):  # fmt: skip
            import boto3

            store = boto3.client(
                "s3",
                endpoint_url=s3,
                aws_access_key_id="key",
                aws_secret_access_key="secret",
                region_name="eu-central-1",
            )
            for name in BUCKETS:
                store.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
            yield Cluster(database, f"{prefect}/api", mlflow, s3, {
                **clean, **keys,
                "PREFECT_API_URL": f"{prefect}/api", "PREFECT_API_AUTH_STRING": f"{user}:{password}",
                "PREFECT_WORKER_QUERY_SECONDS": "2",
                "MLFLOW_TRACKING_URI": mlflow, "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password,
            }, prefect_server)  # fmt: skip
