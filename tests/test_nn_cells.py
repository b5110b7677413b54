"""The cells of differential equations, of momentum, of an energy, and linear ones, against their recurrences."""

import copy
import math
import re

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.nn import Layer, cells, gate, mod_tanh, split_relu
from manifold_rnn.nn.cells import GRU, LEM, LRU, LSTM, SBO, CoRNN, Elman, Euler, Lipschitz, Momentum
from manifold_rnn.nn.cells.lru import log_gamma_of

WIDE = [torch.float64, torch.complex128]
KINDS = ["momentum", "adam", "rmsprop", "restart"]
CELLS = [
    Euler(),
    Euler(0.5, gated=True, bias=False),
    Lipschitz(),
    Lipschitz(0.5, gated=True),
    CoRNN(),
    CoRNN(0.1, 0.2, 6.4, bias=False),
    LEM(),
    LEM(bias=False),
    SBO("sgd", 0.3),
    SBO("heavy_ball", 0.3, 0.7),
    SBO("nesterov", 0.3, bias=False),
    LRU(),
    Momentum(LSTM(), "momentum"),
    Momentum(Elman("modrelu"), "adam"),
    Momentum(GRU(), "rmsprop"),
    Momentum(LEM(), "restart", period=3),
]
HOSTS = [Elman(), Elman("modrelu"), LSTM(), GRU(), LEM(), CoRNN(), Euler(gated=True), Lipschitz(), SBO(), LRU()]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=CELLS, ids=repr)
def cell(request):
    return request.param


@pytest.fixture(params=WIDE, ids=str)
def wide(request):
    return request.param


def make(cell, m=3, n=4, dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    return Layer(cell, m, n, dtype=dtype, **options)


def parts(h):
    return h if isinstance(h, tuple) else (h,)


# each recurrence, written out for one sequence


def euler(cell, w, x, h):
    V, b = w["weight_ih"], w.get("bias", torch.zeros(()))
    z = V @ x + b
    W = w["weight_hh"] @ h
    slope = mod_tanh(W + z[:4])
    if cell.gated:
        slope = slope * gate(W + z[4:])
    return (h + cell.step_size * slope,)


def lipschitz(cell, w, x, h):
    z = w["weight_ih"] @ x + w["bias"]
    A, W = w["weight_hh"][:4] @ h, w["weight_hh"][4:] @ h
    slope = A + mod_tanh(W + z[:4])
    if cell.gated:
        slope = slope * gate(W + z[4:])
    return (h + cell.step_size * slope,)


def cornn(cell, w, x, y, z):
    Wy, Wz = w["weight_hh"][:4], w["weight_hh"][4:]
    drive = mod_tanh(Wy @ y + Wz @ z + w["weight_ih"] @ x + w.get("bias", 0))
    z = z + cell.time_step * (drive - cell.stiffness * y - cell.damping * z)
    return y + cell.time_step * z, z


def lem(cell, w, x, y, z):
    Wa, Wc, Wz, Wy = w["weight_hh"].split(4)
    u = w["weight_ih"] @ x
    u = u + w["bias_ih"] + w["bias_hh"] if cell.bias else u
    ua, uc, uz, uy = u.split(4)
    a, c = cell.time_step * gate(Wa @ y + ua), cell.time_step * gate(Wc @ y + uc)
    z = (1 - c) * z + c * mod_tanh(Wz @ y + uz)
    return (1 - a) * y + a * mod_tanh(Wy @ z + uy), z


def sbo(cell, w, x, h, z=None):
    slope = energy_slope(cell, w["weight_hh"], w["weight_ih"] @ x + w.get("bias", 0), h)
    if cell.method == "sgd":
        return (h - cell.step_size * slope,)
    if cell.method == "heavy_ball":
        z = w["momentum"] * z - cell.step_size * slope
        return h + z, z
    new = h - cell.step_size * slope
    return new + w["momentum"] * (new - z), new


def lru(cell, w, x, h):
    return (w["weight_hh"] @ h + w["log_gamma"].exp() * (w["weight_ih"] @ x),)


NAIVE = {Euler: euler, Lipschitz: lipschitz, CoRNN: cornn, LEM: lem, SBO: sbo, LRU: lru}


def energy_slope(cell, W, u, h):
    """By automatic differentiation."""
    h = h.detach().requires_grad_()
    F = (cell.target * h - split_relu(W @ h + u)).abs().square().sum() / 2
    return torch.autograd.grad(F, h)[0].detach()


@pytest.mark.parametrize("cell", [c for c in CELLS if type(c) in NAIVE], ids=repr)
def test_a_layer_is_its_recurrence(cell, wide):
    layer = make(cell, dtype=wide)
    w = {name.removesuffix("_l0"): p.detach() for name, p in layer.named_parameters()}
    x = torch.randn(6, 3, dtype=wide, generator=seeded(1))
    y, h_n = layer(x)
    state = tuple(torch.zeros(4, dtype=wide) for _ in parts(h_n))
    for x_t, y_t in zip(x, y, strict=True):
        state = NAIVE[type(cell)](cell, w, x_t, *state)
        torch.testing.assert_close(y_t.detach(), state[0], atol=1e-14, rtol=1e-12)
    torch.testing.assert_close([h[0].detach() for h in parts(h_n)], list(state), atol=1e-14, rtol=1e-12)


def test_the_output_is_the_first_part_of_the_state(cell, wide):
    layer = make(cell, dtype=wide)
    y, h_n = layer(torch.randn(5, 2, 3, dtype=torch.float64))
    assert torch.equal(y[-1], parts(h_n)[0][0]) and y.shape == (5, 2, 4) and y.dtype == wide


def test_gradients_of_every_weight_equal_finite_differences(cell, wide):
    layer = make(cell, m=2, n=2, dtype=wide)
    x = torch.randn(3, 1, 2, dtype=torch.float64, generator=seeded(1))
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *weights):
        y, h_n = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return y, *(h for h in parts(h_n) if h.requires_grad)

    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=seeded(2)))
    inputs = [x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in layer.parameters())]
    assert torch.autograd.gradcheck(run, inputs, check_undefined_grad=False)


def test_a_sequence_in_two_halves_is_the_whole(cell, wide):
    layer, x = make(cell, dtype=wide), torch.randn(8, 2, 3, dtype=torch.float64)
    y, h_n = layer(x)
    first, state = layer(x[:3])
    second, last = layer(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), y, atol=1e-14, rtol=0)
    torch.testing.assert_close(parts(last), parts(h_n), atol=1e-14, rtol=0)


def test_a_packed_batch_is_its_sequences_one_by_one(cell, wide):
    layer = make(cell, dtype=wide, num_layers=2, bidirectional=True)
    sequences = [torch.randn(n, 3, dtype=torch.float64, generator=seeded(n)) for n in (3, 7, 1)]
    packed, h_n = layer(nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
    padded, _ = nn.utils.rnn.pad_packed_sequence(packed)
    for i, x in enumerate(sequences):
        y, h = layer(x)
        torch.testing.assert_close(padded[: len(x), i], y, atol=1e-13, rtol=0)
        torch.testing.assert_close([s[:, i] for s in parts(h_n)], list(parts(h)), atol=1e-13, rtol=0)


def test_constrains_every_gate_or_one(cell):
    gates, group = cell.gates, mr.Orthogonal()
    every, last = make(cell, constraint=group), make(cell, constraint={gates[-1]: group})
    defects = [mr.linalg.defect(layer.weight_hh_l0.unflatten(0, (-1, 4))) for layer in (every, last)]
    assert defects[0].max() < 1e-12 and defects[1][-1] < 1e-12
    assert (defects[1][:-1] > 0.1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_ten_steps_of_adam_at_the_documented_rate_reduce_the_loss(cell, dtype, seed):
    rate = float(re.search(r"Learning rate:\s+(\S+)\.\s", type(cell).__doc__)[1])
    layer = make(cell, m=2, n=6, dtype=dtype, seed=seed)
    readout = nn.Linear(12 if dtype.is_complex else 6, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *readout.parameters()], lr=rate)
    x = torch.randn(8, 5, 2, generator=seeded(seed))
    losses = []
    for _ in range(11):
        optimizer.zero_grad()
        out = readout(mr.nn.real_features(layer(x)[0][-1]))
        loss = (out.squeeze(-1) - x.sum((0, 2))).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_trains_every_part_of_the_first_state_but_a_count(cell):
    layer = make(cell, train_initial_state=True)
    layer(torch.randn(3, 2, 3, dtype=torch.float64))[0].square().sum().backward()
    trained = {name: p.grad is not None for name, p in layer.named_parameters() if name.startswith("initial_state")}
    counted = isinstance(cell, Momentum) and cell.kind == "restart"
    assert list(trained.values()).count(False) == counted


def test_copies_compiles_and_exports(cell):
    layer, x = make(cell), torch.randn(3, 2, 3, dtype=torch.float64)
    y = layer(x)[0]
    torch.testing.assert_close(copy.deepcopy(layer)(x)[0], y, atol=0, rtol=0)
    torch._dynamo.reset()  # each cell is a recompilation of the same forward
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], y, atol=1e-14, rtol=0)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x)[0], y, atol=1e-14, rtol=0)


BAD = {
    "Euler": lambda: Euler(0.0),
    "Lipschitz": lambda: Lipschitz(-1.0),
    "damping of CoRNN": lambda: CoRNN(damping=-1.0),
    "time_step of LEM": lambda: LEM(math.nan),
    "'shb'": lambda: SBO("shb"),
    "target": lambda: SBO(target=0.0),
    "r_min": lambda: LRU(0.9, 0.5),
    "max_phase": lambda: LRU(max_phase=math.inf),
    "'nag'": lambda: Momentum(kind="nag"),
    "decay": lambda: Momentum(decay=1.0),
    "period": lambda: Momentum(period=0),
    "eps": lambda: Momentum(eps=0.0),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_option_is_named(name):
    with pytest.raises(OptionError, match=name) as caught:
        BAD[name]()
    assert len(str(caught.value)) <= 400


# momentum


@pytest.mark.parametrize("host", HOSTS, ids=repr)
@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"kind": "restart", "period": 1}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_without_momentum_it_is_its_host_bit_for_bit(host, options, dtype):
    plain, wrapped = make(host, dtype=dtype), make(Momentum(host, scale=1.0, **options), dtype=dtype)
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    assert wrapped.cell.gates == plain.cell.gates
    wrapped.load_state_dict(plain.state_dict())
    x = torch.randn(9, 2, 3)
    plain.backend = wrapped.backend = "reference"  # a faster way may round otherwise
    y, h = plain(x)
    z, k = wrapped(x)
    assert torch.equal(y, z)
    assert all(torch.equal(*pair) for pair in zip(parts(h), parts(k), strict=False))


@pytest.mark.parametrize("host", [Elman(), LSTM(), GRU(), LEM()], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_recurrent_bias_gathers_no_momentum(host, kind, wide):
    plain, wrapped = make(host, dtype=wide), make(Momentum(host, kind, scale=3.0), dtype=wide)
    for layer in (plain, wrapped):
        with torch.no_grad():
            layer.bias_ih_l0.zero_()
    x = torch.zeros(6, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(wrapped(x)[0], plain(x)[0], atol=1e-7, rtol=0)  # adam divides roundings by 1e-4


def drives(kind, g, **options):
    """What the host is given in the place of ``g``, (T, n)."""
    n = g.shape[-1]
    cell = Momentum(Elman(lambda z: z, bias=False), kind, **options).bind({"weight_ih": torch.eye(n, dtype=g.dtype)})
    y, _ = mr.nn.scan.loop(cell, g.unsqueeze(1), cell.initial_state(1), torch.zeros(n, n, dtype=g.dtype))
    return y.squeeze(1)


@pytest.mark.parametrize(("mu", "s"), [(0.6, 0.6), (0.6, 1.0), (0.3, 0.1)])
def test_a_constant_input_is_amplified(mu, s, wide):
    g = torch.randn(3, dtype=wide)
    out = drives("momentum", g.expand(200, 3), momentum=mu, scale=s)[-1]
    torch.testing.assert_close(out, s / (1 - mu) * g, atol=1e-14, rtol=1e-12)


def test_adam_and_rmsprop_divide_by_the_mean_square(wide):
    g = torch.randn(7, 3, dtype=wide)
    for kind, mu in (("adam", 0.4), ("rmsprop", 0.0)):
        found = drives(kind, g, momentum=0.4, scale=0.5, decay=0.7, eps=1e-6)
        v, m = torch.zeros(3, dtype=wide), torch.zeros(3, dtype=torch.float64)
        for g_t, out in zip(g, found, strict=True):
            v, m = mu * v + 0.5 * g_t, 0.7 * m + 0.3 * g_t.abs() ** 2
            torch.testing.assert_close(out, v / (m + 1e-6).sqrt(), atol=1e-14, rtol=1e-13)
    first = drives("adam", g, scale=0.1, decay=0.999)[0]
    torch.testing.assert_close(first, math.sqrt(10) * g[0].sgn(), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("period", "coefficients"), [(1, [0]), (2, [0, 1 / 4]), (3, [0, 1 / 4, 2 / 5])])
def test_restart_takes_up_its_coefficients_again(period, coefficients, wide):
    g = torch.randn(8, 2, dtype=wide)
    v = torch.zeros(2, dtype=wide)
    for t, out in enumerate(drives("restart", g, scale=0.9, period=period)):
        v = coefficients[t % period] * v + 0.9 * g[t]
        torch.testing.assert_close(out, v, atol=1e-14, rtol=0)


def test_momentum_changes_no_eigenvalue_of_a_linear_host():
    layer = make(Momentum(Elman("modrelu", bias=False), momentum=0.6), m=1)
    state = [torch.eye(8, dtype=torch.float64)[:, :4], torch.eye(8, dtype=torch.float64)[:, 4:]]
    _, after = layer(torch.zeros(1, 8, 1, dtype=torch.float64), tuple(s.unsqueeze(0) for s in state))
    joint = torch.linalg.eigvals(torch.cat([s[0] for s in after], 1))
    alone = torch.linalg.eigvals(layer.weight_hh_l0)
    expected = torch.cat([alone, torch.full((4,), 0.6)])
    assert (joint[:, None] - expected).abs().amin(0).max() < 1e-7 and (joint[:, None] - expected).abs().amin(
        1
    ).max() < 1e-7


def test_a_rotation_inside_stays_one():
    layer = make(Momentum(Elman("modrelu")), dtype=torch.float32, constraint=mr.Orthogonal())
    before = layer.weight_hh_l0.detach().clone()
    optimizer = mr.optim.RiemannianSGD(layer.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        layer(torch.randn(6, 3, 3))[0].square().sum().backward()
        optimizer.step()
    assert mr.linalg.defect(layer.weight_hh_l0) < 1e-5 and (layer.weight_hh_l0 - before).abs().max() > 1e-2


# the energy


@pytest.mark.parametrize("target", [1.0, 0.4])
def test_sbo_has_the_gradient_of_its_energy(target, wide):
    cell = SBO("sgd", target=target)
    W, u, h = (torch.randn(*shape, dtype=wide, generator=seeded(k)) for k, shape in enumerate([(6, 6), (6,), (6,)]))
    found = cell.gradient(u[None], h[None], W)[0]
    torch.testing.assert_close(found, energy_slope(cell, W, u, h), atol=1e-13, rtol=0)


def test_an_sbo_step_stretches_nothing_while_its_size_is_small_enough():
    for seed in range(20):
        W, u, h = (
            torch.randn(*shape, dtype=torch.float64, generator=seeded(seed)) for shape in [(6, 6), (1, 6), (1, 6)]
        )
        D = torch.diag((h @ W.mT + u)[0] > 0).double()
        K = torch.eye(6, dtype=torch.float64) - D @ W
        cell = SBO("sgd", 2 / torch.linalg.matrix_norm(K, 2).item() ** 2)
        J = torch.autograd.functional.jacobian(lambda h, c=cell, u=u, W=W: c.step(u, (h,), W)[0][0], h)[:, 0]
        torch.testing.assert_close(J, torch.eye(6, dtype=torch.float64) - cell.step_size * K.T @ K)
        assert torch.linalg.matrix_norm(J, 2) < 1 + 1e-12


# stability


@pytest.mark.parametrize("time_step", [0.02, 0.042, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("stiffness", [0.0, 0.4, 2.7, 66.0, 700.0])
def test_cornn_is_stable_where_its_eigenvalues_are_inside(time_step, stiffness):
    for damping in (0.0, 0.01, 1.3, 4.7, 15.0, 40.0, 120.0):
        M = [
            [1 - time_step**2 * stiffness, time_step * (1 - time_step * damping)],
            [-time_step * stiffness, 1 - time_step * damping],
        ]
        radius = torch.linalg.eigvals(torch.tensor(M, dtype=torch.float64)).abs().max().item()
        if abs(radius - 1) > 1e-9:
            assert CoRNN(time_step, stiffness, damping).stable == (radius < 1)


def test_the_linear_part_of_cornn_is_that_matrix():
    cell = CoRNN(0.1, 0.2, 6.4).bind({})
    start = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    y, (y, z) = cell.step(torch.zeros(2, 1), tuple(start.T[:, :, None]), torch.zeros(2, 1, dtype=torch.float64))
    M = torch.cat([y, z], 1).T
    expected = torch.tensor([[1 - 0.01 * 0.2, 0.1 * (1 - 0.64)], [-0.02, 1 - 0.64]], dtype=torch.float64)
    torch.testing.assert_close(M, expected, atol=1e-15, rtol=0)


@pytest.mark.parametrize(("step_size", "damping", "grown"), [(0.01, 0.01, 1.0002), (0.1, 0.15, 1.014)])
def test_being_antisymmetric_alone_keeps_no_euler_step_stable(step_size, damping, grown):
    frequency, cell = 2.40, Euler(step_size)
    assert frequency**2 > 2 * damping / step_size - damping**2
    K = torch.tensor([[0.0, frequency], [-frequency, 0.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    assert cell.growth(K - damping * eye).item() == pytest.approx(grown, abs=5e-4)
    calm = 0.99 * math.sqrt(2 * damping / step_size - damping**2) / frequency
    assert cell.growth(calm * K - damping * eye) < 1


# the linear unit


def test_lru_moduli_and_scales_are_finite_wherever_the_rate_is():
    nu = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    modulus, log_gamma = (-nu.exp()).exp(), log_gamma_of(nu)
    assert (modulus >= 0).all() and (modulus < 1).all()
    assert log_gamma.isfinite().all() and (log_gamma <= 0).all()
    (modulus + log_gamma).sum().backward()
    assert nu.grad.isfinite().all()
    torch.testing.assert_close(log_gamma_of(nu[200]), 0.5 * (1 - modulus[200] ** 2).log(), atol=1e-15, rtol=0)
    assert log_gamma_of(torch.tensor(-17.5)).isfinite()


@pytest.mark.parametrize(("r_min", "r_max", "max_phase"), [(0.0, 1.0, 6.28), (0.9, 0.999, 0.3)])
def test_lru_starts_uniformly_by_area_on_its_ring(r_min, r_max, max_phase):
    nu, theta = LRU(r_min, r_max, max_phase).ring(torch.empty(20000, dtype=torch.float64), generator=seeded())
    area = (-2 * nu.exp()).exp()
    assert area.min() >= r_min**2 - 1e-12 and area.max() <= r_max**2 + 1e-12
    assert abs((area < (r_min**2 + r_max**2) / 2).double().mean() - 0.5) < 0.02
    assert theta.min() >= 0 and theta.max() <= max_phase and abs(theta.mean() / max_phase - 0.5) < 0.02


def test_lru_states_keep_the_size_of_their_inputs():
    layer = make(LRU(0.5, 0.99), m=64, n=256, dtype=torch.complex64)
    h = layer(torch.randn(2500, 2, 64, generator=seeded()))[1]
    assert h.abs().square().mean().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_lru_starts_inside_and_diagonal(dtype):
    W = make(LRU(0.5, 0.9), n=50, dtype=dtype).weight_hh_l0.detach()
    assert torch.equal(W, W.diagonal().diag()) and W.diagonal().abs().min() >= 0.5 - 1e-12
    assert W.diagonal().abs().max() <= 0.9 + 1e-12 and W.diagonal().real.min() < 0


def test_every_cell_of_this_file_is_exported():
    assert {type(cell).__name__ for cell in CELLS} <= set(cells.__all__)


def test_a_module_inside_a_host_is_trained_and_saved():
    layer = Layer(cells.Momentum(cells.Elman(nn.Softplus(), bias=False)), 2, 3)
    assert isinstance(layer.nonlinearity, nn.Softplus)
    layer = Layer(cells.Momentum(cells.Elman(mr.nn.ModReLU(3))), 2, 3)
    assert "nonlinearity.bias" in layer.state_dict()
    layer(torch.randn(4, 1, 2))[0].sum().backward()
    assert layer.nonlinearity.bias.grad is not None
