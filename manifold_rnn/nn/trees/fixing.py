"""Converts a search to a cell with the tree that was found, and the weights of the search."""

from collections.abc import Mapping
from typing import Literal

import torch

from ...constraints.constrain import constrain
from ...constraints.constraint import AnyConstraint
from ...errors import OptionError
from ..cells import Tree, TreeSearch
from ..cells.expressions import IDENTITY, Plain, trained_slots
from ..layer import Layer
from ..options import constraint_by_block
from .losses import require_target


@torch.no_grad()
def fix_structure(
    layer: Layer,
    structure: Plain,
    *,
    constraint: AnyConstraint | Mapping[str, AnyConstraint] | None = None,
    view: Literal["update", "trivialized"] = "update",
) -> Layer:
    """Return a layer of `manifold_rnn.nn.cells.Tree` with the weights of a `manifold_rnn.nn.cells.TreeSearch`.

    Parameters
    ----------
    layer : Layer
        Layer of a TreeSearch. It is not changed.
    structure : str or sequence of nodes
        Structure for all steps, such as ``diagnostics.structures(layer, data).most_frequent``.
    constraint, view
        As for `manifold_rnn.nn.Layer`. The copied weights must satisfy the constraint, as they do if the search had the
        same one. Default: no constraint.

    Returns
    -------
    Layer
        New layer with the sizes, levels, directions, backend and training mode of ``layer``. A frozen weight stays
        frozen. If the search chooses this structure with "hard", the outputs are equal.

    Raises
    ------
    OptionError
        If the cell of the layer is not a TreeSearch. If the structure is not valid for a Tree, or has a slot that the
        cell does not have.

    Notes
    -----
    The matrices that multiply the input are multiplied with ``weight_ih`` of the search, and then only the products are
    trained. The random state of torch is not changed.

    Examples
    --------
    >>> search = mr.nn.Layer(mr.nn.cells.TreeSearch(nodes=5, slots=4), 2, 8)
    >>> layer = mr.nn.trees.fix_structure(search, "gru")
    >>> assert torch.equal(layer.weight_hh_l0[:8], search.weight_hh_l0[8:16])  # R0
    """
    search = layer.cell
    if not isinstance(search, TreeSearch):
        raise OptionError(
            "fix_structure needs a layer of TreeSearch.\n"
            f"Got a layer of {type(search).__name__}.\nPass the layer whose structures were counted."
        )
    cell = Tree(structure)
    require_target(cell.structure, search.slots)
    weight = layer.weights(layer.suffixes[0])["weight_hh"]
    sizes = (layer.input_size, layer.hidden_size, layer.num_layers, layer.batch_first, layer.dropout)
    options = {"train_initial_state": layer.train_initial_state, "backend": layer.backend}
    devices = [weight.device] if weight.is_cuda else []
    with torch.random.fork_rng(devices=devices):  # the drawn weights are replaced below
        made = Layer(cell, *sizes, layer.bidirectional, weight.device, weight.dtype, **options)  # type: ignore[arg-type]
    n = layer.hidden_size
    for suffix in layer.suffixes:
        own, new = layer.weights(suffix), made.weights(suffix)
        blocks = dict(zip(search.gates, own["weight_hh"].split(n), strict=True))
        biases = own["bias"].split(n)
        inputs = [own["weight_ih"] if name == IDENTITY else blocks[name] @ own["weight_ih"] for name in cell.inputs]
        new["weight_ih"].copy_(torch.cat(inputs))
        new["weight_hh"].copy_(torch.cat([blocks[name] for name in cell.gates]))
        new["bias"].copy_(torch.cat([biases[slot] for slot in sorted(trained_slots(cell.nodes))]))
    for name, parameter in made.named_parameters():
        if name.startswith("initial_state"):
            parameter.copy_(layer.get_parameter(name))
    if constraint is not None:
        by_block = constraint_by_block(constraint, cell.gates)
        for suffix in made.suffixes:
            constrain(made, "weight_hh" + suffix, by_block, view=view, blocks=len(cell.gates))
    frozen = {_weight_name(name) for name, parameter in layer.named_parameters() if not parameter.requires_grad}
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(_weight_name(name) not in frozen)
    return made.train(layer.training)


def _weight_name(parameter: str) -> str:
    """Return the name of the weight of a parameter, which may be its coordinates."""
    return parameter.removeprefix("constraints.").split(".")[0]
