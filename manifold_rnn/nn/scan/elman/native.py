"""A scan of the Elman form in one call of a compiled C++ library, forward and backward."""

import torch
from torch import Tensor

from ...._kernels import loading
from ...._kernels.operators import scan_backward, scan_forward
from ...._torch import constant_result, is_symbolic, is_watched
from ....errors import UnsupportedError
from ...cells.elman_form import ElmanForm
from ..base import Request
from .backend import ElmanBackend
from .engine import Engine, PerInput, run_engine
from .kernels import kernel_class

_PRECISIONS = {torch.float32: 32, torch.complex64: 32, torch.float64: 64, torch.complex128: 64}  # bits of a number
failure = constant_result(loading.failure)  # torch's compiler evaluates it once
is_installed = constant_result(loading.is_installed)

_MATRIX_ROWS_PER_STEP = 8  # rows of the matrix whose packing pays off in one step of one sequence


def native(
    form: ElmanForm, x: Tensor, h0: Tensor, W: Tensor, *, every_step: bool = True, recompute: bool = False
) -> tuple[Tensor | None, Tensor]:
    r"""Run a recurrence :math:`h_t = f(W h_{t-1} + V x_t + b)` in a compiled library, with the results of `fused`.

    Parameters
    ----------
    form : ElmanForm
        ``f``, ``V`` and the biases.
    x : Tensor, shape (T, B, m), T >= 1
        Inputs in the dtype of the weights, of shape (T, B, n) if the form has no ``V``.
    h0 : Tensor, shape (B, n)
        State before the first step.
    W : Tensor, shape (n, n)
        Recurrent matrix.
    every_step : bool
        Whether to return all states, or only the last one.
    recompute : bool
        See `fused`.

    Returns
    -------
    y : Tensor, shape (T, B, n), or None
    h : Tensor, shape (B, n)
        The last state.

    Raises
    ------
    UnsupportedError
        If the package was installed without the library, or the library cannot be loaded.

    Notes
    -----
    It runs on a CPU, in single or double precision, real or complex. Threads share the batch, with at least four rows
    each. Second derivatives are computed by the plain loop.

    The library is compiled when the package is installed. It uses the vector instructions of the processor, up to
    AVX-512. For ``torch.compile`` and fake tensors, it has two operators: ``manifold_rnn::scan_forward`` and
    ``manifold_rnn::scan_backward``.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> try:
    ...     y, h = mr.nn.scan.native(cell.elman_form(), torch.ones(3, 2, 1), torch.zeros(2, 1), torch.ones(1, 1))
    ...     assert torch.equal(y[:, 0, 0], torch.tensor([1.0, 2.0, 3.0])) and torch.equal(h, y[-1])
    ... except mr.errors.UnsupportedError as error:
    ...     assert "compiled library" in str(error)
    """
    if reason := failure():
        raise UnsupportedError(
            f"The native scan cannot run: {reason}.\n"
            "Expected the compiled library of this package.\n"
            "Use fused, or install the package again where the command c++ exists."
        )
    return run_engine(NativeEngine, form, x, h0, W, every_step, recompute)


class NativeEngine(Engine):
    """The engine of `native`."""

    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        keeps_argument = kernel_class(self.form.activation, is_complex=h0.is_complex()).keeps_argument
        H, Z = scan_forward(x, *self._weights(), h0, self.form.activation, keeps_argument)  # (T + 1, B, n), (T, B, n)
        return H, Z if keeps_argument else None

    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: PerInput[bool]
    ) -> PerInput[Tensor | None]:
        wanted = [*(p is not None and need for p, need in zip((x, *self._weights()), needed[:-1], strict=True)), True]
        Z = H.new_empty(0) if Z is None else Z
        results = scan_backward(x, *self._weights(), H, Z, gy, gh, self.form.activation, wanted)
        return PerInput(*(g if want else None for g, want in zip(results, wanted, strict=True)))

    def _weights(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
        return self.form.weight_ih, self.form.bias, self.form.threshold, self.W


def _is_watched(request: Request) -> bool:
    tensors = (request.x, request.W, *request.state, *request.cell.weights.values())
    return is_watched(*tensors) and not is_symbolic()


class Native(ElmanBackend):
    """The scan by a C++ library, on a CPU."""

    name = "native"
    has_operators = True

    def cannot_run(self, request: Request) -> str:
        tensors = (request.x, request.W, *request.state, *request.cell.weights.values())
        if any(t.device.type != "cpu" for t in tensors):
            return "it runs on a CPU only"
        precisions = {_PRECISIONS.get(t.dtype) for t in tensors}
        if None in precisions or len(precisions) > 1 or request.state[0].dtype != request.W.dtype:
            return "it needs single or double precision, the same for all tensors"
        return super().cannot_run(request)

    def auto_declines(self, request: Request) -> str:
        if not is_installed():
            return failure()
        if not torch.compiler.is_compiling() and _is_watched(request):
            return "a dispatch mode or a tensor subclass may need to see the operations of torch"
        few_steps = request.x.shape[:-1].numel() * _MATRIX_ROWS_PER_STEP < len(request.W)
        return "packing the matrix takes longer than so few products with it" if few_steps else ""

    def load(self) -> str:
        return failure()

    def scan(self, form: ElmanForm, x: Tensor, h0: Tensor, request: Request) -> tuple[Tensor | None, Tensor]:
        return native(form, x, h0, request.W, every_step=request.every_step, recompute=request.recompute)
