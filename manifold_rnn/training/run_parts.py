"""The parts of a run's settings: network, optimizer and schedule; each checks its values when it is made."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from .. import retractions, zoo
from ..errors import OptionError
from ..nn.scan.backends import BACKENDS
from .catalogue import CELLS, CONSTRAINTS, require_options

OPTIMIZERS = ("adam", "adagrad", "rmsprop", "sgd")
_TAKERS = {  # which optimizers take an option
    "betas": ("adam",),
    "momentum": ("rmsprop", "sgd"),
    "smoothing": ("rmsprop",),
    "initial_accumulator": ("rmsprop", "adagrad"),
}


@dataclass(frozen=True)
class NetworkSettings:
    """Which network is trained: one of the zoo, or any cell with any constraint.

    Parameters
    ----------
    zoo : str, optional
        A published network, such as scornn; or else
    cell : str, optional
        a cell, such as elman or lstm.
    hidden_size : int
        Units of a layer.
    num_layers : int
        Levels of a cell's network.
    nonlinearity : str, optional
        Of an Elman cell: tanh, relu or modrelu.
    constraint : str, optional
        What the recurrent matrices of a cell are constrained to, such as orthogonal.
    constraint_options : dict
        Options of the constraint by name, such as chart of unit_disc; a constraint in them is given by its name.
    gates : list of str, optional
        The gates that are constrained; all by default.
    retraction : str, optional
        How constrained weights move: cayley, exp, qr or polar. Default: the constraint's or the network's own.
    view : str, optional
        Whether an optimizer moves the weight (update) or its coordinates (trivialized). Default: update for a cell with
        a constraint that has it, the paper's for a network of the zoo.
    rebase_every : int, optional
        Trivialized view: move the base to the weight after every so many steps; 0 for never. Default: the network's
        own, or never.
    numbers : str, optional
        Of a cell's weights, real or complex. Default: what the constraint and the cell need.
    backend : str
        Which scan runs the cell, see `manifold_rnn.nn.scan.run`.
    recompute : bool
        Compute states twice rather than keep them, where only last outputs are asked for.
    options : dict
        Further options of the zoo's builder or of the cell, by name.

    Raises
    ------
    OptionError
        If both or none of zoo and cell are given, a name or option is unknown, or there is no constraint that an option
        is for.

    Examples
    --------
    >>> settings = mr.training.NetworkSettings(cell="elman", constraint="orthogonal", retraction="exp")
    >>> assert settings.hidden_size == 128
    """

    zoo: str | None = None
    cell: str | None = None
    hidden_size: int = 128
    num_layers: int = 1
    nonlinearity: str | None = None
    constraint: str | None = None
    constraint_options: dict[str, Any] = field(default_factory=dict)
    gates: list[str] | None = None
    retraction: str | None = None
    view: Literal["update", "trivialized"] | None = None
    rebase_every: int | None = None
    numbers: Literal["real", "complex"] | None = None
    backend: str = "auto"
    recompute: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.zoo is None) == (self.cell is None):
            raise OptionError(
                "A network is one of the zoo or a cell.\nExpected one of network.zoo and network.cell, got "
                f"{'none' if self.zoo is None else 'both'}.\nExamples: network.zoo=scornn, network.cell=elman."
            )
        require(self.hidden_size >= 1, "network.hidden_size", "an integer of at least 1", self.hidden_size)
        require(self.hidden_size < 2**31, "network.hidden_size", "an integer below 2^31", self.hidden_size)
        require(self.num_layers >= 1, "network.num_layers", "an integer of at least 1", self.num_layers)
        every = self.rebase_every
        require(every is None or every >= 0, "network.rebase_every", "an integer of at least 0, or null", every)
        if self.retraction is not None:
            require_name("network.retraction", self.retraction, retractions.names())
        require_name("network.backend", self.backend, BACKENDS)
        if self.zoo is not None:
            self._require_zoo(self.zoo)
        else:
            self._require_cell()

    def _require_zoo(self, name: str) -> None:
        require_name("network.zoo", name, zoo.available())
        if changed := self._given("constraint", "constraint_options", "gates", "nonlinearity", "numbers", "num_layers"):
            raise OptionError(
                f"network.{changed[0]} is for a cell.\nGot it with network.zoo={name}, whose paper says what it is.\n"
                "Leave it out, or give network.cell."
            )
        require_options("network.options", getattr(zoo, name), self.options)

    def _require_cell(self) -> None:
        assert self.cell is not None
        require_name("network.cell", self.cell, CELLS)
        require_options("network.options", CELLS[self.cell], self.options)
        if self.constraint is not None:
            require_name("network.constraint", self.constraint, CONSTRAINTS)
            require_options("network.constraint_options", CONSTRAINTS[self.constraint], self.constraint_options)
        for name in self.gates or ():
            require_name("network.gates", name, CELLS[self.cell].gates)
        if self.constraint is None:
            for key in self._given("retraction", "view", "rebase_every", "gates", "constraint_options"):
                require(False, f"network.{key}", "a network.constraint", getattr(self, key))

    def _given(self, *keys: str) -> list[str]:
        """Those of the keys whose values are not their defaults."""
        default = {f.name: {} if f.default is MISSING else f.default for f in fields(self)}
        return [key for key in keys if getattr(self, key) != default[key]]


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer trains, at which rates; weights on a manifold get its Riemannian form.

    Parameters
    ----------
    name : str
        adam, adagrad, rmsprop or sgd.
    lr : float
        Rate of the weights without constraint.
    constrained : str, optional
        Another optimizer for the constrained weights. Default: the same. Without such weights, ``manifold-rnn fit``
        refuses this and constrained_lr; elsewhere they have no effect, so that networks with and without constraint can
        be compared.
    constrained_lr : float, optional
        Rate of the constrained weights, in the package's coordinates. Default: the network's own multiple of lr, which
        is a tenth for a cell with a constraint.
    groups : dict
        Other optimizers and rates by a part of the weights' names, such as ``{"phases": {"name": "adagrad", "lr":
        1e-4}}``; each may give one of the two.
    weight_decay : float
        Of the weights without constraint.
    betas : tuple of float, optional
        Of adam.
    momentum : float, optional
        Of sgd and rmsprop.
    smoothing : float, optional
        Of rmsprop: how much of the mean square is kept at each step.
    initial_accumulator : float, optional
        Of rmsprop and adagrad: where the mean or the sum of squares starts.

    Raises
    ------
    OptionError
        If a name is unknown, a value out of range, or no optimizer named takes an option.

    Examples
    --------
    >>> settings = mr.training.OptimizerSettings("adam", lr=2e-3, constrained="rmsprop", constrained_lr=2e-4)
    >>> assert settings.betas is None
    """

    name: str = "adam"
    lr: float = 1e-3
    constrained: str | None = None
    constrained_lr: float | None = None
    groups: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0
    betas: tuple[float, float] | None = None
    momentum: float | None = None
    smoothing: float | None = None
    initial_accumulator: float | None = None

    def __post_init__(self) -> None:
        require_name("optimizer.name", self.name, OPTIMIZERS)
        if self.constrained is not None:
            require_name("optimizer.constrained", self.constrained, OPTIMIZERS)
        rates = {"lr": self.lr, "constrained_lr": self.constrained_lr}
        for part, own in self.groups.items():
            require(isinstance(part, str), "optimizer.groups", "parts of weights' names as keys", repr(part))
            key = f"groups.{part}"
            right = isinstance(own, dict) and own and own.keys() <= {"name", "lr"}
            require(bool(right), f"optimizer.{key}", "name, lr or both", own)
            require_name(f"optimizer.{key}.name", own.get("name", self.name), OPTIMIZERS)
            rates[f"{key}.lr"] = own.get("lr")
        for key, rate in rates.items():
            positive = rate is None or (isinstance(rate, float | int) and 0 < rate < math.inf)
            require(positive, f"optimizer.{key}", "a positive number", rate)
        for key in ("weight_decay", "initial_accumulator"):
            value = getattr(self, key)
            require(value is None or 0 <= value < math.inf, f"optimizer.{key}", "a number of at least 0", value)
        for key in ("betas", "momentum", "smoothing"):
            value = getattr(self, key)
            inside = value is None or all(0 <= part < 1 for part in (value if key == "betas" else [value]))
            require(inside, f"optimizer.{key}", "numbers from 0 to below 1", value)
        used = {self.name, self.constrained, *(own.get("name") for own in self.groups.values())}
        for key, takers in _TAKERS.items():
            taken = not used.isdisjoint(takers)
            require(getattr(self, key) is None or taken, f"optimizer.{key}", f"{' or '.join(takers)}", self.name)

    def options_of(self, name: str) -> dict[str, Any]:
        """Return the options that an optimizer of this name takes, and that are given.

        Examples
        --------
        >>> assert mr.training.OptimizerSettings("adam", betas=(0.8, 0.9)).options_of("adam") == {"betas": (0.8, 0.9)}
        """
        given = {key: getattr(self, key) for key, takers in _TAKERS.items() if name in takers}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class ScheduleSettings:
    """How all rates change while training goes on.

    Parameters
    ----------
    name : str
        constant; cosine, a half cosine down to zero; or step, times factor every so many epochs.
    warmup : float
        Fraction of all steps in which the rate rises from near zero first.
    every : int
        Of step: epochs.
    factor : float
        Of step.

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
        require_name("schedule.name", self.name, ("constant", "cosine", "step"))
        require(0 <= self.warmup < 1, "schedule.warmup", "a fraction from 0 to below 1", self.warmup)
        require(self.every >= 1, "schedule.every", "an integer of at least 1", self.every)
        require(0 < self.factor < math.inf, "schedule.factor", "a positive number", self.factor)


def require(holds: bool, key: str, expected: str, got: object) -> None:
    """Raise `OptionError` unless ``holds``."""
    if not holds:
        raise OptionError(f"{key} needs {expected}. Got {got}.")


def require_name(key: str, name: str, known: Sequence[str] | dict[str, Any]) -> None:
    """Raise `OptionError`, with the right names and the nearest one, unless ``name`` is known."""
    if not isinstance(name, str) or name not in known:
        near = difflib.get_close_matches(str(name), list(known), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"{key} needs one of {', '.join(known)}. Got {name!r}.{hint}")
