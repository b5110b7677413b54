"""What subspaces, positive definite matrices, fixed spectra and diagonal Gram matrices refuse, and how they say it."""

import re

import pytest
import torch
from support.error_cases import Row, Scene
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors
from manifold_rnn.errors import DtypeError, NonFiniteError, OffManifoldError, OptionError, ShapeError, UnsupportedError

Gr, SPD, SPECTRUM, GRAM = mr.Grassmann(), mr.SPD(), mr.FixedSpectrum(), mr.DiagonalGram()


def computed(constraint, weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    return mr.constrain(layer, "weight", constraint, view="trivialized", init=lambda _: weight)


def positive(s):
    return s.x @ s.x.mT + torch.eye(4)


def loaded(s, factor):
    layer = computed(SPECTRUM, s.x)
    state = {key: value * factor if key.endswith("values") else value for key, value in layer.state_dict().items()}
    layer.load_state_dict(state)


def orthogonal_subspaces(s):
    eye = torch.eye(4)
    Gr.logmap(eye[:, :2], eye[:, 2:])


ROWS = {
    "a subspace of more columns than rows": Row(ShapeError, "n >= p", lambda s: Gr.projx(s.tall.mT)),
    "a subspace of integers": Row(DtypeError, "int64", lambda s: Gr.projx(s.tall.long())),
    "a subspace of NaN": Row(NonFiniteError, "of 8", lambda s: Gr.projx(s.spoiled(s.tall))),
    "subspaces of two sizes": Row(ShapeError, "one matrix shape", lambda s: Gr.dist(s.tall, s.x)),
    "subspaces of two dtypes": Row(DtypeError, "float64", lambda s: Gr.principal_angles(s.tall, s.tall.double())),
    "a logarithm at a right angle": Row(OffManifoldError, "90 degrees", orthogonal_subspaces),
    "a logarithm of NaN": Row(NonFiniteError, "logarithm", lambda s: Gr.logmap(s.tall, s.spoiled(s.tall))),
    "a distance of NaN": Row(NonFiniteError, "principal angles", lambda s: Gr.dist(s.tall, s.spoiled(s.tall))),
    "an unknown retraction of subspaces": Row(OptionError, "'svd'", lambda s: mr.Grassmann("svd")),
    "landing on a subspace": Row(
        UnsupportedError,
        "RiemannianSGD",
        lambda s: mr.optim.Landing(mr.constrain(nn.Linear(2, 4, bias=False), "weight", Gr).parameters()),
    ),
    "an unknown metric of SPD": Row(OptionError, "'log-cholesky'", lambda s: mr.SPD("euclidean")),
    "a tall matrix in SPD": Row(ShapeError, "square", lambda s: SPD.projx(s.tall)),
    "integers in SPD": Row(DtypeError, "int64", lambda s: SPD.projx(s.x.long())),
    "an indefinite point": Row(OffManifoldError, "positive definite", lambda s: SPD.retr(-positive(s), s.x)),
    "the distance to an indefinite matrix": Row(OffManifoldError, "y to have", lambda s: SPD.dist(positive(s), s.flip)),
    "NaN in a point of SPD": Row(NonFiniteError, "of 16", lambda s: SPD.dist(positive(s), s.spoiled(positive(s)))),
    "a projection of zero": Row(OffManifoldError, "Hermitian part", lambda s: SPD.projx(torch.zeros(4, 4))),
    "a step out of single precision": Row(
        NonFiniteError, "float32", lambda s: SPD.retr(torch.eye(4), 100 * torch.diag(torch.tensor([1.0, -1, 0, 0])))
    ),
    "a step that overflows": Row(NonFiniteError, "1.4e.03", lambda s: SPD.retr(torch.eye(4), 1e30 * torch.eye(4))),
    "a log-Cholesky step that overflows": Row(
        NonFiniteError, "overflow", lambda s: mr.SPD("log-cholesky").retr(torch.eye(4), 1e4 * torch.eye(4))
    ),
    "a mean of one matrix": Row(ShapeError, "Stack", lambda s: SPD.mean(positive(s))),
    "a mean of no matrix": Row(ShapeError, "k, n, n", lambda s: SPD.mean(torch.empty(0, 3, 3))),
    "too few weights": Row(ShapeError, "each point", lambda s: SPD.mean(positive(s).expand(3, 4, 4), torch.ones(2))),
    "weights of another batch": Row(
        ShapeError, "broadcast", lambda s: SPD.mean(positive(s).expand(3, 2, 4, 4), torch.ones(4, 2))
    ),
    "a complex time": Row(
        DtypeError, "real", lambda s: SPD.geodesic(positive(s), positive(s), torch.tensor(1j, dtype=torch.complex64))
    ),
    "times of another batch": Row(
        ShapeError, "broadcast", lambda s: SPD.geodesic(positive(s).expand(3, 4, 4), positive(s), torch.ones(2))
    ),
    "a negative weight": Row(
        OptionError, "at least 0", lambda s: SPD.mean(positive(s).expand(2, 4, 4), torch.tensor([1.0, -1.0]))
    ),
    "a weight of NaN": Row(
        NonFiniteError, "weights", lambda s: SPD.mean(positive(s).expand(2, 4, 4), torch.tensor([1.0, torch.nan]))
    ),
    "a retraction for SPD": Row(UnsupportedError, "its own retraction", lambda s: SPD.with_retraction("qr")),
    "a spectrum in the update view": Row(
        UnsupportedError, "trivialized", lambda s: mr.constrain(nn.Linear(3, 3), "weight", SPECTRUM, view="update")
    ),
    "a base that moves": Row(
        UnsupportedError,
        "rebase_every",
        lambda s: mr.constrain(nn.Linear(3, 3), "weight", GRAM, view="trivialized", rebase_every=2),
    ),
    "an unknown retraction of a spectrum": Row(OptionError, "'svd'", lambda s: mr.FixedSpectrum("svd")),
    "an unknown retraction of a Gram matrix": Row(OptionError, "'svd'", lambda s: mr.DiagonalGram("svd")),
    "the spectrum of a vector": Row(ShapeError, "n, p", lambda s: mr.constraints.trivialize(SPECTRUM, torch.ones(3))),
    "the Gram matrix of a vector": Row(ShapeError, "n, p", lambda s: mr.constraints.trivialize(GRAM, torch.ones(3))),
    "the spectrum of NaN": Row(NonFiniteError, "of 16", lambda s: mr.constraints.trivialize(SPECTRUM, s.spoiled(s.x))),
    "the Gram matrix of NaN": Row(NonFiniteError, "of 16", lambda s: mr.constraints.trivialize(GRAM, s.spoiled(s.x))),
    "a column of zeros": Row(OffManifoldError, "length 0", lambda s: computed(GRAM, torch.eye(4, 2).flip(-1) * 0)),
    "singular values of NaN": Row(NonFiniteError, "values", lambda s: loaded(s, torch.nan)),
    "negative singular values": Row(OffManifoldError, "at least 0", lambda s: loaded(s, -1.0)),
    "another spectrum": Row(
        OffManifoldError, "cannot represent", lambda s: computed(SPECTRUM, s.x).constraints["weight"].assign(2 * s.x)
    ),
    "columns at an angle": Row(
        OffManifoldError, "cannot represent", lambda s: computed(GRAM, s.x).constraints["weight"].assign(s.x.tril() + 1)
    ),
    "a weight of another shape": Row(
        OptionError, "shape", lambda s: computed(SPECTRUM, s.x).constraints["weight"].assign(s.tall)
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_is_refused_by_its_kind_with_a_message_that_helps(name):
    row, scene = ROWS[name], Scene()
    before = scene.snapshot()
    with pytest.raises(errors.ManifoldError) as caught:
        row.act(scene)
    message = str(caught.value)
    assert type(caught.value) is row.kind and re.search(row.message, message, re.DOTALL), message
    assert len(message) <= 400 and "tensor(" not in message and message.rstrip().endswith(".")
    assert len(re.split(r"[.]\s", message)) >= 2, message
    after = scene.snapshot()
    assert all(torch.equal(after[key][1], value) for key, (_, value) in before.items())


@pytest.mark.parametrize("constraint", [SPECTRUM, GRAM], ids=["spectrum", "gram"])
def test_a_refused_assignment_changes_nothing(constraint, generator):
    entry = computed(constraint, torch.randn(4, 3, generator=generator)).constraints["weight"]
    before = {key: value.clone() for key, value in entry.state_dict().items()}
    for wrong in (torch.full((4, 3), torch.nan), torch.randn(4, 3, generator=generator), torch.ones(3, 3)):
        with pytest.raises(errors.ManifoldError):
            entry.assign(wrong)
        assert all(torch.equal(before[key], value) for key, value in entry.state_dict().items())
