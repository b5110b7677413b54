"""A scan of the Elman form in one call of a compiled C++ library, forward and backward."""

from torch import Tensor

from ....._torch import is_watched
from .....errors import UnsupportedError
from ....cells.elman_form import ElmanForm
from ...base import Request
from ..backend import ElmanBackend
from ..engine import Engine, PerInput, run_engine
from ..kernels import kernel_class
from .building import is_built, load_or_build
from .call import DTYPE_NAMES, call_library

_MATRIX_ROWS_PER_STEP = 8  # rows of the matrix whose packing one step of one sequence repays


def native(
    form: ElmanForm, x: Tensor, h0: Tensor, W: Tensor, *, every_step: bool = True, recompute: bool = False
) -> tuple[Tensor | None, Tensor]:
    r"""Run a recurrence :math:`h_t = f(W h_{t-1} + V x_t + b)` as `fused` does, in a compiled library.

    The first call on a machine compiles the library, unless `build_native` has done so.

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
        If the library cannot be built or loaded; see `build_native`.

    Notes
    -----
    It runs on a CPU, in single or double precision, real or complex. Threads share the batch, with at least four rows
    each. Second derivatives are computed by the plain loop.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> if mr.nn.scan.build_native():
    ...     y, h = mr.nn.scan.native(cell.elman_form(), torch.ones(3, 2, 1), torch.zeros(2, 1), torch.ones(1, 1))
    ...     assert torch.equal(y[:, 0, 0], torch.tensor([1.0, 2.0, 3.0])) and torch.equal(h, y[-1])
    """
    if failure := load_or_build(build=True):
        raise UnsupportedError(
            f"The native scan cannot run because {failure}.\n"
            "Expected a C++ compiler and ninja on this machine.\nUse fused, or install manifold-rnn[native]."
        )
    return run_engine(NativeEngine, form, x, h0, W, every_step, recompute)


class NativeEngine(Engine):
    """The engine of `native`."""

    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        H = h0.new_empty(len(x) + 1, *h0.shape)  # (T + 1, B, n)
        H[0] = h0
        keeps_argument = kernel_class(self.form.activation, is_complex=h0.is_complex()).keeps_argument
        Z = h0.new_empty(len(x), *h0.shape) if keeps_argument else None  # (T, B, n)
        call_library("forward", self.form.activation, self._inputs(x, h0), H, Z)
        return H, Z

    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: PerInput[bool]
    ) -> PerInput[Tensor | None]:
        needed = needed._replace(h0=True)
        return call_library("backward", self.form.activation, self._inputs(x, H[0]), H, Z, needed, gy, gh)

    def _inputs(self, x: Tensor, h0: Tensor) -> PerInput[Tensor | None]:
        form = self.form
        return PerInput(x, form.weight_ih, form.bias, form.threshold, self.W, h0)


class Native(ElmanBackend):
    """The scan by a C++ library, on a CPU. "auto" uses it only after `build_native`."""

    name = "native"

    def cannot_run(self, request: Request) -> str:
        tensors = (request.x, request.W, *request.state, *request.cell.weights.values())
        if any(t.device.type != "cpu" for t in tensors):
            return "it runs on a CPU only"
        if is_watched(*tensors):
            return "a dispatch mode or a tensor subclass has to see every operation"
        real = request.W.dtype.to_real()
        same_dtype = request.state[0].dtype == request.W.dtype and all(t.dtype.to_real() == real for t in tensors)
        if real not in DTYPE_NAMES or not same_dtype:
            return "it needs single or double precision, the same for all tensors"
        return super().cannot_run(request)

    def auto_declines(self, request: Request) -> str:
        if not is_built():
            return "manifold_rnn.nn.scan.build_native() was not called on this machine"
        few_steps = request.x.shape[:-1].numel() * _MATRIX_ROWS_PER_STEP < len(request.W)
        return "packing the matrix takes longer than so few products with it" if few_steps else ""

    def load(self, *, build: bool) -> str:
        return load_or_build(build=build)

    def scan(self, form: ElmanForm, x: Tensor, h0: Tensor, request: Request) -> tuple[Tensor | None, Tensor]:
        return native(form, x, h0, request.W, every_step=request.every_step, recompute=request.recompute)
