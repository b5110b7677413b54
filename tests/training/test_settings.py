"""What settings accept: every exported name, every value that comes back, and mistakes that are answered by key."""

import dataclasses

import pytest
import torch

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.training import as_mapping, choices, read_run

NEEDED = {"Characters": {"path": "text.txt", "validation_path": "v.txt", "test_path": "t.txt"}}
LEM = {"zoo": "lem", "hidden_size": 4}


@pytest.mark.parametrize("name", mr.tasks.available())
def test_every_task_can_be_named_and_every_option_comes_back(name):
    settings = read_run({"task": {"name": name, **NEEDED.get(name, {})}, "network": LEM})
    assert type(settings.task) is getattr(mr.tasks, name)
    written = as_mapping(settings)
    assert read_run(written) == settings and as_mapping(read_run(written)) == written


def test_a_task_may_be_a_name_alone():
    assert read_run({"task": "Digits", "network": LEM}).task == mr.tasks.Digits()


def test_a_field_that_a_task_needs_is_asked_for():
    with pytest.raises(OptionError, match=r"`task.path` needs a value for Characters"):
        read_run({"task": {"name": "Characters"}, "network": LEM})


def test_a_task_of_another_package_has_its_full_name():
    settings = read_run({"task": {"name": f"{__name__}.Halved", "steps": 20}, "network": LEM})
    assert settings.task == Halved(steps=20)
    assert as_mapping(settings)["task"]["name"] == f"{__name__}.Halved"
    for name in ("collections.OrderedDict", "no_such_module.Task", f"{__name__}.Missing"):
        with pytest.raises(OptionError, match=r"`task.name` needs a"):
            read_run({"task": {"name": name}, "network": LEM})


WRONG = {
    "a key": ({"network": {**LEM, "hiden_size": 3}}, "`network.hiden_size`. Did you mean `network.hidden_size`?"),
    "a section": ({"netwrk": LEM}, "Unknown key `netwrk`. Did you mean `network`?"),
    "a key without its section": ({"zoo": "lem"}, "Unknown key `zoo`."),
    "a key of a task": ({"task": {"name": "Adding", "stps": 3}}, "Unknown key `task.stps`. Did you mean `task.steps`?"),
    "a value": ({"epochs": "many"}, "`epochs` needs an integer. Got 'many'."),
    "half a number": ({"epochs": 1.5}, "`epochs` needs an integer. Got 1.5."),
    "a value of a section": (
        {"network": {**LEM, "view": 3}},
        "`network.view` needs one of update, trivialized, or null",
    ),
    "a number for a section": ({"network": 3}, "`network` needs a mapping of its settings. Got 3."),
    "a number for a mapping": ({"network": {**LEM, "options": 3}}, "`network.options` needs a mapping. Got 3."),
    "a list for a number": ({"epochs": [3]}, "`epochs` needs an integer. Got [3]."),
    "a list of tasks": ({"task": {"name": ["Copying"]}}, "`task.name` needs one of Adding,"),
    "a task without a name": (
        {"task": {"delay": 3}},
        "`task` needs a name, or a mapping with the key `name`. Got {'delay': 3}.",
    ),
    "an option of a task": (
        {"task": {"name": "Adding", "sizes": [1, 2]}},
        "`task.sizes` needs a list of 3, each an in",
    ),
    "an option of no optimizer": ({"optimizer": {"options": {"momentum": 0.9}}}, "`optimizer.options` needs one of"),
    "a group without a rate": ({"optimizer": {"groups": {"bias": {"rate": 1}}}}, "`optimizer.groups.bias` needs a map"),
}


@pytest.mark.parametrize(("changes", "answer"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_answered_by_its_key(changes, answer):
    with pytest.raises(OptionError) as refusal:
        read_run({"task": {"name": "Digits"}, "network": LEM, **changes})
    assert answer in str(refusal.value) and len(str(refusal.value)) <= 400


LARGE, ELMAN = 1e300, {"cell": "Elman"}
PAIR = {"name": "block_triangular", "bottom": "Orthogonal"}


@pytest.mark.parametrize(("section", "changes", "key"), [
    ("optimizer", {"name": "Adagrad", "options": {"initial_accumulator_value": LARGE}}, "initial_accumulator_value"),
    ("optimizer", {"name": "RMSprop", "options": {"alpha": LARGE}}, "optimizer.options.alpha"),
    ("optimizer", {"name": "RMSprop", "options": {"alpha": 10**400}}, "optimizer.options.alpha"),
    ("optimizer", {"options": {"betas": [0.9, LARGE]}}, "optimizer.options.betas"),
    ("network", {"cell": "Momentum", "options": {"momentum": LARGE}}, "network.options.momentum"),
    ("network", {"cell": "LRU", "options": {"max_phase": LARGE}}, "network.options.max_phase"),
    ("network", {"zoo": "scornn", "options": {"negatives": True}}, "network.options.negatives"),
    ("network", {**ELMAN, "constraint": {"name": "Contraction", "bound": LARGE}}, "network.constraint.bound"),
    ("network", {**ELMAN, "constraint": {"name": "OrthogonalAdapter", "factors": None}}, "network.constraint.factors"),
    ("network", {**ELMAN, "constraint": {**PAIR, "top": {"name": "UnitDisc", "radius": LARGE}}}, "top.radius"),
], ids=str)  # fmt: skip
def test_an_option_of_a_wrong_type_or_beyond_float32_is_refused_by_its_key(section, changes, key):
    with pytest.raises(OptionError, match=f"{key}` needs ") as refusal:
        read_run({"task": {"name": "Digits"}, "network": LEM, section: changes})
    assert len(str(refusal.value)) <= 400


@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_capturable_trains_on_a_cpu(name):
    network = mr.zoo.scornn(2, 4, 3)
    settings = mr.training.OptimizerSettings(name, options={"capturable": True})
    optimizer = mr.training.build_optimizer(network, settings)
    network(torch.ones(2, 3, 2)).sum().backward()
    before = network.readout.bias.detach().clone()
    optimizer.step()
    assert not torch.equal(network.readout.bias, before)


def test_every_list_of_names_fits_into_a_message():
    wrong = {"task.name": {"task": {"name": "?"}}, "optimizer.name": {"optimizer": {"name": "?"}}}
    wrong |= {
        f"network.{key}": {"network": {"cell": "Elman", key: "?"}} for key in ("cell", "constraint", "retraction")
    }
    for key, changes in {**wrong, "network.zoo": {"network": {"zoo": "?"}}}.items():
        with pytest.raises(OptionError, match=f"`{key}` needs one of") as refusal:
            read_run({"task": {"name": "Digits"}, "network": LEM, **changes})
        assert len(str(refusal.value)) <= 400


@dataclasses.dataclass(frozen=True)
class Halved(mr.tasks.Adding):
    """The adding problem, as another package could define it."""


class Halving(mr.optim.RiemannianSGD):
    """An optimizer that takes half of each step."""

    plain = None

    def __init__(self, params, lr=1e-3, weight_decay=0.0, *, parts=2):
        super().__init__(params, lr / parts, weight_decay=weight_decay)


@dataclasses.dataclass(frozen=True, eq=False)
class Plain(mr.nn.cells.Elman):
    """The Elman cell by another name."""


class Rotation(mr.Orthogonal):
    """The orthogonal group by another name."""


@dataclasses.dataclass(frozen=True)
class Mean:
    value: float

    def table(self):
        return f"mean weight: {self.value:.3g}"


def mean_weight(network: torch.nn.Module) -> Mean:
    """Return the mean of all weights."""
    return Mean(float(torch.cat([p.detach().flatten() for p in network.parameters()]).mean()))


NEW = {
    "Halved": (mr.tasks, Halved),
    "Halving": (mr.optim, Halving),
    "Plain": (mr.nn.cells, Plain),
    "Rotation": (mr.manifolds, Rotation),
    "mean_weight": (mr.diagnostics, mean_weight),
}


@pytest.fixture
def exported(monkeypatch):
    """Export one new thing of each kind, by one name in its package."""
    for name, (package, thing) in NEW.items():
        monkeypatch.setattr(package, name, thing, raising=False)
        monkeypatch.setattr(package, "__all__", [*package.__all__, name])


@pytest.mark.usefixtures("exported")
def test_what_a_package_exports_can_be_chosen():
    network = {"cell": "Plain", "hidden_size": 4, "constraint": "Rotation"}
    settings = read_run(
        {
            "task": {"name": "Halved", "steps": 9},
            "network": network,
            "optimizer": {"name": "Halving", "options": {"parts": 4}},
        }
    )
    built = mr.training.build_network(settings.network, 2, 1)
    assert isinstance(settings.task, Halved) and isinstance(built.layer.cell, Plain)
    assert isinstance(built.layer.weight_hh_l0.manifold, Rotation)
    optimizer = mr.training.build_optimizer(built, settings.optimizer)
    assert isinstance(optimizer, Halving) and optimizer.defaults["lr"] == settings.optimizer.lr / 4
    assert choices.diagnostics()["mean_weight"](built).table().startswith("mean weight")
