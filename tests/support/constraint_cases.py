"""Every constraint and manifold that a public name stands for, for laws that hold for all of them."""

import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import constraints, manifolds

ARGUMENTS = ((), (mr.Orthogonal(),), (mr.Unitary(),), (0.1, 0.2), (2,))
EXTRA = {
    "gates": mr.manifolds.Blocks(mr.Orthogonal(), 2),
    "wide": mr.manifolds.Blocks(mr.Stiefel(), transpose=True),
    "hyperball": mr.Sphere((-2, -1), radius="init"),
    "columns": mr.Oblique(-2),
    "scaled by norm": mr.SpectralScaled("norm"),
    "triangle": mr.block_triangular(mr.Orthogonal(), mr.UnitDisc()),
    "saved adapter": mr.OrthogonalAdapter(2, save_base=True),
    "enrnn": mr.block_triangular(mr.Orthogonal(), mr.StickyDisc()),
}
SHAPES = {"gates": (8, 4), "wide": (3, 5)}


def _made(kind):
    for arguments in ARGUMENTS:
        try:
            yield kind(*arguments)
        except (TypeError, ValueError, AttributeError, mr.errors.ManifoldError):
            continue


def _all():
    for package, base in ((constraints, constraints.Constraint), (manifolds, manifolds.Manifold)):
        for name in package.__all__:
            kind = getattr(package, name)
            if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
                for k, constraint in enumerate(_made(kind)):
                    yield f"{name}{k or ''}", constraint
    yield from EXTRA.items()


CONSTRAINTS = dict(_all())
VIEWS = ("update", "trivialized")


def constrained(name, view, dtype=torch.float64, **options):
    """A layer under the constraint of that name, None where it has no such weight or view."""
    torch.manual_seed(0)
    rows, columns = SHAPES.get(name, (4, 4))
    try:
        layer = nn.Linear(columns, rows, bias=False, dtype=dtype)
        return mr.constrain(layer, "weight", CONSTRAINTS[name], view=view, **options)
    except mr.errors.ManifoldError:
        return None


def supported(*dtypes):
    """The rows (name, view, dtype) that exist."""
    rows = [(name, view, dtype) for name in CONSTRAINTS for view in VIEWS for dtype in dtypes]
    return [row for row in rows if constrained(*row) is not None]
