"""What the package refuses: the kind of error, what it says, and how to come to it in a scene of fresh tensors."""

import warnings
from typing import NamedTuple

import geoopt
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import linalg, manifolds, optim, retractions, testing
from manifold_rnn.errors import (
    CheckError,
    DeviceError,
    DtypeError,
    NonFiniteError,
    OffManifoldError,
    OptimizerError,
    OptionError,
    ShapeError,
    UnsupportedError,
)


class Scene:
    """Fresh tensors and modules for one refusal."""

    def __init__(self):
        g = self.generator = torch.Generator().manual_seed(0)
        self.O, self.U = manifolds.Orthogonal(), manifolds.Unitary()
        self.x = self.O.random(4, 4, generator=g)
        self.u = self.O.proju(self.x, torch.randn(4, 4, generator=g))
        self.z = self.U.random(4, 4, generator=g)
        self.flip = torch.diag(torch.tensor([1.0, 1.0, 1.0, -1.0]))
        self.turn = torch.tensor([[-0.6, -0.8], [0.8, -0.6]])  # by more than a quarter
        self.tall = torch.linalg.qr(torch.randn(4, 2, generator=g))[0]
        self.linear = nn.Linear(4, 4)
        self.tied = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        self.tied["b"].weight = self.tied["a"].weight
        self.update = mr.constrain(nn.Linear(4, 4), "weight", self.O)
        self.trivial = mr.constrain(nn.Linear(4, 4), "weight", self.O, view="trivialized")
        self.fixed = mr.constrain(nn.Linear(4, 4), "weight", mr.FixedBase(self.O), view="trivialized")
        self.lstm = nn.LSTM(3, 4)
        self.rnn = mr.nn.RNN(3, 4)

    def snapshot(self):
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        for name, module in vars(self).items():
            if isinstance(module, nn.Module) and not isinstance(module, geoopt.Manifold):
                tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items()}
        return {k: (type(v), v.detach().clone()) for k, v in tensors.items()}

    def spoiled(self, x):
        """A copy with one entry that is not finite, anywhere."""
        bad = [torch.nan, torch.inf, -torch.inf][int(torch.randint(3, (), generator=self.generator))]
        y = x.detach().clone(memory_format=torch.contiguous_format)
        y.view(-1)[int(torch.randint(y.numel(), (), generator=self.generator))] = bad
        return y

    def step(self, make, layer=None, spoil=False):
        """One step of an optimizer on the update-view layer."""
        layer = layer or self.update
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = make(layer.named_parameters())
        layer(torch.ones(4)).sum().backward()
        if spoil:
            layer.weight.grad = self.spoiled(layer.weight.grad)
        optimizer.step()

    def constrain(self, *args, layer=None, name="weight", **options):
        mr.constrain(layer or self.linear, name, *(args or (self.O,)), **options)

    def load(self, layer, **changes):
        state = layer.state_dict()
        layer.load_state_dict({**state, **{k: f(state[k]) for k, f in changes.items()}})


class Row(NamedTuple):
    kind: type
    message: str
    act: object


SGD, ADAM = optim.RiemannianSGD, optim.RiemannianAdam
meta = torch.empty(4, 4, device="meta")

ROWS = {
    # linalg
    "a vector is no matrix": Row(ShapeError, r"square.*got \(4,\)", lambda s: linalg.cayley(s.x[0])),
    "a number is no matrix": Row(ShapeError, r"got \(\)", lambda s: linalg.expm_skew(s.x[0, 0])),
    "a tall matrix is not square": Row(ShapeError, r"square.*got \(4, 2\)", lambda s: linalg.skew(s.tall)),
    "a wide matrix is not tall": Row(ShapeError, r"tall.*got \(2, 4\)", lambda s: linalg.qr(s.tall.mT)),
    "n = 0": Row(ShapeError, r"at least 1 x 1.*got \(0, 0\)", lambda s: linalg.polar(s.x[:0, :0])),
    "integers": Row(DtypeError, "int64", lambda s: linalg.cayley(s.x.long())),
    "booleans": Row(DtypeError, "bool", lambda s: linalg.pack_skew(s.x.bool())),
    "a list": Row(DtypeError, "needs tensors.*list", lambda s: linalg.defect(s.x.tolist())),
    "complex coordinates": Row(DtypeError, "Coordinates must be real", lambda s: linalg.unpack_skew(s.z[0])),
    "no n has 4 coordinates": Row(ShapeError, "got 4 for a real", lambda s: linalg.unpack_skew(s.x[0])),
    "no n has 3 if complex": Row(
        ShapeError, "got 3 for a complex", lambda s: linalg.unpack_skew(s.x[0, :3], torch.complex64)
    ),
    "logarithm at -1": Row(OffManifoldError, "eigenvalue -1", lambda s: linalg.logm_unitary(-s.x @ s.x.mT)),
    # retractions
    "unknown retraction": Row(OptionError, "cayley, exp, polar, qr.*'caley'", lambda s: manifolds.Orthogonal("caley")),
    "a class for a retraction": Row(OptionError, "Retraction object", lambda s: retractions.get(retractions.QR)),
    "order on an unknown manifold": Row(
        UnsupportedError, "check_retraction", lambda s: retractions.Cayley().order(geoopt.Sphere())
    ),
    "Cayley inverse at -1": Row(
        OffManifoldError, "Cayley.*eigenvalue -1", lambda s: retractions.Cayley().inverse(s.x, s.x @ s.flip)
    ),
    "exponential inverse at -1": Row(
        OffManifoldError, "-1.*not unique", lambda s: retractions.Exponential().inverse(s.x, -s.x)
    ),
    "polar inverse out of reach": Row(
        OffManifoldError, r"positive real part.*-0\.6", lambda s: retractions.Polar().inverse_group_map(s.turn)
    ),
    "QR inverse out of reach": Row(
        OffManifoldError, r"positive diagonal.*R\[0, 0\]", lambda s: retractions.QR().inverse_group_map(s.turn)
    ),
    "inverse of a tall exponential": Row(
        UnsupportedError, "no closed inverse", lambda s: retractions.Exponential().inverse(s.tall, s.tall)
    ),
    # manifolds
    "a tall point": Row(ShapeError, r"Orthogonal.*square.*\(4, 2\)", lambda s: s.O.projx(s.tall)),
    "a complex point of O": Row(DtypeError, "real.*complex64.*Unitary", lambda s: s.O.projx(s.z)),
    "a real point of U": Row(DtypeError, "complex.*float32.*Orthogonal", lambda s: s.U.retr(s.x, s.u)),
    "an odd real form": Row(ShapeError, r"even n.*\(3, 3\)", lambda s: manifolds.UnitaryRealForm().projx(s.x[:3, :3])),
    "a point of integers": Row(DtypeError, "int32", lambda s: s.O.require(s.x.int())),
    "shapes that do not meet": Row(ShapeError, r"4, 4\), got \(3, 3\)", lambda s: s.O.retr(s.x, s.u[:3, :3])),
    "batches that do not meet": Row(
        ShapeError, "broadcast", lambda s: s.O.expmap(s.x.expand(3, 4, 4), s.u.expand(2, 4, 4))
    ),
    "dtypes that do not meet": Row(DtypeError, "float32, got torch.float64", lambda s: s.O.proju(s.x, s.u.double())),
    "devices that do not meet": Row(DeviceError, "cpu, got meta", lambda s: s.O.transp(s.x, meta, s.u)),
    "coordinates of another size": Row(
        ShapeError, r"4, 4\), got \(3, 3\)", lambda s: s.O.retr_coordinates(s.x, s.x[0, :3])
    ),
    "coordinates of another dtype": Row(
        DtypeError, "float64", lambda s: s.O.retr_coordinates(s.x, torch.zeros(6, dtype=torch.float64))
    ),
    "a point that is not finite": Row(NonFiniteError, "1 of 16", lambda s: s.O.projx(s.spoiled(s.x))),
    "logarithm of what is not finite": Row(NonFiniteError, "finite", lambda s: s.O.logmap(s.x, s.spoiled(s.x))),
    "distance between components": Row(OffManifoldError, "determinant -1", lambda s: s.O.dist(s.x, s.x @ s.flip)),
    "logarithm outside SO": Row(
        OffManifoldError, "-1", lambda s: manifolds.SpecialOrthogonal().logmap(torch.eye(4), s.flip)
    ),
    "random points of no size": Row(ShapeError, r"\(0, 0\)", lambda s: s.O.random(0, 0)),
    "random points of integers": Row(DtypeError, "int64", lambda s: s.O.random(3, 3, dtype=torch.int64)),
    "blocks of none": Row(OptionError, "blocks=0", lambda s: manifolds.Blocks(s.O, 0)),
    "blocks in words": Row(OptionError, "blocks='four'", lambda s: manifolds.Blocks(s.O, "four")),
    "a block that is not there": Row(OptionError, r"which=\(4,\)", lambda s: manifolds.Blocks(s.O, 4, (4,))),
    "a block twice": Row(OptionError, r"which=\(1, 1\)", lambda s: manifolds.Blocks(s.O, 4, (1, 1))),
    "rows that do not divide": Row(ShapeError, "3 equal blocks", lambda s: manifolds.Blocks(s.O, 3).require(s.x)),
    "a class for a manifold": Row(UnsupportedError, "object such as", lambda s: manifolds.adapt(manifolds.Orthogonal)),
    "another retraction for geoopt's": Row(
        UnsupportedError, "its own retraction", lambda s: manifolds.adapt(geoopt.Sphere()).with_retraction("qr")
    ),
    "inverse of geoopt's retraction": Row(
        UnsupportedError,
        "no inverse",
        lambda s: manifolds.adapt(geoopt.EuclideanStiefel()).inverse_retr_coordinates(s.x, s.x),
    ),
    # constraints
    "unknown view": Row(OptionError, "view.*'updated'", lambda s: s.constrain(view="updated")),
    "unknown init": Row(OptionError, "init.*'harr'", lambda s: s.constrain(init="harr")),
    "unknown on_load": Row(OptionError, "on_load", lambda s: s.constrain(on_load="ignore")),
    "an init of another shape": Row(OptionError, r"init.*\(4, 4\)", lambda s: s.constrain(init=lambda w: w[0])),
    "no such weight": Row(OptionError, "'wieght'.*weight, bias", lambda s: s.constrain(name="wieght")),
    "constrained twice": Row(OptionError, "not constrained yet", lambda s: s.constrain(layer=s.update)),
    "a word for a constraint": Row(OptionError, "constraint", lambda s: s.constrain("orthogonal")),
    "a weight that is not square": Row(ShapeError, "square", lambda s: s.constrain(layer=s.lstm, name="weight_hh_l0")),
    "a real weight on U": Row(DtypeError, "complex", lambda s: s.constrain(s.U)),
    "a weight that is not finite": Row(NonFiniteError, "finite", lambda s: s.constrain(init=lambda w: s.spoiled(w))),
    "a kernel that is not square": Row(
        ShapeError, "n, n.*matrix_dims", lambda s: mr.constrain(nn.Conv2d(2, 2, 2), "weight", s.O)
    ),
    "dims that are no pair": Row(OptionError, "pair", lambda s: s.constrain(matrix_dims=(0, 1, 2))),
    "a dim that is not there": Row(OptionError, "axes.*from -2 to 1", lambda s: s.constrain(matrix_dims=(0, 2))),
    "a dim twice": Row(OptionError, "each once", lambda s: s.constrain(matrix_dims=(0, (0, 1)))),
    "a dim from both ends": Row(OptionError, r"each once.*\(0, -2\)", lambda s: s.constrain(matrix_dims=(0, -2))),
    "no dim": Row(OptionError, "pair", lambda s: s.constrain(matrix_dims=(0, ()))),
    "rows of a kernel that do not divide": Row(
        ShapeError,
        "4 equal blocks.*matrix_dims",
        lambda s: mr.constrain(nn.Conv2d(2, 6, 2), "weight", mr.Stiefel(), blocks=4),
    ),
    "dims from the front in a view": Row(
        OptionError, "from the end", lambda s: manifolds.Blocks(s.O, matrix_dims=(0, 1))
    ),
    "a wrong size on the meta device": Row(
        ShapeError, "square", lambda s: mr.constrain(nn.Linear(3, 4, device="meta"), "weight", s.O)
    ),
    "a wrong dtype on the meta device": Row(
        DtypeError, "complex", lambda s: mr.constrain(nn.Linear(4, 4, device="meta"), "weight", s.U)
    ),
    "a constraint that needs numbers on the meta device": Row(
        UnsupportedError,
        "meta device",
        lambda s: mr.constrain(nn.Linear(4, 4, device="meta"), "weight", mr.SchurDisc(), view="trivialized"),
    ),
    "a kernel for a structured constraint of square matrices": Row(
        ShapeError,
        "n, n",
        lambda s: mr.constrain(nn.Conv2d(4, 4, 3), "weight", mr.FixedBase(s.O), view="trivialized"),
    ),
    "a tie that would be torn": Row(
        UnsupportedError,
        "'a.weight' is tied to 'b.weight'",
        lambda s: mr.constrain(s.tied, "a.weight", s.O, view="trivialized"),
    ),
    "a structured constraint in the update view": Row(
        UnsupportedError, "structured.*'update'", lambda s: s.constrain(mr.FixedBase(s.O), view="update")
    ),
    "phases for real weights": Row(OptionError, "complex", lambda s: mr.PhaseScaled(s.O)),
    "rebasing under phases": Row(
        UnsupportedError,
        "phases",
        lambda s: (
            mr.constrain(nn.Linear(4, 4, dtype=torch.complex64), "weight", mr.PhaseScaled(s.U), view="trivialized")
            .constraints["weight"]
            .rebase()
        ),
    ),
    "too many signs": Row(
        OptionError, "0 to 4, got 5", lambda s: s.constrain(mr.FixedBase(s.O, negatives=5), view="trivialized")
    ),
    "releasing what is free": Row(OptionError, "no constrained weight", lambda s: mr.release(s.linear, "weight")),
    "unknown retraction for a weight": Row(OptionError, "'rq'", lambda s: mr.set_retraction(s.update, "weight", "rq")),
    "a pattern that matches nothing": Row(
        OptionError, "matches none", lambda s: mr.constrain_matching(s.lstm, {"*.kernel": s.O})
    ),
    "a plain optimizer on the update view": Row(
        OptimizerError, "SGD.*weight.*plain", lambda s: s.step(lambda p: torch.optim.SGD([v for _, v in p], 0.1))
    ),
    "loading off the manifold": Row(
        OffManifoldError, "defect of at most", lambda s: s.load(s.update, weight=lambda w: 1.1 * w)
    ),
    "loading what is not finite": Row(NonFiniteError, "1 of 16", lambda s: s.load(s.update, weight=s.spoiled)),
    "loading a base off the manifold": Row(
        OffManifoldError,
        "defect of at most",
        lambda s: s.load(s.trivial, **{"constraints.weight.base": lambda w: 2 * w}),
    ),
    "rebasing a fixed base": Row(UnsupportedError, "fixed", lambda s: s.fixed.constraints["weight"].rebase()),
    # optim
    "a negative rate": Row(OptionError, "lr.*-0.1", lambda s: SGD(s.update.parameters(), lr=-0.1)),
    "a negative momentum": Row(OptionError, "momentum", lambda s: SGD(s.update.parameters(), momentum=-1)),
    "Nesterov without momentum": Row(OptionError, "nesterov", lambda s: SGD(s.update.parameters(), nesterov=True)),
    "betas of one": Row(OptionError, r"betas.*\[0, 1\)", lambda s: ADAM(s.update.parameters(), betas=(0.9, 1.0))),
    "unknown second moment": Row(
        OptionError, "second_moment.*'row'", lambda s: ADAM(s.update.parameters(), second_moment="row")
    ),
    "unknown on_nonfinite": Row(
        OptionError, "on_nonfinite.*'ignore'", lambda s: SGD(s.update.parameters(), on_nonfinite="ignore")
    ),
    "a polish of half a step": Row(OptionError, "polish_every", lambda s: SGD(s.update.parameters(), polish_every=0.5)),
    "a keyword of torch's that has no meaning": Row(
        OptionError, "has no option .foreach", lambda s: ADAM(s.update.parameters(), foreach=True)
    ),
    "a gradient that is not finite (sgd)": Row(
        NonFiniteError, "parameter weight.*4, 4", lambda s: s.step(lambda p: SGD(p, lr=0.1), spoil=True)
    ),
    "a gradient that is not finite (adam)": Row(
        NonFiniteError, "1 of 16", lambda s: s.step(lambda p: ADAM(p, lr=0.1), spoil=True)
    ),
    "an averaging of more than all": Row(
        OptionError, r"alpha.*\[0, 1\)", lambda s: optim.RiemannianRMSprop(s.update.parameters(), alpha=1.5)
    ),
    "a negative start": Row(
        OptionError,
        "initial_accumulator_value.*-1",
        lambda s: optim.RiemannianAdagrad(s.update.parameters(), initial_accumulator_value=-1.0),
    ),
    "a landing beyond reach": Row(
        OptionError, "epsilon.*between 0 and 1", lambda s: optim.Landing(s.update.parameters(), epsilon=2.0)
    ),
    "a landing on a disc": Row(
        UnsupportedError,
        "Landing.*UnitDisc",
        lambda s: optim.Landing(mr.constrain(s.linear, "weight", mr.UnitDisc()).parameters()),
    ),
    "a landing that polishes": Row(
        OptionError, "has no option .polish_every", lambda s: optim.Landing(s.update.parameters(), polish_every=1)
    ),
    # nn
    "an input of another size": Row(ShapeError, "input_size 3", lambda s: s.rnn(torch.zeros(5, 2, 4))),
    "an input of another dtype": Row(DtypeError, "float64", lambda s: s.rnn(torch.zeros(5, 2, 3).double())),
    "an input elsewhere": Row(DeviceError, "cpu, got meta", lambda s: s.rnn(torch.zeros(5, 2, 3, device="meta"))),
    "a state of another shape": Row(ShapeError, "hx", lambda s: s.rnn(torch.zeros(5, 2, 3), torch.zeros(1, 3, 4))),
    "unknown nonlinearity": Row(OptionError, "'tan'", lambda s: mr.nn.RNN(3, 4, nonlinearity="tan")),
    "no short memory": Row(OptionError, "short_size", lambda s: mr.zoo.enrnn(1, 4, 2, short_size=4)),
    # discs, contractions, block triangles
    "a radius of zero": Row(OptionError, "positive", lambda s: manifolds.UnitDisc(0.0)),
    "a bound that is not finite": Row(OptionError, "inf", lambda s: manifolds.Contraction(float("inf"))),
    "an unknown measure": Row(OptionError, "'radius' or 'norm'", lambda s: manifolds.SpectralScaled("trace")),
    "a limit of zero": Row(OptionError, "positive", lambda s: manifolds.SpectralScaled("norm", 0)),
    "the radius of a tall matrix": Row(ShapeError, "square", lambda s: manifolds.SpectralScaled().projx(s.tall)),
    "scaling a vector by its norm": Row(ShapeError, "n, p", lambda s: manifolds.SpectralScaled("norm").projx(s.x[0])),
    "unknown blocks": Row(OptionError, "'rotation'", lambda s: mr.SchurDisc(blocks="turn")),
    "a tall matrix has no eigenvalues": Row(ShapeError, "square", lambda s: linalg.spectral_radius(s.tall)),
    "spectral radius of NaN": Row(NonFiniteError, "of 16", lambda s: linalg.spectral_radius(s.spoiled(s.x))),
    "spectral condition of NaN": Row(NonFiniteError, "of 16", lambda s: linalg.spectral_condition(s.spoiled(s.x))),
    "a disc around NaN": Row(NonFiniteError, "of 16", lambda s: manifolds.UnitDisc().projx(s.spoiled(s.x))),
    "a contraction of NaN": Row(NonFiniteError, "of 16", lambda s: manifolds.Contraction().projx(s.spoiled(s.x))),
    "a contraction of integers": Row(DtypeError, "int64", lambda s: manifolds.Contraction().projx(s.x.long())),
    "a vector is no contraction": Row(ShapeError, "n, p", lambda s: manifolds.Contraction().projx(s.x[0])),
    "singular values up to zero": Row(OptionError, "positive", lambda s: linalg.clip_singular_values(s.x, 0.0)),
    "real diagonal": Row(DtypeError, "SchurDisc", lambda s: s.constrain(mr.DiagonalDisc(), view="trivialized")),
    "distance in a set that is not convex": Row(
        UnsupportedError, "convex", lambda s: manifolds.UnitDisc().dist(s.x, s.x)
    ),
    "a retraction for a disc": Row(
        UnsupportedError, "its own retraction", lambda s: manifolds.UnitDisc().with_retraction("qr")
    ),
    "a Schur form in the update view": Row(
        UnsupportedError, "trivialized", lambda s: s.constrain(mr.SchurDisc(), view="update")
    ),
    "the sticky rule in the update view": Row(
        UnsupportedError, "trivialized", lambda s: s.constrain(mr.StickyDisc(), view="update")
    ),
    "a block that is a class": Row(
        OptionError, "top", lambda s: manifolds.BlockTriangular(mr.Orthogonal, mr.UnitDisc())
    ),
    "a split of zero rows": Row(OptionError, "rows", lambda s: manifolds.BlockTriangular(s.O, s.O, split=0)),
    "no row for the bottom": Row(ShapeError, "n > 4", lambda s: manifolds.BlockTriangular(s.O, s.O, 4).require(s.x)),
    # testing
    "a failed check": Row(
        CheckError, "first_order", lambda s: testing.check_retraction(geoopt.CanonicalStiefel(), strict=True)
    ),
    "points that a manifold does not make": Row(
        UnsupportedError, "Pass points as x", lambda s: testing.check_manifold(geoopt.Lorentz())
    ),
}
