"""What a search may draw, in Optuna's terms."""

import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


def distribution(space: Mapping[str, Any]) -> BaseDistribution:
    """Return the distribution of a range, whole numbers if both of its ends are, or of choices."""
    if "choices" in space:
        return CategoricalDistribution([_name(value) for value in space["choices"]])
    low, high, log = space["low"], space["high"], space.get("log", False)
    whole = isinstance(low, int) and isinstance(high, int)
    return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)


def value(space: Mapping[str, Any], drawn: Any) -> Any:
    """Return the value that was drawn."""
    if "choices" not in space:
        return drawn
    return space["choices"][[_name(entry) for entry in space["choices"]].index(drawn)]


def _name(entry: Any) -> Any:
    return json.dumps(entry, sort_keys=True) if isinstance(entry, (Mapping, list)) else entry
