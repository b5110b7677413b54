"""Random feedback local online learning of a layer and its readout."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ..errors import OptionError, UnsupportedError
from ..nn import Layer
from ..nn.inputs import require_input, require_steps
from ..zoo import Network
from .checks import (
    feedback_matrix,
    require_error,
    require_layer,
    require_loss,
    require_no_gradient,
    require_no_inference_mode,
    require_plain_forward,
    require_readout,
    require_same_place,
    require_start,
    require_step_input,
    require_target,
)
from .influence import Influence, influence_kind
from .recurrence import Recurrence, recurrence_of
from .trial import Plan, signal, trial

Loss = Callable[[Tensor, Tensor], Tensor]


class RFLO(Network):
    r"""A leaky layer and its readout, trained by random feedback local online learning instead of backpropagation.

    For :math:`h_t = (1 - a) h_{t-1} + a f(z_t)`, :math:`z_t = W h_{t-1} + V x_t + b`, outputs
    :math:`o_t = U h_t + c` and errors :math:`e_t = \partial L / \partial o_t`,

    .. math::

        p_t &= (1 - a)\, p_{t-1} + a f'(z_t) \otimes [h_{t-1}; x_t; 1], \\
        \nabla [W\; V\; b] &= \sum_t \operatorname{diag}(B e_t)\, p_t, \qquad
        \nabla U = \sum_t e_t h_t^\top, \qquad \nabla c = \sum_t e_t.

    This is the exact gradient with two approximations: ``B`` replaces :math:`U^\top`, and the trace ``p`` replaces the
    influence of the weights on all states. Options control both.

    Parameters
    ----------
    layer : Layer
        A real layer with one level and one direction, of a cell with a `LeakyForm`: `manifold_rnn.nn.cells.LeakyElman`,
        or `manifold_rnn.nn.cells.Elman`, whose leak is 1.
    readout : nn.Linear, optional
        ``U`` and ``c``. Without a readout, the outputs are the states, and errors are those of the units.
    feedback : "random", "transpose" or Tensor of shape (n, k), optional
        ``B``: drawn once from a normal distribution of variance 1/k, :math:`U^\top` at each step, or this matrix.
        Default: "random". Omit it if there is no readout.
    influence : "local", "diagonal" or "full"
        The trace above; the trace with :math:`1 - a + a f'(z) W_{ii}` instead of :math:`1 - a` (SnAp-1); or the exact
        influence, which with feedback "transpose" gives real-time recurrent learning (RTRL).
    generator : torch.Generator, optional
        Generator of the random feedback.

    Attributes
    ----------
    feedback : Tensor, shape (n, k), or None
        ``B``, a buffer that is saved with the weights; None for :math:`U^\top`.

    Raises
    ------
    UnsupportedError
        If the layer has several levels or directions, trains its initial state, or its cell has no leaky form. Also if
        the layer has gates, or the layer or the readout has forward hooks or another forward method.
    DtypeError, ShapeError, NonFiniteError
        If the layer is complex, or the readout or the feedback does not match it.
    OptionError
        If an option is unknown, or feedback is given without a readout.

    Notes
    -----
    In training mode ``backward`` of any loss of the outputs fills ``.grad`` by the rule, and any optimizer makes the
    step. A constrained weight in the update view gets its Euclidean gradient. In the trivialized view the gradient is
    pulled back to the coordinates. In evaluation mode the network is a plain `Network` with exact gradients, but `step`
    and `learn` still follow the rule.

    ``state_dict`` contains weights and feedback. It does not contain the state and the trace of sequences in `step`;
    copies and pickles do.

    The rule computes no gradient of the inputs or of the initial state. A trace lasts about :math:`1/a` steps: with
    ``a = 1`` the gradient reaches one step back. For a batch of B sequences a step costs :math:`O(B n (n + m))`
    operations and memory. With the full influence it costs :math:`O(B n^3 (n + m))` operations and
    :math:`O(B n^2 (n + m))` memory. Only inputs, outputs and errors grow with the number of steps. Computing a weight
    from coordinates costs :math:`O(n^3)`, also at each online step. Source: Murray (2019); Menick et al. (2021) for
    SnAp-1.

    Examples
    --------
    Per sequence:

    >>> layer = mr.nn.Layer(mr.nn.cells.LeakyElman(leak=0.25), 2, 8, batch_first=True)
    >>> network = mr.online.RFLO(layer, torch.nn.Linear(8, 3))
    >>> optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    >>> loss = network(torch.randn(4, 20, 2)).square().mean()
    >>> loss.backward()
    >>> optimizer.step()

    Step by step:

    >>> optimizer.zero_grad()
    >>> for x, target in zip(torch.randn(20, 4, 2), torch.randn(20, 4, 3)):
    ...     output = network.step(x, target)
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> assert output.shape == (4, 3)
    """

    feedback: Tensor | None

    def __init__(
        self,
        layer: Layer,
        readout: nn.Linear | None = None,
        *,
        feedback: str | Tensor | None = None,
        influence: str = "local",
        generator: torch.Generator | None = None,
    ) -> None:
        require_layer(layer)
        require_readout(layer, readout)
        require_plain_forward(layer, nn.Identity() if readout is None else readout)
        kind = influence_kind(influence)
        matrix = feedback_matrix(layer, readout, feedback, generator)
        nn.Module.__init__(self)  # that of `Network` would create another readout
        self.layer, self.rates = layer, {}
        self.readout: nn.Module = nn.Identity() if readout is None else readout  # type: ignore[assignment]
        self.register_buffer("feedback", matrix)
        self.influence = influence
        self._kind, self._output_size = kind, layer.hidden_size if readout is None else readout.out_features
        self._state: Tensor | None = None
        self._influence: Influence | None = None

    def carry_on(
        self, x: Tensor | PackedSequence, state: Any = None, *, every_step: bool = False
    ) -> tuple[Tensor | PackedSequence, Any]:
        """Run over sequences. In training mode the backward pass computes the gradients of the rule.

        Parameters
        ----------
        x : Tensor, shape (B, T, m), or (T, B, m) without ``batch_first``, or (T, m)
            The inputs.
        state : Tensor, shape (1, B, n), or (1, n) for one sequence, optional
            The state that the previous call returned. Default: zeros. Traces start at zero in each call.
        every_step : bool
            Whether to return the outputs of all steps, or only of the last.

        Returns
        -------
        outputs : Tensor
            With the axes of ``x``, or without the time axis.
        state : Tensor
            The state after the last step, in training mode without a graph.

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If ``x`` or ``state`` does not match the layer.
        UnsupportedError
            In training mode, if ``x`` is packed or needs a gradient, or the layer or readout has hooks or gates.
        """
        if not (self.training and torch.is_grad_enabled()):
            return super().carry_on(x, state, every_step=every_step)
        if isinstance(x, PackedSequence):
            raise UnsupportedError(
                "RFLO needs sequences of equal length.\nExpected a padded tensor, got a PackedSequence.\n"
                "Pad the sequences and exclude the padding from the loss, or call eval() to run without learning."
            )
        require_no_gradient(x)
        require_plain_forward(self.layer, self.readout)
        weights = self.layer.weights("_l0")  # computes each weight once
        first = weights["weight_ih"]
        require_input(x, self.layer.input_size, 3 if x.dim() == 3 else 2, first)
        swaps_axes = self.layer.batch_first and x.dim() == 3
        steps = x.transpose(0, 1) if swaps_axes else x if x.dim() == 3 else x.unsqueeze(1)  # (T, B, m)
        require_steps(steps, tuple(x.shape))
        bound = self.layer.cell.bind(weights)
        ((h,),) = self.layer.initial_states([bound], state, steps.shape[1] if x.dim() == 3 else None)
        plan = Plan(self.layer.cell, tuple(weights), self._kind, every_step)
        U, c = self._readout_weights()
        y, h = trial(plan, steps.to(first.dtype), h.detach(), self.feedback, U, c, tuple(weights.values()))
        last = h.unsqueeze(0)
        if x.dim() == 2:
            return y.squeeze(1 if every_step else 0), last.squeeze(1)
        return (y.transpose(0, 1) if swaps_axes and every_step else y), last

    def start(self, batch: int = 1, state: Tensor | None = None) -> None:
        """Start new sequences for `step`, with traces of zero.

        Parameters
        ----------
        batch : int
            The number B of sequences.
        state : Tensor, shape (B, n), optional
            The states before the first step. Default: zeros.

        Raises
        ------
        OptionError
            If ``batch`` is not an integer of at least 0.
        ShapeError, DtypeError, DeviceError
            If ``state`` does not match the layer.
        """
        require_no_inference_mode()
        require_start(batch, state, self.layer.hidden_size)
        with torch.no_grad():
            recurrence = self._recurrence(self.layer.weights("_l0"))
            hx = None if state is None else state.detach().unsqueeze(0)
            ((h,),) = self.layer.initial_states([recurrence.cell], hx, batch)
            self._state, self._influence = h.clone(), recurrence.influence(self._kind, batch)

    def step(self, x: Tensor, target: Tensor | None = None, *, loss: Loss = F.mse_loss) -> Tensor:
        """Advance by one time step; with a target, also add the gradients of its loss to ``.grad``.

        The rule also works in evaluation mode and under ``torch.no_grad()``.

        Parameters
        ----------
        x : Tensor, shape (B, m)
            Inputs of one time step. The first call starts new sequences, like `start`.
        target : Tensor, optional
            The target for ``loss``.
        loss : callable
            Maps outputs (B, k) and the target to a scalar. Default: mean squared error.

        Returns
        -------
        Tensor, shape (B, k)
            The outputs, without a graph.

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If ``x`` does not match the layer or the current sequences. Also if the target does not match the default
            loss, or the loss is not a scalar.
        UnsupportedError
            If ``x`` needs a gradient, or inference mode is on.
        NonFiniteError
            If ``x`` is not finite. If the error is not finite, the step is made, but no gradient is added.
        """
        require_plain_forward(self.layer, self.readout)
        require_no_inference_mode()
        with torch.set_grad_enabled(target is not None):  # records the graph through which `learn` computes gradients
            weights = self.layer.weights("_l0")
        require_step_input(x, self.layer.input_size, weights["weight_ih"], self._state)
        if target is not None and loss is F.mse_loss:
            require_target(target, (len(x), self._output_size))
        if self._state is None:
            self.start(len(x))
        assert self._state is not None and self._influence is not None
        with torch.no_grad():
            recurrence = self._recurrence({name: weight.detach() for name, weight in weights.items()})
            self._state = recurrence.next_state_with(self._influence, x.to(self._state.dtype), self._state)
            output: Tensor = self.readout(self._state)
        if target is not None:
            with torch.enable_grad():
                leaf = output.detach().requires_grad_()
                require_loss(value := loss(leaf, target))
                (error,) = torch.autograd.grad(value, leaf)
                self._learn(error, weights)
        return output

    def learn(self, error: Tensor) -> None:
        """Add the gradients of the last `step` to ``.grad``, for an error that you computed.

        Parameters
        ----------
        error : Tensor, shape (B, k)
            The derivative of the loss with respect to the outputs of the last step.

        Raises
        ------
        OptionError
            If there was no step yet.
        ShapeError, DtypeError, NonFiniteError
            If the error differs from the outputs in shape or dtype, or is not finite. Then nothing is added.

        Examples
        --------
        >>> layer = mr.nn.Layer(mr.nn.cells.LeakyElman(), 2, 4)
        >>> rule = mr.online.RFLO(layer, torch.nn.Linear(4, 1))
        >>> output = rule.step(torch.ones(3, 2))
        >>> rule.learn(output - 1)
        >>> assert layer.weight_hh_l0.grad is not None
        """
        if self._state is None or self._influence is None:
            raise OptionError(
                "learn needs the outputs of a step.\nExpected a previous step, got none.\nCall step(x) first."
            )
        require_plain_forward(self.layer, self.readout)
        require_no_inference_mode()
        with torch.enable_grad():
            self._learn(error, self.layer.weights("_l0"))

    def _learn(self, error: Tensor, weights: dict[str, Tensor]) -> None:
        assert self._state is not None and self._influence is not None
        U, c = self._readout_weights()
        require_same_place(self._state, weights["weight_ih"])
        require_error(error, (len(self._state), self._output_size), self._state)
        with torch.no_grad():
            at_units = signal(error, U, self.feedback)
            by_name = self._recurrence(weights).gradients(self._influence.gradient(at_units))
            pairs = [(weight, by_name[name]) for name, weight in weights.items()]
            if U is not None:
                pairs.append((U, error.mT @ self._state))
            if c is not None:
                pairs.append((c, error.sum(0)))
        trained = [(weight, gradient) for weight, gradient in pairs if weight.requires_grad]
        if trained:
            torch.autograd.backward([weight for weight, _ in trained], [gradient for _, gradient in trained])

    @torch.no_grad()
    def alignment(self) -> float:
        """Return the cosine of the angle between ``B`` and the transposed readout; 1 with feedback "transpose".

        Examples
        --------
        >>> layer = mr.nn.Layer(mr.nn.cells.LeakyElman(), 2, 4)
        >>> rule = mr.online.RFLO(layer, torch.nn.Linear(4, 1), feedback="transpose")
        >>> assert rule.alignment() == 1
        """
        U, _ = self._readout_weights()
        if self.feedback is None or U is None:
            return 1.0
        return float(F.cosine_similarity(self.feedback.mT.flatten(), U.flatten(), dim=0))

    def extra_repr(self) -> str:
        """Show the options feedback and influence."""
        feedback = "transpose" if self.feedback is None else "fixed"
        return f"feedback={feedback!r}, influence={self.influence!r}"

    def _recurrence(self, weights: dict[str, Tensor]) -> Recurrence:
        found = recurrence_of(self.layer.cell.bind(weights))
        assert found is not None  # `require_layer` has checked it
        return found

    def _readout_weights(self) -> tuple[Tensor | None, Tensor | None]:
        readout = self.readout
        return (readout.weight, readout.bias) if isinstance(readout, nn.Linear) else (None, None)
