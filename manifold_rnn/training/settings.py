"""Settings of a training run. Each part checks its values when it is created. Imports are fast."""

import dataclasses
import math
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Literal

from .. import retractions, zoo
from ..nn.scan.backends import BACKENDS
from ..tasks import Task
from . import choices
from .choices import require, require_choice, require_folder
from .fields import check_fields, check_options, checked, require_float32
from .methods import LearningSettings, Method, PruningSettings, SearchSettings, StartSettings
from .values import Values

_LARGEST_EXPONENT = 700  # the largest power of e in a float, rounded down


@dataclass(frozen=True)
class NetworkSettings:
    """Settings of the network: a published one, or any cell with any constraint.

    Parameters
    ----------
    zoo : str, optional
        Name of a published network in `manifold_rnn.zoo`, such as scornn. Set either zoo or cell.
    cell : str, optional
        Name of a cell in `manifold_rnn.nn.cells`, such as Elman or LSTM.
    hidden_size : int
        Number of units of a layer.
    budget : int, optional
        Number of trained degrees of freedom. It replaces hidden_size by the size that comes closest to this number.
    num_layers : int
        Number of layers of a network with a cell.
    nonlinearity : str, optional
        Nonlinearity of an Elman cell: tanh, relu or modrelu.
    constraint : str or dict, optional
        Constraint of the recurrent matrices of a cell. Pass a name, such as Orthogonal, or a mapping with the name and
        options, such as {name: UnitDisc, radius: 0.9}.
    gates : list of str, optional
        Gates whose recurrent matrices are constrained. Default: all.
    retraction : str, optional
        Retraction of the constrained weights: cayley, exp, qr or polar. Default: the retraction of the constraint or
        network.
    view : str, optional
        With update the optimizer moves the weight itself, with trivialized its coordinates. The default for a cell is
        update if the constraint supports it. The default for a published network is the view of the paper.
    rebase_every : int, optional
        Number of optimizer steps after which the weight becomes the new base point. 0 never changes the base point.
        Default: the value of the network, or 0.
    numbers : str, optional
        Weights of a cell: real or complex. Default: the kind that the constraint and the cell need.
    backend : str
        Backend of the scan. See `manifold_rnn.nn.scan.run`.
    recompute : bool
        Whether to compute states twice instead of storing them, if only the last outputs are needed.
    options : dict
        Further options of the published network or of the cell, as a mapping of names to values.

    Raises
    ------
    OptionError
        If both or none of zoo and cell are set, a name or option is unknown, or an option needs a constraint.

    Examples
    --------
    >>> settings = mr.training.NetworkSettings(cell="Elman", constraint="Orthogonal", retraction="exp")
    >>> assert settings.hidden_size == 128
    """

    zoo: str | None = None
    cell: str | None = None
    hidden_size: int = 128
    budget: int | None = None
    num_layers: int = 1
    nonlinearity: str | None = None
    constraint: str | Values | None = None
    gates: list[str] | None = None
    retraction: str | None = None
    view: Literal["update", "trivialized"] | None = None
    rebase_every: int | None = None
    numbers: Literal["real", "complex"] | None = None
    backend: str = "auto"
    recompute: bool = False
    options: Values = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, known in {"zoo": zoo.available(), "cell": choices.cells()}.items():
            if getattr(self, key) is not None:  # first, because this message lists the names
                require_choice(f"network.{key}", getattr(self, key), known)
        check_fields(self, "network.")
        got = "neither" if self.zoo is None else "both"
        one = "either `network.zoo`, such as scornn, or `network.cell`, such as Elman"
        require((self.zoo is None) != (self.cell is None), "network", one, got)
        require(1 <= self.hidden_size < 2**31, "network.hidden_size", "an integer from 1 to 2^31 - 1", self.hidden_size)
        for key, least in {"num_layers": 1, "budget": 1, "rebase_every": 0}.items():
            _require_integer(f"network.{key}", getattr(self, key), least)
        require(self.num_layers <= 1024, "network.num_layers", "an integer of at most 1024", self.num_layers)
        if self.retraction is not None:
            require_choice("network.retraction", self.retraction, retractions.names())
        require_choice("network.backend", self.backend, BACKENDS)
        if self.zoo is not None:
            for key in ("constraint", "gates", "nonlinearity", "numbers", "num_layers"):
                is_default = getattr(self, key) == getattr(NetworkSettings, key)
                fixed = "a `network.cell`, because a published network fixes it"
                require(is_default, f"network.{key}", fixed, f"network.zoo={self.zoo}")
            check_options("network.options", getattr(zoo, self.zoo), self.options)
            return
        cell = choices.cells()[str(self.cell)]
        check_options("network.options", cell, self.options)
        if isinstance(cell.gates, tuple) and cell.gates:  # otherwise the network checks the gates
            for gate in self.gates or ():
                require_choice("network.gates", gate, cell.gates)
        if self.constraint is not None:
            check_options("network.constraint", *choices.named_constraint("network.constraint", self.constraint))
        for key in ("retraction", "view", "rebase_every", "gates"):
            value = getattr(self, key)
            require(value is None or self.constraint is not None, f"network.{key}", "a `network.constraint`", value)


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimizer. Weights on a manifold get its Riemannian form.

    Parameters
    ----------
    name : str
        Name of the optimizer, such as Adam, RMSprop or SGD.
    lr : float
        Learning rate of the unconstrained weights.
    constrained : str, optional
        Name of the optimizer of the constrained weights. Default: the same optimizer. If the network has no constrained
        weight, ``manifold-rnn fit`` raises an error for constrained and constrained_lr, and a comparison ignores both.
    constrained_lr : float, optional
        Learning rate of the constrained weights, in the package's coordinates. The default is a multiple of lr, which
        each published network defines. It is a tenth of lr for a cell with a constraint.
    groups : dict
        Optimizer and learning rate of certain weights, by a part of their names, such as {phases: {name: Adagrad, lr:
        1e-4}}. Each group sets name, lr or both.
    weight_decay : float
        Weight decay of the unconstrained weights.
    options : dict
        Further options of the optimizers, such as betas, momentum or alpha. Each is passed to the optimizers that have
        it.

    Raises
    ------
    OptionError
        If a name or option is unknown or a value out of range.

    Examples
    --------
    >>> settings = mr.training.OptimizerSettings("Adam", lr=2e-3, constrained="RMSprop", options={"alpha": 0.9})
    >>> assert settings.constrained_lr is None
    """

    name: str = "Adam"
    lr: float = 1e-3
    constrained: str | None = None
    constrained_lr: float | None = None
    groups: dict[str, Values] = field(default_factory=dict)
    weight_decay: float = 0.0
    options: Values = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "optimizer.")
        known = choices.optimizers()
        names = {"name": self.name, "constrained": self.constrained or self.name}
        rates: dict[str, float | None] = {"lr": self.lr, "constrained_lr": self.constrained_lr}
        for part, group in self.groups.items():
            require(isinstance(part, str), "optimizer.groups", "parts of the names of weights as keys", repr(part))
            valid = isinstance(group, dict) and group and group.keys() <= {"name", "lr"}
            require(bool(valid), f"optimizer.groups.{part}", "a mapping with name, lr or both", group)
            names[f"groups.{part}.name"] = group.get("name", self.name)
            if "lr" in group:
                group["lr"] = rates[f"groups.{part}.lr"] = checked(
                    float | None, group["lr"], f"optimizer.groups.{part}.lr"
                )
        for key, name in names.items():
            require_choice(f"optimizer.{key}", name, known)
        for key, rate in rates.items():
            require(rate is None or 0 < rate < math.inf, f"optimizer.{key}", "a positive number", rate)
        decay = self.weight_decay
        require(0 <= decay < math.inf, "optimizer.weight_decay", "a number of at least 0", decay)
        options: Values = {}
        for kind in (known[name] for name in names.values()):
            parameters = signature(kind).parameters
            options |= {option: parameters[option] for option in choices.option_names(kind)}
        for option, value in self.options.items():
            require_choice("optimizer.options", option, sorted(options))
            key = f"optimizer.options.{option}"
            if (hint := options[option].annotation) is not Parameter.empty:
                self.options[option] = value = checked(hint, value, key)
            numbers = value if isinstance(value, tuple) else (value,)
            finite = all(math.isfinite(number) for number in numbers if isinstance(number, float))
            require(finite, key, "finite numbers", value)
            require_float32(key, value)


@dataclass(frozen=True)
class ScheduleSettings:
    """Settings of the schedule, which changes all learning rates during training.

    Parameters
    ----------
    name : str
        constant keeps the learning rate. cosine decreases it to zero along half a cosine. step multiplies it by factor
        at regular intervals.
    warmup : float
        Fraction of all steps over which the learning rate first rises from near zero.
    every : int
        Number of epochs between two changes, for the schedule step.
    factor : float
        Factor of the learning rate at each change, for the schedule step.

    Raises
    ------
    OptionError
        If a value is out of range.

    Examples
    --------
    >>> assert mr.training.ScheduleSettings("step", every=10, factor=0.1).warmup == 0
    """

    name: Literal["constant", "cosine", "step"] = "constant"
    warmup: float = 0.0
    every: int = 1
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self, "schedule.")
        require(0 <= self.warmup < 1, "schedule.warmup", "a fraction from 0 to below 1", self.warmup)
        _require_integer("schedule.every", self.every)
        require(0 < self.factor < math.inf, "schedule.factor", "a positive number", self.factor)


@dataclass(frozen=True)
class RunSettings:
    """Everything that a training run depends on.

    Parameters
    ----------
    task : Task
        Task that the network learns.
    network : NetworkSettings
        Settings of the network.
    optimizer : OptimizerSettings
        Settings of the optimizer.
    schedule : ScheduleSettings
        Settings of the schedule.
    learning : LearningSettings
        Settings of the learning rule.
    pruning : PruningSettings
        Settings of the gates for pruning.
    search : SearchSettings
        Search for the trees of a TreeSearch.
    start : StartSettings
        Computation of initial weights from the training set.
    epochs : int
        Number of passes over the training set.
    max_steps : int, optional
        Largest number of training steps. Training stops after them, even within an epoch.
    batch_size : int
        Number of sequences in a training batch of each process.
    clip : float, optional
        Largest norm of the gradient of all weights. A longer gradient is scaled down to this norm.
    patience : int, optional
        Number of epochs without a lower validation loss after which training stops.
    precision : str
        float32, float64, or bfloat16 for automatic mixed precision. With bfloat16, constraints are computed in float32.
    accelerator : str
        Device type: cpu, gpu or auto.
    devices : int
        Number of processes on this machine, each with a replica of the network. Start several with torchrun.
    nodes : int
        Number of machines.
    strategy : str
        Lightning strategy: auto or ddp.
    seed : int
        Random seed of the initial weights and of the order of the batches.
    output : str
        Folder for checkpoints, logs and results.
    checkpoint_every : float, optional
        Seconds between two checkpoints within an epoch. null writes one only at the end of each epoch.
    log_every : int
        Number of steps between two entries of the log.

    Raises
    ------
    OptionError
        If a value is out of range.

    Examples
    --------
    >>> network = mr.training.NetworkSettings(zoo="scornn", hidden_size=16)
    >>> settings = mr.training.RunSettings(mr.tasks.Digits(), network, epochs=3)
    >>> assert settings.optimizer.name == "Adam"
    """

    task: Task
    network: NetworkSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    learning: LearningSettings = field(default_factory=LearningSettings)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    start: StartSettings = field(default_factory=StartSettings)
    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 32
    clip: float | None = None
    patience: int | None = None
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    seed: int = 0
    output: str = "runs/run"
    checkpoint_every: float | None = 60.0
    log_every: int = 50

    def methods(self) -> list[Method]:
        """Return the active sections that change how the network learns."""
        parts = (getattr(self, f.name) for f in dataclasses.fields(self))
        return [part for part in parts if isinstance(part, Method) and part.active]

    def __post_init__(self) -> None:
        check_fields(self)
        for method in self.methods():
            method.require(self)
        for key in ("epochs", "batch_size", "devices", "nodes", "log_every", "max_steps", "patience"):
            _require_integer(key, getattr(self, key))
        growth = self.epochs // self.schedule.every * math.log(self.schedule.factor)
        expected = "a factor whose power at the last epoch is a finite number"
        overflows = self.schedule.name == "step" and growth > _LARGEST_EXPONENT
        require(not overflows, "schedule.factor", expected, self.schedule.factor)
        object.__setattr__(self, "output", require_folder("output", self.output).as_posix())
        require(self.clip is None or 0 < self.clip < math.inf, "clip", "a positive number", self.clip)
        every = self.checkpoint_every
        require(every is None or 0 < every <= 1e9, "checkpoint_every", "a positive number of at most 1e9", every)
        require(0 <= self.seed < 2**32, "seed", "an integer from 0 to 2^32 - 1", self.seed)


def _require_integer(key: str, value: int | None, least: int = 1) -> None:
    require(value is None or value >= least, key, f"an integer of at least {least}", value)
    require(value is None or value < 2**31, key, "an integer below 2^31", value)
