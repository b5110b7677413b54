import warnings

import pytest
import torch

from manifold_rnn.errors import DeviceError, DtypeError, ManifoldError, OptionError, ShapeError
from manifold_rnn.nn import RNN, Layer
from manifold_rnn.nn.cells import LEM

PACKED = torch.nn.utils.rnn.pack_sequence([torch.zeros(4, 3), torch.zeros(2, 3)])
BUILD = {
    "hidden size 0": (ShapeError, "hidden_size", lambda: RNN(3, 0)),
    "input size 0": (ShapeError, "input_size", lambda: RNN(0, 3)),
    "no levels": (ShapeError, "num_layers", lambda: RNN(3, 5, 0)),
    "unknown nonlinearity": (OptionError, "'sigmoid'", lambda: RNN(3, 5, nonlinearity="sigmoid")),
    "dropout above 1": (OptionError, "1.5", lambda: RNN(3, 5, 2, dropout=1.5)),
    "a class instead of a cell": (OptionError, "LEM", lambda: Layer(LEM, 3, 5)),
    "a name instead of a cell": (OptionError, "'LEM'", lambda: Layer("LEM", 3, 5)),
    "dropout NaN": (OptionError, "nan", lambda: RNN(3, 5, 2, dropout=float("nan"))),
}
CALL = {
    "no feature axis": (ShapeError, r"\(7,\)", {}, (torch.zeros(7),)),
    "four axes": (ShapeError, r"\(1, 7, 2, 3\)", {}, (torch.zeros(1, 7, 2, 3),)),
    "wrong feature size": (ShapeError, r"input_size 3.*\(7, 2, 4\)", {}, (torch.zeros(7, 2, 4),)),
    "length 0": (ShapeError, r"time step.*\(0, 2, 3\)", {}, (torch.zeros(0, 2, 3),)),
    "length 0, batch first": (ShapeError, r"\(2, 0, 3\)", {"batch_first": True}, (torch.zeros(2, 0, 3),)),
    "wrong dtype": (DtypeError, "float32, got torch.float64", {}, (torch.zeros(7, 2, 3, dtype=torch.float64),)),
    "integers": (DtypeError, "float32, got torch.int64", {}, (torch.zeros(7, 2, 3, dtype=torch.int64),)),
    "complex into real": (DtypeError, "complex64", {}, (torch.zeros(7, 2, 3, dtype=torch.complex64),)),
    "other device": (DeviceError, "cpu, got meta", {}, (torch.zeros(7, 2, 3, device="meta"),)),
    "state without batch": (ShapeError, r"\(1, 2, 5\); got \(1, 5\)", {}, (torch.zeros(7, 2, 3), torch.zeros(1, 5))),
    "state with batch": (ShapeError, r"\(1, 5\); got \(1, 1, 5\)", {}, (torch.zeros(7, 3), torch.zeros(1, 1, 5))),
    "scalar state": (ShapeError, r"got \(\)", {}, (torch.zeros(7, 3), torch.zeros(()))),
    "state of another width": (ShapeError, r"got \(1, 2, 4\)", {}, (torch.zeros(7, 2, 3), torch.zeros(1, 2, 4))),
    "state of fewer levels": (ShapeError, r"\(4, 2, 5\)", {"num_layers": 2, "bidirectional": True},
                              (torch.zeros(7, 2, 3), torch.zeros(2, 2, 5))),
    "state of another batch, packed": (ShapeError, r"\(1, 2, 5\)", {}, (PACKED, torch.zeros(1, 3, 5))),
    "two states": (ShapeError, r"got \(1, 2, 5\), \(1, 2, 5\)", {},
                   (torch.zeros(7, 2, 3), (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)))),
    "state on another device": (DeviceError, "cpu, got meta", {},
                                (torch.zeros(7, 2, 3), torch.zeros(1, 2, 5, device="meta"))),
    "state of another dtype": (DtypeError, "float64", {}, (torch.zeros(7, 2, 3), torch.zeros(1, 2, 5).double())),
}  # fmt: skip


def refused(kind, match, call):
    with pytest.raises(kind, match=match) as caught:
        call()
    assert isinstance(caught.value, ManifoldError)
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize("case", BUILD)
def test_a_wrong_option_is_named(case):
    refused(*BUILD[case])


@pytest.mark.parametrize("case", CALL)
def test_a_wrong_input_is_named_and_changes_nothing(case):
    kind, match, options, arguments = CALL[case]
    layer = RNN(3, 5, **options)
    before = {name: p.clone() for name, p in layer.state_dict().items()}
    refused(kind, match.replace(".*", r"[\s\S]*"), lambda: layer(*arguments))
    assert all(torch.equal(p, before[name]) for name, p in layer.state_dict().items())


def test_dropout_of_a_single_level_is_warned_about():
    with pytest.warns(UserWarning, match="num_layers=1"):
        RNN(3, 5, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RNN(3, 5, 2, dropout=0.5)
