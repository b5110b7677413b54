"""What the tests of comparisons share: a quick stand-in for training, workers as processes, a PostgreSQL server."""

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from manifold_rnn.training.record import RunRecord

SMALL = {"network.constraint": ["Orthogonal", "Unitary"], "network.retraction": ["cayley"]}
GRID = """
base: {task: {name: Digits}, network: {cell: Elman, hidden_size: 4}, epochs: 2, batch_size: 512}
grid:
  network.constraint: [Orthogonal, Unitary]
  network.retraction: [cayley, polar]
"""
ABOUT = {
    "task": "UCI digits",
    "metric": "accuracy",
    "higher_is_better": True,
    "baseline": {"loss": 2.303, "metric": 0.1},
}
BASE = {"task": {"name": "Digits"}, "network": {"cell": "Elman", "hidden_size": 8}, "epochs": 4}
AXES = {"network.constraint": ["Orthogonal", "Unitary"], "network.retraction": ["cayley", "exp", "polar"]}


def epoch_scores(top, epoch):
    value = top * (1 - 0.5**epoch)
    scores = {"train_loss": 1.1 - value, "val_loss": 1.2 - value, "val_metric": value, "seconds": 0.2}
    return {"epoch": epoch, **scores}


def record(history, **changes):
    metric = history[-1]["val_metric"] if history else None
    values = {"parameters": 100, "hidden_size": 8, "seconds_per_step": 0.01, "test_loss": 0.3, "test_metric": metric}
    return RunRecord(history, **{**values, **changes})


def train(mapping, *, folder, on_epoch, stop, epochs=4, pause=0.0):
    """Reach a height that depends on what is trained, and remember the epochs in the folder, as checkpoints do."""
    network = mapping["network"]
    top = 0.9 + 0.01 * len(network["constraint"]) - 0.01 * len(network["retraction"]) - 0.001 * mapping["seed"]
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "kept.json"
    history = json.loads(kept.read_text()) if kept.exists() else []
    for epoch in range(len(history) + 1, epochs + 1):
        time.sleep(pause)
        with open(folder / "done.txt", "a") as file:
            file.write(f"{epoch} {os.getpid()}\n")
        history.append(epoch_scores(top, epoch))
        kept.with_suffix(".new").write_text(json.dumps(history))
        kept.with_suffix(".new").replace(kept)
        on_epoch(history[-1])
        if stop.requested:
            return record(history, stopped=True)
    return record(history)


def train_slowly(mapping, **options):
    return train(mapping, pause=0.05, **options)


def train_until_one_is_killed(mapping, *, folder, on_epoch, stop):
    """Train slowly; the first worker of a study that comes to its second epoch is killed there, whichever it is."""

    def die_or_report(epoch):
        if epoch["epoch"] == 2:
            with suppress(FileExistsError):
                (folder.parent / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        on_epoch(epoch)

    return train_slowly(mapping, folder=folder, on_epoch=die_or_report, stop=stop)


def train_for_long(mapping, **options):
    return train(mapping, epochs=10**6, pause=0.05, **options)


def open_study(folder, url=None, *, axes=AXES, seeds=(0, 1), name="study", **options):
    from manifold_rnn.study.claim import Study
    from manifold_rnn.study.grid import Grid
    from manifold_rnn.study.store import open_store

    grid = Grid(BASE, axes, seeds=list(seeds)) if isinstance(axes, dict) else axes
    return Study(open_store(url, Path(folder), name), name, grid, ABOUT, **options)


def attempts(study):
    """The attempts at every case, and how each ended."""
    return {
        key: [(trial.state.name, trial.user_attrs.get("end")) for trial in trials]
        for key, trials in study.attempts().items()
    }


def fork_workers(folder, url, count):
    """Start a process that starts so many workers, one of which is killed; the others end every case."""
    command = [sys.executable, __file__, str(folder), url or "", str(count)]
    return subprocess.Popen(command)


def _main(folder, url, count):
    import optuna

    from manifold_rnn.study.worker import Worker

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    workers = []
    for _ in range(int(count)):
        if child := os.fork():
            workers.append(child)
            continue
        Worker(open_study(folder, url or None), train_until_one_is_killed, Path(folder, "runs")).work()
        os._exit(0)
    status = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    sys.exit(sorted(status) != [-signal.SIGKILL, *[0] * (len(status) - 1)])


def _binary(name):
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(beside[-1]) if beside else shutil.which(name)


@contextmanager
def postgresql():
    """A server on loopback, in a folder of its own; initdb refuses root, so then as the user postgres."""
    initdb, control = _binary("initdb"), _binary("pg_ctl")
    if not (initdb and control):
        pytest.skip("PostgreSQL is not installed: initdb and pg_ctl are neither on PATH nor in /usr/lib/postgresql")
    home, before = Path(tempfile.mkdtemp(prefix="postgresql-")), []
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("initdb refuses root, and there is no user postgres")
        before = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        os.chown(home, user.pw_uid, user.pw_gid)
    password, data = secrets.token_hex(8), str(home / "data")
    (home / "password").write_text(password)
    (home / "password").chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(*command):
        subprocess.run([*before, *command], check=True, cwd=home, capture_output=True, text=True)

    call(initdb, "-D", data, "-U", "tester", "-A", "scram-sha-256", f"--pwfile={home / 'password'}", "--no-sync")
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
    call(control, "-D", data, "-o", options, "-l", str(home / "log"), "-w", "start")
    try:
        yield f"postgresql://tester:{password}@127.0.0.1:{port}/postgres"
    finally:
        call(control, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(home)


if __name__ == "__main__":
    _main(*sys.argv[1:])
