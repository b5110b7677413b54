"""A cell whose steps are products of input-dependent reflections."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ...linalg.householder import reflect
from ..activations import mod_relu, mod_tanh
from .base import AllSteps, Cell, State
from .chunks import block_steps, in_blocks, real_steps
from .options import require_choice
from .reflect_blocks import reflect_in_blocks
from .reflecting import Reflecting
from .weights import allocate_empty

Nonlinearity = Literal["identity", "tanh", "modrelu"]


@dataclass(frozen=True, eq=False)
class HouseholderProduct(Reflecting):
    r"""A vector state that is multiplied by input-dependent reflections.

    .. math::
        h_t = f\bigl(H_{tk} \cdots H_{t1}\, h_{t-1} + V x_t + b\bigr), \qquad
        H_{tj} = I - \beta_{tj} k_{tj} k_{tj}^{\mathsf H}, \qquad
        k_{tj} = \frac{K_j x_t + c_j}{\|K_j x_t + c_j\|}.

    Parameters
    ----------
    reflections : int
        Number ``k`` of reflections in each step.
    beta : "reflection", "up to 2" or "up to 1"
        Strength :math:`\beta`: 2 exactly, :math:`2 \sigma(w_j^\top x + d_j)`, or :math:`\sigma(w_j^\top x + d_j)`.
    nonlinearity : "identity", "tanh" or "modrelu"
        ``f``. With the identity, the cell is linear and runs in blocks of time.
    bias : bool, keyword only
        Whether to add the biases ``b`` and ``c``. modReLU has a threshold instead of ``b``.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m) is ``V``, and ``weight_key`` (k n, m) has the matrices :math:`K_j` one below the other. The
        biases are ``bias_ih`` (n,), or the real ``bias`` (n,) for modReLU, and ``bias_key`` (k n,). Unless ``beta`` is
        "reflection", there are ``weight_beta`` (k, m) and ``bias_beta`` (k,).

    Raises
    ------
    OptionError
        If ``reflections`` is below 1, or an option is unknown.

    Notes
    -----
    A reflection has the eigenvalue :math:`1 - \beta_j` along :math:`k_j`, and 1 in all other directions. With
    :math:`\beta = 2` it is orthogonal, or unitary for complex weights. Two reflections are a rotation by twice the
    angle between their vectors. The products of k reflections are the orthogonal matrices ``Q`` with determinant
    :math:`(-1)^k` and a rank of :math:`I - Q` of at most k. With "up to 2", the eigenvalues along :math:`k_j` are in
    (-1, 1). With "up to 1", they are in (0, 1), so that no state can change its sign.

    If :math:`K_j x + c_j = 0`, the vector is 0 and the reflection is the identity. The gradient is unbounded near this
    point. The cell has no recurrent matrix, so it accepts no constraint. With complex weights, "tanh" is
    `manifold_rnn.nn.mod_tanh`.

    Weights are initialized uniformly in :math:`\pm 1/\sqrt m`, biases to 0, and a threshold uniformly in :math:`\pm
    0.01`. Learning rate: 1e-2. Sources: Siems et al. (2025), with a matrix as state; Grazzi et al. (2024).

    Examples
    --------
    An input of 1 changes the sign of the single unit, so the state is the parity:

    >>> cell = mr.nn.cells.HouseholderProduct(1, bias=False)
    >>> cell = cell.bind({"weight_ih": torch.zeros(1, 1), "weight_key": torch.ones(1, 1)})
    >>> x = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)
    >>> y, _ = mr.nn.scan.reference(cell, cell.project(x), (torch.ones(1, 1),), cell.weights["weight_hh"])
    >>> assert torch.equal(y.flatten(), torch.tensor([-1.0, -1.0, 1.0, -1.0]))
    """

    step_methods: ClassVar[frozenset[str]] = Cell.step_methods | {"activate"}

    nonlinearity: Nonlinearity = "identity"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("HouseholderProduct", "nonlinearity", self.nonlinearity, get_args(Nonlinearity))

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights, uninitialized."""
        n, k = hidden_size, self.reflections
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (n, input_size)}
        if self.bias and self.nonlinearity != "modrelu":
            shapes["bias_ih"] = (n,)
        shapes |= self.shapes_of_reflections(input_size, k * n, k)
        weights = allocate_empty(shapes, device=device, dtype=dtype)
        threshold = self.nonlinearity == "modrelu"
        return weights | ({"bias": weights["weight_ih"].real.new_empty(n)} if threshold else {})

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x + b``, the unit vectors and the strengths (unless all are 2), (..., n + k n + k)."""
        vectors = self.vectors(x, "key", len(self.weights["weight_ih"])).flatten(-2)
        return torch.cat(self.with_strengths([self.map_inputs(x, "ih"), vectors], x, self.reflections), -1)

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        V = self.weights["weight_ih"]
        return (V.new_zeros(batch, len(V)),)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``f(H_k ... H_1 h + drive)`` of shape (B, n), and the same as the state."""
        drive, vectors, beta = self._parts(u)
        h = state[0]
        for k, strength in zip(vectors.unbind(-2), beta.split(1, -1), strict=True):
            h = reflect(h, k, strength)
        h = self.activate(h + drive)
        return h, (h,)

    def activate(self, z: Tensor) -> Tensor:
        """Return ``f(z)``."""
        functions: dict[str, Callable[[Tensor], Tensor]] = {
            "identity": lambda z: z,
            "tanh": mod_tanh,
            "modrelu": lambda z: mod_relu(z, self.weights["bias"]),
        }
        return functions[self.nonlinearity](z)

    def all_steps(self) -> AllSteps | None:
        """Return the steps in blocks of time, for the identity as nonlinearity."""
        return self._reflect_all if self.nonlinearity == "identity" else None

    def _reflect_all(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        n, k, T = len(self.weights["weight_ih"]), self.reflections, len(x)
        x = in_blocks(x, block_steps(n, k, *x.shape[:2]))  # (N, B, steps, m)
        beta = self.strengths(x, k)
        if (real := real_steps(x, T)) is not None:
            beta = beta * real.unsqueeze(-1)
        states = reflect_in_blocks(
            self.map_inputs(x, "ih"), self.map_inputs(x, "key").unflatten(-1, (k, n)), beta, state[0]
        )[:T]
        return states, (states[-1],)

    def _parts(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``V x + b`` (..., n), the vectors (..., k, n) and the strengths (..., k)."""
        n, k = len(self.weights["weight_ih"]), self.reflections
        drive, vectors, beta = u.split([n, k * n, u.shape[-1] - (k + 1) * n], -1)
        beta = beta.real if self.beta != "reflection" else u.real.new_full((*u.shape[:-1], k), 2.0)
        return drive, vectors.unflatten(-1, (k, n)), beta
