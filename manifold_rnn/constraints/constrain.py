"""Constrain a weight of any layer, release it, or change its retraction."""

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

    In the *update* view the weight stays a parameter, and a Riemannian optimizer moves it on the manifold. In the
    *trivialized* view the weight is computed as :math:`W = R_B(c)`, once per forward of ``module``. You train the free
    coordinates ``c`` with an optimizer of torch. In both views ``module.<name>`` is a plain dense tensor.

    Parameters
    ----------
    module : nn.Module
        The layer that owns the weight, or a module that contains this layer if ``name`` has dots.
    name : str
        The name of the parameter, such as ``"weight_hh_l0"``. Use dots if ``module`` itself reads the weight of a
        child, such as ``"out_proj.weight"`` of attention. The weight is then computed once per forward of ``module``.
    constraint : geoopt.Manifold or Constraint
        A manifold of this package or of geoopt, or a structured constraint such as `FixedBase` (trivialized view only).
        To constrain single blocks, pass a mapping from block numbers: ``{2: Orthogonal()}`` constrains only the third
        gate. Blocks with different constraints have only the trivialized view, see `Assembled`.
    view : "update" or "trivialized", optional
        See above. Default: "update" for manifolds, and "trivialized" for structured constraints. In the update view
        ``module.<name>`` is a ``geoopt.ManifoldParameter``. In the trivialized view it is a property;
        ``module.constraints[<name>].coordinates`` is the parameter, and ``.base`` is a buffer.
    rebase_every : int, optional
        Trivialized view: move ``B`` to ``W`` after this many steps of the optimizer that trains ``c``.
    blocks : int
        Number of matrices stacked in the rows: 4 (gates i, f, g, o) for an LSTM, and 3 (r, z, n) for a GRU. For the
        packed projection of attention it is three times the number of heads.
    which : sequence of int, optional
        The blocks to constrain, by default all. The other blocks stay free.
    matrix_dims : pair of int or sequence of int, optional
        The axes that are flattened into the rows of the matrix, and the axes flattened into its columns. All other axes
        are a batch of matrices, and ``blocks`` divides the rows. Default: the last two axes. For the kernel of a
        convolution: the first axis and all others, with one block per group unless ``blocks`` is given. The kernel of a
        transposed convolution is read as that of its adjoint, the convolution with the same kernel.
    init : "keep", "haar" or callable
        Start from the projection of the present weight, a random point, or the projection of ``init(weight)``.
    on_load : "raise" or "project"
        Whether ``load_state_dict`` raises for a weight that is off the manifold, or projects it.

    Returns
    -------
    nn.Module
        ``module`` itself.

    Raises
    ------
    OptionError
        If an option is unknown, the module has no free parameter of this name, or a module that shares the parameter
        has another constraint for it.
    UnsupportedError
        If the weight is lazy, sharded or tied to a weight that would not follow, or the constraint lacks the view. If
        the owner is a ``Sequential``, ``ModuleList`` or ``ModuleDict``. In the trivialized view also if the gradients
        of the weight are sparse.
    ShapeError, DtypeError, NonFiniteError
        If the weight cannot be a point of the manifold. After any error the module is unchanged.

    Notes
    -----
    In the update view, state dicts keep the key ``<name>``. In the trivialized view they contain
    ``constraints.<name>.coordinates`` and ``constraints.<name>.base``, and ``steps`` if ``rebase_every`` is given. The
    child module is called ``_constraints`` if ``constraints`` is already taken.

    Wide matrices and blocks are transposed for manifolds of tall matrices. Tied weights stay tied in the update view,
    and with `constrain_matching` in both views. A weight on the meta device gets its value from ``load_state_dict``.

    A convolution with an orthogonal flattened kernel is not an orthogonal map between images, because its patches
    overlap; use `OrthogonalConv`. To average weights, use `optim.average`. Do not fill a constrained weight with
    ``torch.nn.init``, since the result is off the manifold: pass ``init``.

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
    """Remove the constraint of a weight, in place. A plain parameter with the same value remains.

    Parameters
    ----------
    module : nn.Module
        The module that was passed to `constrain`.
    name : str
        The name of the constrained weight.

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
    In the update view the parameter object stays the same. In the trivialized view the parameter is new: build a new
    optimizer, and tie weights again that were tied. A weight that was frozen before an adapter constrained it is frozen
    again.

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
    """Change the retraction of a constrained weight. The weight keeps its value.

    Parameters
    ----------
    module : nn.Module
        The module that was passed to `constrain`.
    name : str
        The name of the constrained weight.
    retraction : str or Retraction
        ``"cayley"``, ``"exp"``, ``"qr"``, ``"polar"`` or an object of `manifold_rnn.retractions`.

    Returns
    -------
    nn.Module
        ``module`` itself.

    Raises
    ------
    OptionError
        If the weight is not constrained, or the retraction is unknown.
    UnsupportedError
        If the constraint has only one retraction.
    OffManifoldError
        If the base is fixed and the new retraction does not reach the weight.

    Notes
    -----
    In the trivialized view the base moves to the weight, and the coordinates become 0. With `FixedBase` the base stays,
    and new coordinates are computed. For a weight assembled from parts, every part that has a retraction changes.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal("cayley"))
    >>> assert mr.set_retraction(layer, "weight", "exp").weight.manifold.retraction.name == "exp"
    """
    owner, leaf = owner_of(module, name)
    entry_of(owner, leaf).set_retraction(get(retraction))
    return module
