import subprocess
import sys

import pytest

pytest.importorskip("lightning")
from manifold_rnn.training import DemoSettings, cli, commands

ADDING = ["--task.name", "adding", "--task.sizes", "[32,8,8]", "--task.steps", "5"]
LEM = ["--network.zoo", "lem", "--network.hidden-size", "4"]
CELL = ["--network.cell", "elman", "--network.hidden-size", "4"]
BAD = {
    "no subcommand": ([], "manifold-rnn needs one of fit, validate, test,"),
    "an unknown subcommand": (["fits"], "Did you mean 'fit'?"),
    "an unknown flag": (["demo", "--wings", "2"], "--wings"),
    "no epochs": (["demo", "--epochs", "0"], "--epochs needs an integer of at least 1. Got 0."),
    "epochs that are no number": (["demo", "--epochs", "many"], "--epochs needs an integer. Got 'many'."),
    "half an epoch": (["demo", "--epochs", "1.5"], "--epochs needs an integer. Got '1.5'."),
    "a hidden size of 1": (["demo", "--hidden-size", "1"], "--hidden-size needs an integer from 2 to 2048. Got 1."),
    "a huge hidden size": (["demo", "--hidden-size", "99999"], "--hidden-size needs"),
    "a negative seed": (["demo", "--seed", "-1"], "--seed needs an integer from 0"),
    "an empty batch": (["demo", "--batch-size", "0"], "--batch-size needs"),
    "a rate of 0": (["demo", "--lr", "0"], "--lr needs a positive number. Got 0.0."),
    "an infinite rate": (["demo", "--lr", "inf"], "--lr needs"),
    "a rate that is no number": (["demo", "--lr", "nan"], "--lr needs"),
    "an unknown network": (["demo", "--networks", "scornn,scronn"], "--networks needs some of"),
    "no networks": (["demo", "--networks", ","], "--networks needs names of networks"),
    "an unknown retraction": (["demo", "--retraction", "caley"], "cayley, exp, polar, qr"),
    "a flag of a task misspelt": (["fit", *ADDING, "--task.stops", "9"], "Did you mean --task.steps?"),
    "a flag misspelt": (["fit", *ADDING, "--batchsize", "9"], "Did you mean --batch-size?"),
    "no task": (["fit", "--network.zoo", "lem"], "task.name needs one of adding,"),
    "an unknown task": (["fit", "--task.name", "copyng"], "Did you mean 'copying'?"),
    "a wrong value of a task": (["fit", *ADDING, "--task.steps", "x"], "--task.steps needs an integer. Got 'x'."),
    "a task out of range": (["fit", *ADDING, "--task.layout", "late"], "needs one of half, early. Got 'late'."),
    "no network": (["fit", *ADDING], "one of network.zoo and network.cell, got none"),
    "two networks": (["fit", *ADDING, *LEM, "--network.cell", "gru"], "got both"),
    "an unknown network for fit": (["fit", *ADDING, "--network.zoo", "scornnn"], "Did you mean 'scornn'?"),
    "an unknown cell": (["fit", *ADDING, "--network.cell", "lstn"], "Did you mean 'lstm'?"),
    "an unknown constraint": (["fit", *ADDING, *CELL, "--network.constraint", "unitry"], "Did you mean 'unitary'?"),
    "an unknown view": (["fit", *ADDING, *CELL, "--network.view", "updat"], "one of update, trivialized, or null"),
    "an unknown gate": (["fit", *ADDING, *CELL, "--network.gates", "[q]"], "network.gates needs one of h"),
    "an unknown scan": (["fit", *ADDING, *LEM, "--network.backend", "fast"], "network.backend needs one of auto,"),
    "an option of nothing": (["fit", *ADDING, *LEM, "--network.options.x", "1"], "lem takes time_step. Got 'x'"),
    "no retraction to choose": (
        ["fit", *ADDING, *LEM, "--network.retraction", "exp"],
        "no meaning with network.zoo=lem",
    ),
    "a constraint without its view": (
        ["fit", *ADDING, *CELL, "--network.constraint", "rotations", "--network.view", "update"],
        "trivialized",
    ),
    "an unknown optimizer": (["fit", *ADDING, *LEM, "--optimizer.name", "adma"], "Did you mean 'adam'?"),
    "a rate for constrained weights of 0": (
        ["fit", *ADDING, *LEM, "--optimizer.constrained-lr", "0"],
        "optimizer.constrained_lr needs a positive number. Got 0.0.",
    ),
    "a rate for constrained weights of which there are none": (
        ["fit", *ADDING, *CELL, "--optimizer.constrained-lr", "7"],
        "optimizer.constrained_lr needs a network with constrained weights. Got 7.0.",
    ),
    "an optimizer for constrained weights of which there are none": (
        ["fit", *ADDING, *LEM, "--optimizer.constrained", "sgd"],
        "optimizer.constrained needs a network with constrained weights. Got sgd.",
    ),
    "a retraction without a constraint": (
        ["fit", *ADDING, *CELL, "--network.retraction", "exp"],
        "network.retraction needs a network.constraint. Got exp.",
    ),
    "more units than memory": (
        ["fit", *ADDING, *CELL, "--network.hidden-size", "100000000"],
        "network.hidden_size and the options need a network that fits into memory. Got 100000000.",
    ),
    "a group without a rate": (
        ["fit", *ADDING, *LEM, "--optimizer.groups", "{readout: {rate: 1e-3}}"],
        "optimizer.groups.readout needs name, lr or both. Got {'rate': 0.001}.",
    ),
    "a group's rate of 0": (
        ["fit", *ADDING, *LEM, "--optimizer.groups", "{readout: {lr: 0}}"],
        "optimizer.groups.readout.lr needs a positive number. Got 0.",
    ),
    "a group by number": (
        ["fit", *ADDING, *LEM, "--optimizer.groups", "{1: {lr: 1e-4}}"],
        "optimizer.groups needs parts of weights' names as keys. Got 1.",
    ),
    "a group of nothing": (
        ["fit", *ADDING, *LEM, "--optimizer.groups", "{phases: {lr: 1e-3}}"],
        "optimizer.groups.phases is in no weight's name. Weights: layer.",
    ),
    "a momentum for Adam": (["fit", *ADDING, *LEM, "--optimizer.momentum", "0.9"], "needs rmsprop or sgd. Got adam"),
    "an unknown schedule": (["fit", *ADDING, *LEM, "--schedule.name", "cosin"], "one of constant, cosine, step"),
    "a warm-up of more than all": (["fit", *ADDING, *LEM, "--schedule.warmup", "2"], "a fraction from 0 to below 1"),
    "an unknown precision": (["fit", *ADDING, *LEM, "--precision", "16"], "one of float32, float64, bfloat16"),
    "clipping to nothing": (["fit", *ADDING, *LEM, "--clip", "0"], "clip needs a positive number, or null. Got 0.0"),
    "no patience": (["fit", *ADDING, *LEM, "--patience", "0"], "patience needs an integer of at least 1"),
    "processes that nobody started": (["fit", *ADDING, *LEM, "--devices", "2"], "torchrun --nproc-per-node"),
    "a second config that is missing": (["fit", "--config", "[", "--config", "no.yaml"], "--config needs a YAML file"),
    "a config that is missing": (["fit", "--config", "no.yaml"], "Got 'no.yaml': No such file"),
    "a checkpoint that is missing": (["inspect", "no.ckpt"], "There is no checkpoint at 'no.ckpt'"),
    "no best checkpoint": (["test", *ADDING, *LEM, "--output", "x"], "There is no checkpoint at 'x/best.ckpt'"),
}


@pytest.mark.parametrize(("arguments", "answer"), BAD.values(), ids=BAD.keys())
def test_a_bad_value_is_answered_with_one_line_and_nothing_is_written(arguments, answer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
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
    assert cli.main(["demo", "--output", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--output needs a folder" in err
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("package", ["lightning", "jsonargparse", "sklearn"])
def test_a_missing_package_is_answered_with_what_to_install(package, monkeypatch, capsys):
    real = cli.find_spec
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == package else real(name))
    assert cli.main(["demo"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert package in err
    assert "pip install 'manifold-rnn[train]'" in err


CONFIGS = {
    "no YAML": ("a: [", "which is none"),
    "no mapping": ("- a", "needs a mapping of settings"),
    "a key misspelt": ("task: {name: adding}\nnetwork: {zo: lem}", "network.zo is no key of network. Did you mean"),
    "a section misspelt": ("task: {name: adding}\nnetwrk: {zoo: lem}", "netwrk is no key. Did you mean network?"),
    "a value of another kind": ("task: {name: adding}\nnetwork: {zoo: lem}\nepochs: [3]", "epochs needs an integer"),
    "a section that is a number": ("task: {name: adding}\nnetwork: 3", "network needs a mapping of its settings"),
    "a list of tasks": ("task: {name: [copying]}", "task.name needs one of"),
    "a group by number": (
        "task: {name: adding}\nnetwork: {zoo: lem}\noptimizer: {groups: {1: {lr: 1e-4}}}",
        "optimizer.groups needs parts of weights' names as keys. Got 1.",
    ),
    "a task alone": ("task: adding", "task.name needs one of"),
    "bytes": (b"\xff\xfe\x00", "which is none"),
}


@pytest.mark.parametrize(("content", "answer"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_bad_config_is_answered_with_one_line_and_nothing_is_written(content, answer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["fit", "--config", "run.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) <= 450
    assert answer in err
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_before_training_ends_with_130(monkeypatch, capsys):
    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli._COMMANDS, "demo", cli._COMMANDS["demo"]._replace(run=interrupted))
    assert cli.main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_flags_reach_the_settings(monkeypatch):
    seen = []
    monkeypatch.setattr("manifold_rnn.training.demo.run_demo", lambda s: seen.append(s) or 0)
    flags = "--epochs 2 --hidden-size 8 --seed 5 --output o --retraction polar --batch-size 7 --lr 0.5 --networks lem"
    assert cli.main(["demo", *flags.split()]) == 0
    expected = DemoSettings(2, 8, 5, "o", "polar", 7, 0.5, "lem")
    assert seen == [expected]


@pytest.mark.parametrize("repeated", [False, True], ids=["a list", "repeated"])
def test_flags_lie_on_top_of_the_configs(repeated, tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("task: {name: adding, steps: 50}\nnetwork: {zoo: lem}\nepochs: 2\nclip: 1")
    (tmp_path / "b.yaml").write_text("network: {hidden_size: 5}\nepochs: 3")
    seen = []
    fit = cli._COMMANDS["fit"]._replace(run=lambda values: seen.append(commands.settings_from(values)) or 0)
    monkeypatch.setitem(cli._COMMANDS, "fit", fit)
    first, second = f"{tmp_path}/a.yaml", f"{tmp_path}/b.yaml"
    configs = ["--config", first, f"--config={second}"] if repeated else ["--config", f"[{first}, {second}]"]
    assert cli.main(["fit", *configs, "--optimizer.lr", "0.5", "--task.seed=7"]) == 0
    (settings,) = seen
    assert (settings.task.steps, settings.task.seed, settings.network.hidden_size) == (50, 7, 5)
    assert (settings.epochs, settings.optimizer.lr, settings.clip) == (3, 0.5, 1.0)


def test_every_flag_is_in_the_help_which_does_not_wait_for_lightning():
    script = (
        "import sys, manifold_rnn.training.cli as cli\n"
        "try: cli.main(['demo', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'lightning' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for flag in (
        "--epochs",
        "--hidden-size",
        "--seed",
        "--output",
        "--retraction",
        "--batch-size",
        "--lr",
        "--networks",
    ):
        assert flag in shown


def test_the_package_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "manifold_rnn", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("manifold-rnn ")
