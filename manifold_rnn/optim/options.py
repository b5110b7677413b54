"""The options that optimizers share."""

from __future__ import annotations

from typing import Literal, TypedDict

OnNonFinite = Literal["raise", "skip"]


class StepOptions(TypedDict, total=False):
    """The keyword options of every optimizer. `RiemannianOptimizer` documents them."""

    maximize: bool
    on_nonfinite: OnNonFinite
    capturable: bool


class RetractionOptions(StepOptions, total=False):
    """Those of an optimizer that retracts to the manifold at every step."""

    polish_every: int | None


DEFAULTS: RetractionOptions = {"maximize": False, "on_nonfinite": "raise", "capturable": False, "polish_every": None}
