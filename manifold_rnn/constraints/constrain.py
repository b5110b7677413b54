"""Put a weight of any layer onto a manifold, take it off again, change how it moves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import geoopt
import torch
from torch import Tensor, nn

from ..retractions import Retraction, get
from . import computed_weight, update
from .constraint import Constraint
from .options import MatrixDims, Options, chosen_view
from .preparation import owner_of, prepare, refuse_torn_ties
from .registry import entry_of
from .scope import scope, unscope_if_free

_M = TypeVar("_M", bound=nn.Module)

Init = Literal["keep", "haar"] | Callable[[Tensor], Tensor]


def constrain(
    module: _M,
    name: str,
    constraint: geoopt.Manifold | Constraint | Mapping[int, geoopt.Manifold | Constraint],
    *,
    view: Literal["update", "trivialized"] | None = None,
    rebase_every: int | None = None,
    blocks: int = 1,
    which: Sequence[int] | None = None,
    matrix_dims: MatrixDims | None = None,
    init: Init = "keep",
    on_load: Literal["raise", "project"] = "raise",
) -> _M:
    r"""Constrain one weight of a module to a manifold, in place.

    In the *update* view the weight stays the parameter and a Riemannian optimizer moves it on the manifold. In the
    *trivialized* view it is computed as :math:`W = R_B(c)`, once per forward of ``module``, from free coordinates ``c``
    that any torch optimizer trains. Everything that reads ``module.<name>`` sees a plain dense tensor.

    Parameters
    ----------
    module : nn.Module
        Any layer; one that holds the owner of the weight if ``name`` has dots.
    name : str
        The parameter, such as ``"weight_hh_l0"``. With dots (``"out_proj.weight"`` of attention) the weight is computed
        once per forward of ``module`` also where ``module`` reads it past its owner.
    constraint : geoopt.Manifold or Constraint
        A manifold of this package or of geoopt, or a structured constraint such as `FixedBase` (trivialized view only);
        or several, by the number of the block in the rows: ``{2: Orthogonal()}`` for the third gate alone. Blocks with
        different constraints have the trivialized view only, see `Assembled`.
    view : "update" or "trivialized", optional
        See above. Default: "update" for manifolds, and "trivialized" for structured constraints. ``module.<name>`` is a
        ``geoopt.ManifoldParameter`` in the first and a property in the second, where
        ``module.constraints[<name>].coordinates`` is the parameter and ``.base`` a buffer.
    rebase_every : int, optional
        Trivialized view: move ``B`` to ``W`` after every so many steps of the optimizer that trains ``c``.
    blocks : int
        Number of matrices stacked in the rows: 4 gates (i, f, g, o) for LSTM, 3 (r, z, n) for GRU, three times the
        heads for the packed projection of attention.
    which : sequence of int, optional
        The blocks that are constrained, by default all; the others stay free.
    matrix_dims : pair of int or sequence of int, optional
        The axes of the weight that are flattened into the rows of the matrix, and those into its columns; all others
        are a batch of matrices, and ``blocks`` cuts the rows. Default: the last two axes; for the kernel of a
        convolution the first axis and all others, with one block a group unless ``blocks`` says otherwise. A
        transposed convolution is the adjoint of the convolution with the same kernel, and its kernel is read like that.
    init : "keep", "haar" or callable
        Start from the projection of the weight found, from a random point, or from the projection of ``init(weight)``.
    on_load : "raise" or "project"
        What ``load_state_dict`` does with a weight that is off the manifold.

    Returns
    -------
    nn.Module
        ``module`` itself.

    Raises
    ------
    OptionError
        If an option is unknown, or no free parameter has this name.
    UnsupportedError
        If the weight is lazy, sharded or tied to one that would not follow, or the constraint lacks the view.
    ShapeError, DtypeError, NonFiniteError
        If the weight cannot be a point. After any error the module is as before.

    Notes
    -----
    State dicts keep the key ``<name>`` in the update view; in the other they have ``constraints.<name>.coordinates``
    and ``constraints.<name>.base``, with ``rebase_every`` also ``steps``. The child is called ``_constraints`` where
    ``constraints`` is taken. Wide matrices and blocks are transposed for manifolds of tall ones. An orthogonal kernel,
    flattened, is no orthogonal convolution: where patches overlap, the map from image to image is not orthogonal. Tied
    weights stay tied in the update view, and in both with `constrain_matching`. A weight on the meta device waits for
    ``load_state_dict``. Averages of weights are those of `optim.average`. Weights filled by ``torch.nn.init`` are
    off the manifold: use ``init``.

    Examples
    --------
    >>> lstm = mr.constrain(torch.nn.LSTM(2, 3), "weight_hh_l0", mr.Orthogonal(), blocks=4, which=(2,))
    >>> assert mr.linalg.defect(lstm.weight_hh_l0[6:9]) < 1e-5
    """
    owner, leaf = owner_of(module, name)
    options = Options(chosen_view(constraint, view), rebase_every, blocks, which, matrix_dims, init, on_load)
    attach = prepare(owner, leaf, constraint, options)
    if options.view == "trivialized":
        refuse_torn_ties(module, (name,))
    attach(owner, leaf)
    if owner is not module and options.view == "trivialized":
        scope(module)
    return module


def release(module: _M, name: str) -> _M:
    """Take the constraint off a weight, in place: what stays is a plain parameter with the same value.

    Parameters
    ----------
    module : nn.Module
        As for `constrain`.
    name : str
        The constrained weight.

    Returns
    -------
    nn.Module
        ``module`` itself.

    Raises
    ------
    OptionError
        If the weight is not constrained.

    Notes
    -----
    In the update view the parameter keeps its identity; in the trivialized view it is new, so build a new
    optimizer, and tie anew what was tied. A weight that was frozen before it got an adapter is frozen again.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal(), view="trivialized")
    >>> assert type(mr.release(layer, "weight").weight) is torch.nn.Parameter and type(layer) is torch.nn.Linear
    """
    owner, leaf = owner_of(module, name)
    entry = entry_of(owner, leaf)
    if entry.is_stored_by_module:
        update.detach(owner, leaf, entry)
    else:
        with torch.no_grad():
            computed_weight.detach(owner, leaf, entry())
        unscope_if_free(module)
    return module


def set_retraction(module: _M, name: str, retraction: Retraction | str) -> _M:
    """Change the retraction of a constrained weight, which keeps its value.

    Parameters
    ----------
    module : nn.Module
        As for `constrain`.
    name : str
        The constrained weight.
    retraction : str or Retraction
        ``"cayley"``, ``"exp"``, ``"qr"``, ``"polar"`` or an object of `manifold_rnn.retractions`.

    Returns
    -------
    nn.Module
        ``module`` itself.

    Raises
    ------
    OptionError
        If the weight is not constrained or the retraction unknown.
    UnsupportedError
        If the constraint has one retraction only.
    OffManifoldError
        If the base is fixed and the new retraction does not reach the weight.

    Notes
    -----
    In the trivialized view the base moves to the weight and the coordinates to 0; with `FixedBase` the base stays and
    new coordinates are solved for. Of a weight that is assembled from parts, every part that has a retraction changes.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal("cayley"))
    >>> assert mr.set_retraction(layer, "weight", "exp").weight.manifold.retraction.name == "exp"
    """
    owner, leaf = owner_of(module, name)
    entry_of(owner, leaf).set_retraction(get(retraction))
    return module
