import builtins
import gc
import importlib.util
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("lightning")
import manifold_rnn as mr
from manifold_rnn.cli import demo, fit, main
from manifold_rnn.training import read_run

ADDING = ["--task", "Adding", "--task.sizes", "[32,8,8]", "--task.steps", "5"]
LEM = ["--network.zoo", "lem", "--network.hidden_size", "4"]
CELL = ["--network.cell", "Elman", "--network.hidden_size", "4"]
BAD = {
    "no subcommand": ([], "`manifold-rnn` needs one of fit, validate, test,"),
    "an unknown subcommand": (["fits"], "Did you mean `fit`?"),
    "an unknown flag": (["demo", "--wings", "2"], "Unknown flag `--wings`."),
    "no epochs": (["demo", "--epochs", "0"], "`epochs` needs an integer of at least 1. Got 0."),
    "epochs that are no number": (["demo", "--epochs", "many"], "`epochs` needs an integer. Got 'many'."),
    "half an epoch": (["demo", "--epochs", "1.5"], "`epochs` needs an integer. Got 1.5."),
    "a hidden size of 1": (["demo", "--hidden_size", "1"], "`hidden_size` needs an integer from 2 to 2048. Got 1."),
    "a huge hidden size": (["demo", "--hidden_size", "99999"], "`hidden_size` needs"),
    "a negative seed": (["demo", "--seed", "-1"], "`seeds` needs integers from 0"),
    "an empty batch": (["demo", "--batch_size", "0"], "`batch_size` needs"),
    "a rate of 0": (["demo", "--lr", "0"], "`optimizer.lr` needs a positive number. Got 0.0."),
    "an infinite rate": (["demo", "--lr", "inf"], "lr` needs a"),
    "a rate that is no number": (["demo", "--lr", "nan"], "lr` needs a"),
    "an unknown network": (["demo", "--networks", "scornn,scronn"], "`networks` needs one of antisymmetric,"),
    "no networks": (["demo", "--networks", ","], "`networks` needs names of networks"),
    "an unknown retraction": (["demo", "--retraction", "caley"], "cayley, exp, polar, qr"),
    "a flag of a task misspelt": (["fit", *ADDING, "--task.stops", "9"], "Did you mean `--task.steps`?"),
    "a flag misspelt": (["fit", *ADDING, "--batchsize", "9"], "Did you mean `--batch_size`?"),
    "a flag of a section misspelt": (["fit", *ADDING, "--network.hiden_size", "9"], "`--network.hidden_size`?"),
    "a flag with a dash": (["fit", *ADDING, "--batch-size", "9"], "Did you mean `--batch_size`?"),
    "a word without a flag": (["fit", *ADDING, *LEM, "more"], "more"),
    "a file without a flag": (["fit", "run.yaml"], "Pass a file of settings as `--config run.yaml`."),
    "the name of a task as an option": (["fit", *LEM, "--task.name", "Adding"], "as `--task NAME`."),
    "no task": (["fit", "--network.zoo", "lem"], "`task` needs the name of a task"),
    "an unknown task": (["fit", "--task", "Copyng"], "Did you mean `Copying`?"),
    "a wrong value of a task": (["fit", *ADDING, "--task.steps", "x"], "`task.steps` needs an integer. Got 'x'."),
    "a task out of range": (["fit", *ADDING, "--task.layout", "late"], "needs one of half, early. Got 'late'."),
    "no network": (
        ["fit", *ADDING],
        "either `network.zoo`, such as scornn, or `network.cell`, such as Elman. Got neither",
    ),
    "two networks": (["fit", *ADDING, *LEM, "--network.cell", "GRU"], "Got both"),
    "an unknown network for fit": (["fit", *ADDING, "--network.zoo", "scornnn"], "Did you mean `scornn`?"),
    "an unknown cell": (["fit", *ADDING, "--network.cell", "LSTN"], "Did you mean `LSTM`?"),
    "an unknown constraint": (["fit", *ADDING, *CELL, "--network.constraint", "Unitry"], "Did you mean `Unitary`?"),
    "an unknown view": (["fit", *ADDING, *CELL, "--network.view", "updat"], "one of update, trivialized, or null"),
    "an unknown gate": (["fit", *ADDING, *CELL, "--network.gates", "[q]"], "`network.gates` needs one of h"),
    "an unknown scan": (["fit", *ADDING, *LEM, "--network.backend", "fast"], "`network.backend` needs one of auto,"),
    "an option of nothing": (["fit", *ADDING, *LEM, "--network.options.x", "1"], "lem takes time_step."),
    "no retraction to choose": (
        ["fit", *ADDING, *LEM, "--network.retraction", "exp", "--output", "x"],
        "and `network.zoo=lem` has none",
    ),
    "a constraint without its view": (
        ["fit", *ADDING, *CELL, "--network.constraint", "Rotations", "--network.view", "update"],
        "trivialized",
    ),
    "an unknown optimizer": (["fit", *ADDING, *LEM, "--optimizer.name", "adma"], "Did you mean `Adam`?"),
    "a rate for constrained weights of 0": (
        ["fit", *ADDING, *LEM, "--optimizer.constrained_lr", "0"],
        "`optimizer.constrained_lr` needs a positive number. Got 0.0.",
    ),
    "a rate for constrained weights of which there are none": (
        ["fit", *ADDING, *CELL, "--optimizer.constrained_lr", "7"],
        "`optimizer.constrained_lr` needs a network with constrained weights. Got 7.0.",
    ),
    "an optimizer for constrained weights of which there are none": (
        ["fit", *ADDING, *LEM, "--optimizer.constrained", "SGD"],
        "`optimizer.constrained` needs a network with constrained weights. Got SGD.",
    ),
    "a retraction without a constraint": (
        ["fit", *ADDING, *CELL, "--network.retraction", "exp"],
        "`network.retraction` needs a `network.constraint`. Got exp.",
    ),
    "more units than memory": (
        ["fit", *ADDING, *CELL, "--network.hidden_size", "100000000"],
        "`network.hidden_size` needs a network that fits into memory. Got 100000000.",
    ),
    "a group without a rate": (
        ["fit", *ADDING, *LEM, "--optimizer.groups", "{readout: {rate: 1e-3}}"],
        "`optimizer.groups.readout` needs a mapping with name, lr or both. Got {'rate': 0.001}.",
    ),
    "a group's rate of 0": (
        ["fit", *ADDING, *LEM, "--optimizer.groups", "{readout: {lr: 0}}"],
        "`optimizer.groups.readout.lr` needs a positive number. Got 0.",
    ),
    "a group by number": (
        ["fit", *ADDING, *LEM, "--optimizer.groups", "{1: {lr: 1e-4}}"],
        "`optimizer.groups` needs parts of the names of weights as keys. Got 1.",
    ),
    "a group of nothing": (
        ["fit", *ADDING, *LEM, "--optimizer.groups", "{phases: {lr: 1e-3}}"],
        "`optimizer.groups.phases` matches no weight. Weights: layer.",
    ),
    "a momentum for Adam": (["fit", *ADDING, *LEM, "--optimizer.options.momentum", "0.9"], "`optimizer.options` needs"),
    "an unknown schedule": (["fit", *ADDING, *LEM, "--schedule.name", "cosin"], "one of constant, cosine, step"),
    "a warm-up of more than all": (["fit", *ADDING, *LEM, "--schedule.warmup", "2"], "a fraction from 0 to below 1"),
    "an unknown precision": (["fit", *ADDING, *LEM, "--precision", "16"], "one of float32, float64, bfloat16"),
    "checkpoints in millions of years": (
        ["fit", *ADDING, *LEM, "--checkpoint_every", "1e14"],
        "`checkpoint_every` needs a positive number of at most 1e9",
    ),
    "clipping to nothing": (["fit", *ADDING, *LEM, "--clip", "0"], "`clip` needs a positive number. Got 0.0"),
    "no patience": (["fit", *ADDING, *LEM, "--patience", "0"], "`patience` needs an integer of at least 1"),
    "processes that nobody started": (["fit", *ADDING, *LEM, "--devices", "2"], "torchrun --nproc-per-node"),
    "a second config that is missing": (["fit", "--config", "[", "--config", "no.yaml"], "'[' cannot be read"),
    "a config that is missing": (["fit", "--config", "no.yaml"], "'no.yaml' cannot be read: No such file"),
    "a config without a name": (["fit", "--config"], "cannot be read"),
    "no checkpoint": (["inspect"], "checkpoint"),
    "a checkpoint that is missing": (["inspect", "no.ckpt"], "There is no checkpoint at 'no.ckpt'"),
    "no checkpoint to cover": (["coverage"], "checkpoint"),
    "a checkpoint to cover that is missing": (["coverage", "no.ckpt"], "There is no checkpoint at 'no.ckpt'"),
    "fewer than no cases": (["coverage", "x", "--cases", "-1"], "`cases` needs an integer of at least 0. Got -1."),
    "cases that are no number": (["coverage", "x", "--cases", "all"], "`cases` needs an integer. Got 'all'."),
    "a flag of coverage misspelt": (["coverage", "x", "--case", "9"], "Did you mean `--cases`?"),
    "no seeds": (["coverage", "x", "--seeds", "0"], "`seeds` needs an integer of at least 1. Got 0."),
    "a radius of 0": (["coverage", "x", "--radius", "0"], "`radius` needs a positive number. Got 0.0."),
    "a radius that is no number": (["coverage", "x", "--radius", "nan"], "`radius` needs a"),
    "a window of one step": (
        ["coverage", "x", "--window", "[3]"],
        "`window` needs a first and a last time step. Got [3].",
    ),
    "an unknown signal": (["coverage", "x", "--signal", "forgot"], "Did you mean `forget`?"),
    "a report without a name": (["coverage", "x", "--report", " "], "`report` needs the path of a file"),
    "no best checkpoint": (["test", *ADDING, *LEM, "--output", "x"], "There is no checkpoint at 'x/best.ckpt'"),
}


@pytest.mark.parametrize(("arguments", "answer"), BAD.values(), ids=BAD.keys())
def test_a_bad_value_is_answered_with_one_line_and_nothing_is_written(arguments, answer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("manifold-rnn: error: ")
    assert answer in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inside", [False, True], ids=["a file", "inside a file"])
def test_a_folder_that_cannot_be_written_is_answered_with_one_line(inside, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    folder = tmp_path / "taken" / "runs" if inside else tmp_path / "taken"
    assert main(["demo", "--output", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "`output` needs a folder" in err
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("package", ["lightning", "jsonargparse", "sklearn"])
def test_a_missing_package_is_answered_with_what_to_install(package, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        sys.modules["manifold_rnn.cli.main"], "find_spec", lambda name: None if name == package else real(name)
    )
    assert main(["demo"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert package in err and "pip install 'manifold-rnn[train]'" in err


CONFIGS = {
    "no YAML": ("a: [", "'run.yaml' needs to be a YAML file."),
    "no mapping": ("- a", "'run.yaml' needs to contain a mapping."),
    "a key misspelt": (
        "task: {name: Adding}\nnetwork: {hiden_size: 3}",
        "Unknown key `network.hiden_size`. Did you mean `network.hidden_size`?",
    ),
    "a section misspelt": ("task: {name: Adding}\nnetwrk: {zoo: lem}", "Unknown key `netwrk`. Did you mean `network`?"),
    "a value of another kind": ("task: {name: Adding}\nepochs: [3]", "`epochs` needs an integer. Got [3]."),
    "a section that is a number": ("task: {name: Adding}\nnetwork: 3", "`network` needs a mapping of its settings"),
    "a list of tasks": ("task: {name: [Copying]}", "`task.name` needs one of"),
    "a task misspelt": ("task: {name: Copyng}", "Did you mean `Copying`?"),
    "an option of a task misspelt": ("task: {name: Copying, dely: 3}", "Did you mean `task.delay`?"),
    "an option of a task of another kind": (
        "task: {name: Copying, delay: x}",
        "`task.delay` needs an integer. Got 'x'.",
    ),
    "a group by number": (
        "task: {name: Adding}\nnetwork: {zoo: lem}\noptimizer: {groups: {1: {lr: 1e-4}}}",
        "`optimizer.groups` needs parts of the names of weights as keys. Got 1.",
    ),
    "a task without a network": ("task: Adding", "Got neither"),
    "bytes": (b"\xff\xfe\x00", "'run.yaml' needs to be a YAML file."),
}


@pytest.mark.parametrize(("content", "answer"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_bad_config_is_answered_with_one_line_and_nothing_is_written(content, answer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["fit", "--config", "run.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) <= 450
    assert answer in err
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_before_training_ends_with_130(monkeypatch, capsys):
    def interrupted(command, values):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "execute", interrupted)
    assert main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("module", [True, False])
def test_ctrl_c_while_torch_is_imported_ends_with_130_and_without_a_traceback(module, tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    script = tmp_path / "manifold-rnn"  # as pip writes it
    script.write_text("import sys\nfrom manifold_rnn.cli import main\nsys.exit(main())")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(mr.__file__).parents[1])])}
    command = [sys.executable, *(["-m", "manifold_rnn"] if module else [str(script)]), "demo"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "manifold-rnn: interrupted\n")


@pytest.mark.parametrize("arguments", [["fit", "--resume"], ["fit", "--restart"], ["test"], ["validate"]])
def test_a_run_that_was_moved_is_not_looked_for_in_its_old_folder(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command, *flags = arguments
    assert main(["fit", *ADDING, *LEM, "--epochs", "1", "--output", "old"]) == 0
    Path("old").rename("new")
    assert main([command, "--config", "new/run.yaml", *flags]) == 2
    answer = capsys.readouterr().err
    assert "Expected 'new'. Got 'old'. Add --output new" in answer and len(answer) <= 450 and not Path("old").exists()
    assert main([command, "--config", "new/run.yaml", *flags, "--output", "new"]) == 0
    assert not Path("old").exists()


def test_flags_override_the_configs_and_later_configs_the_earlier(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("task: {name: Adding, steps: 50}\nnetwork: {zoo: lem}\nepochs: 2\nclip: 1")
    (tmp_path / "b.yaml").write_text("network: {hidden_size: 5}\nepochs: 3\noptimizer: {groups: {readout: {lr: 1e-4}}}")
    seen = []
    monkeypatch.setattr(fit, "execute", lambda command, values: seen.append(read_run(values)) or 0)
    configs = ["--config", f"{tmp_path}/a.yaml", f"--config={tmp_path}/b.yaml"]
    assert main(["fit", *configs, "--optimizer.lr", "0.5", "--task.seed=7", "--network.options.time_step", "0.1"]) == 0
    (settings,) = seen
    assert (settings.task.steps, settings.task.seed, settings.network.hidden_size) == (50, 7, 5)
    assert (settings.epochs, settings.optimizer.lr, settings.clip) == (3, 0.5, 1.0)
    assert settings.network.options == {"time_step": 0.1} and settings.optimizer.groups == {"readout": {"lr": 1e-4}}


def test_a_config_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("task: {name: Adding}\nnetwork: {zoo: lem}")
    opened, real = [], builtins.open
    monkeypatch.setattr(fit, "execute", lambda command, values: 0)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda path, *a, **k: opened.append(str(path)) or real(path, *a, **k))
        assert main(["fit", "--config", str(tmp_path / "a.yaml")]) == 0
    assert opened.count(str(tmp_path / "a.yaml")) == 1


def test_a_config_from_a_pipe_is_used_and_its_mistakes_are_answered(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(fit, "execute", lambda command, values: seen.append(read_run(values)) or 0)
    for text, status in (("task: {name: Adding}\nnetwork: {zoo: lem}\nepochs: 3", 0), ("task: Adding\nepoch: 3", 2)):
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(text,))
        writer.start()
        assert main(["fit", "--config", str(tmp_path / "pipe"), "--clip", "2"]) == status
        writer.join()
        (tmp_path / "pipe").unlink()
    assert [(settings.epochs, settings.clip) for settings in seen] == [(3, 2.0)]
    assert "Unknown key `epoch`. Did you mean `epochs`?" in capsys.readouterr().err


def test_a_secret_in_a_wrong_argument_is_not_repeated(capsys):
    url = "postgresql://u:hunter2@h/d"
    for arguments in (
        ["grid.yaml", url],
        [f"--storge={url}"],
        ["grid.yaml", url.replace("hunter2", "two hunter2 words")],
        ["grid.yaml", url.replace("hunter2", 99 * "hunter2")],
    ):
        assert main(["compare", *arguments]) == 2
        assert "hunter2" not in capsys.readouterr().err


COMMANDS = {
    "fit": [
        *("--config", "--task", "--network.zoo", "--optimizer.lr", "--schedule.name", "--pruning.penalty"),
        *("--max_steps", "--resume"),
    ],
    "test": ["--config", "--checkpoint"],
    "validate": ["--config", "--checkpoint"],
    "inspect": ["checkpoint", "--diagnostics"],
    "coverage": ["checkpoint", "--cases", "--seeds", "--window", "--signal", "--seed", "--output", "--report"],
    "prune": ["checkpoint", "--output"],
    "compare": ["grid", "--workers", "--storage", "--extend"],
    "demo": ["--epochs", "--hidden_size", "--seed", "--output", "--retraction", "--batch_size", "--lr", "--networks"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_in_the_help(command, capsys):
    assert main(["--help"]) == 0
    assert command in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and all(flag in out for flag in COMMANDS[command])
    assert not re.search(r"`|:math|\\\\", out)  # markup of docstrings
    if command == "fit":
        assert "RMSprop" in out and "Orthogonal" in out and "scornn" in out and "LSTM" in out and "Copying" in out


def test_help_and_inspect_do_not_wait_for_lightning_or_matplotlib():
    script = (
        "import sys\nfrom manifold_rnn.cli import main\n"
        "for arguments in (['--help'], ['fit', '--help'], ['demo', '--help'], ['compare', '--help']):\n"
        "    try: assert main(arguments) == 0\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "assert main(['inspect', 'no.ckpt']) == 2 and main(['coverage', 'no.ckpt']) == 2\n"
        "assert main(['prune', 'no.ckpt', '--output', 'no']) == 2\n"
        "heavy = {'lightning', 'matplotlib', 'optuna', 'sklearn', 'tensorboard'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_a_command_collects_garbage_after_its_imports(capsys):
    gc.disable()  # as the command does before
    try:
        assert main(["inspect", "nothing"]) == 2
        assert gc.isenabled()
    finally:
        gc.enable()


def test_the_package_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "manifold_rnn", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("manifold-rnn ")
