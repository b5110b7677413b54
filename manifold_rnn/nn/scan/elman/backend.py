"""The base class of backends that run the Elman form of a cell."""

from abc import abstractmethod
from functools import partial

from torch import Tensor

from ...cells.base import State
from ...cells.elman_form import ElmanForm
from ..base import Backend, Request
from ..sequences import scan_sequences


class ElmanBackend(Backend):
    """A backend that runs any cell with an `ElmanForm`."""

    @abstractmethod
    def scan(self, form: ElmanForm, x: Tensor, h0: Tensor, request: Request) -> tuple[Tensor | None, Tensor]:
        """Return the states (T, B, n) or None, and the last state, for inputs (T, B, m) and an initial state (B, n)."""

    def run(self, request: Request) -> tuple[Tensor | None, State]:
        form = request.elman_form
        assert form is not None
        scan = partial(self._scan_cell, form, request)
        return scan_sequences(scan, request.x, request.state, request.batch_sizes, request.reverse)

    def cannot_run(self, request: Request) -> str:
        return "the cell has no Elman form" if request.elman_form is None else ""

    def _scan_cell(self, form: ElmanForm, request: Request, x: Tensor, state: State) -> tuple[Tensor | None, State]:
        inputs, rest = request.cell.elman_inputs(x, state)
        y, h = self.scan(form, inputs, state[0], request)
        return y, (h, *rest)
