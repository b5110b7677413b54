"""Time the recurrent scan against torch.nn.RNN, the plain loop, and the products that every scan needs.

A call is one training step (forward and backward, including the constraint) in float32 with input size 1. Times are
interleaved medians, on one thread unless you pass --threads. If a step is short, a turn has several steps. The floor is
one product forward and two backward for each time step, with the gradient of the matrix as one product over all steps.
Ratios are times of the fused scan divided by times of the other. Ratios of the native scan are added if it is
installed.
"""

import argparse
from collections.abc import Callable

import torch
from timing import interleaved_medians, write
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import manifold_rnn as mr
from manifold_rnn._kernels.loading import failure

_TURN = 3 << 20  # number of entries in the states of the steps of a turn
SHAPES = [(200, 32, 64), (1000, 20, 190), (784, 128, 170), (400, 128, 512)]
Job = Callable[[], object]


def train(layer: nn.Module, x: Tensor, loss: str) -> Job:
    """Return a forward and a backward pass, with a loss on the last output or on all."""

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        if loss == "last":
            h = layer(x, every_step=False)[1] if isinstance(layer, mr.nn.Layer) else layer(x)[1]
            h.square().sum().backward()
        else:
            layer(x)[0].square().sum().backward()

    return step


def floor(T: int, B: int, n: int) -> Job:
    """Return a job with only the products of the recurrence."""
    W, H, D = torch.randn(n, n) / n**0.5, torch.randn(T + 1, B, n), torch.randn(T + 1, B, n)
    states, gradients = H.unbind(0), D.unbind(0)

    def products() -> None:
        for t in range(T):
            torch.mm(states[t], W.mT, out=states[t + 1])
        for t in range(T):
            torch.mm(gradients[t], W, out=gradients[t + 1])
        D.view(-1, n).mT @ H.view(-1, n)

    return products


class ParametrizedLoop(nn.Module):
    """A hand-written loop over a cell whose matrix is constrained by torch, and computed at every access."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.cell = parametrizations.orthogonal(nn.RNNCell(1, n, nonlinearity="relu"), "weight_hh")

    def forward(self, x: Tensor) -> tuple[None, Tensor]:
        """Return the last state."""
        h = x.new_zeros(x.shape[1], self.cell.hidden_size)
        for x_t in x.unbind(0):
            h = self.cell(x_t, h)
        return None, h


def layers(n: int, nonlinearity: str) -> dict[str, nn.Module]:
    """Return the layers to compare."""
    made: dict[str, nn.Module] = {}
    backends = {"ours": "fused", "native": "native", "loop": "reference"}
    if failure():
        del backends["native"]
    for name, backend in backends.items():
        torch.manual_seed(0)
        layer = mr.nn.RNN(
            1, n, nonlinearity=nonlinearity, constraint=mr.Orthogonal(), view="trivialized", backend=backend
        )
        if nonlinearity == "modrelu":
            nn.init.uniform_(layer.bias_l0, -0.01, 0)
        made[name] = layer
    made["torch"] = nn.RNN(1, n, nonlinearity="tanh" if nonlinearity == "tanh" else "relu")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--shapes", nargs="+", default=["x".join(map(str, shape)) for shape in SHAPES], help="T x B x n"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table: dict[str, dict[str, float]] = {}
    for text in args.shapes:
        T, B, n = map(int, text.split("x"))
        x = torch.rand(T, B, 1)
        for nonlinearity in ("modrelu", "relu", "tanh"):
            for loss in ("last", "all"):
                jobs = {name: train(layer, x, loss) for name, layer in layers(n, nonlinearity).items()}
                if nonlinearity == "relu" and loss == "last" and B < 100:
                    jobs["parametrized"] = train(ParametrizedLoop(n), x, loss)
                turn = 1 + _TURN // (T * B * n)  # as in training, the data of a short step is then in the cache
                row = interleaved_medians({**jobs, "floor": floor(T, B, n)}, args.rounds, turn)
                name = f"T={T} B={B} n={n} {nonlinearity} {loss}"
                others = [other for other in row if other not in ("ours", "native")]
                table[name] = {f"to {other}": row["ours"] / row[other] for other in others} | {"ms": 1e3 * row["ours"]}
                if "native" in row:
                    table[name] |= {f"native to {other}": row["native"] / row[other] for other in others}
                    table[name]["native ms"] = 1e3 * row["native"]
                print(name.ljust(36), "  ".join(f"{k} {v:.2f}" for k, v in table[name].items()), flush=True)
    write("scan" if args.threads == 1 else f"scan_{args.threads}_threads", table)


if __name__ == "__main__":
    main()
