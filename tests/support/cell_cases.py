"""Cells of every kind, layers of them, and the recurrence of each cell written out for one sequence."""

import inspect

import torch

from manifold_rnn.nn import Layer, cells, gate, mod_relu, mod_tanh, split_relu
from manifold_rnn.nn.cells import (
    GORU,
    GRU,
    LEM,
    LRU,
    LSTM,
    NRU,
    SBO,
    CoRNN,
    DeltaProduct,
    Elman,
    Euler,
    HouseholderProduct,
    LeakyElman,
    Lipschitz,
    Momentum,
    Quadratic,
    Rotating,
    Tree,
    TreeSearch,
)
from support.tree_cases import naive_search, naive_tree

BRANCHES = [
    ["x", "h", 0, "mul", "sigmoid"],
    ["zero", "h", 2, "add", "relu"],
    [0, 1, 1, "mul", "tanh"],
    ["x", 2, "identity", "add", "one_minus"],
]
CELLS = [
    Elman(),
    Elman("modrelu"),
    LSTM(),
    GRU(bias=False),
    GORU(),
    NRU(9, 4),
    NRU(8, 2, rectify=True),
    Euler(),
    Euler(0.5, gated=True, bias=False),
    LeakyElman(leak=0.3),
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
    Quadratic(),
    Quadratic(bias=True),
    Momentum(LSTM(), "momentum"),
    Momentum(Elman("modrelu"), "adam"),
    Momentum(GRU(), "rmsprop"),
    Momentum(LEM(), "restart", period=3),
    HouseholderProduct(),
    HouseholderProduct(3, "up to 2", "modrelu"),
    HouseholderProduct(1, "up to 1", "tanh", bias=False),
    DeltaProduct(),
    DeltaProduct(1, "reflection", 2, 3, True, bias=False),
    DeltaProduct(3, "up to 1", 2),
    Rotating(),
    Rotating(False, bias=False),
    Tree(),
    Tree("mgu"),
    Tree(BRANCHES),
    TreeSearch(3, 3),
    TreeSearch(4, 2, activations=["tanh", "one_minus"], temperature=0.3),
]


CONSTRAINED = [cell for cell in CELLS if cell.gates]  # the matrices of the others depend on the input


def exported_cells():
    """The concrete cells of the package by name, as every enumeration of them finds them."""
    kinds = {name: getattr(cells, name) for name in cells.__all__}
    return {name: kind for name, kind in kinds.items() if not inspect.isabstract(kind)}


def make(cell, m=3, n=4, dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    return Layer(cell, m, n, dtype=dtype, **options)


def shaken(layer, seed=2):
    """The layer with weights large enough for every term of its cell to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=generator))
    return layer


def parts(h):
    return h if isinstance(h, tuple) else (h,)


def energy_slope(cell, W, u, h):
    """The gradient along which an SBO cell steps, by automatic differentiation."""
    h = h.detach().requires_grad_()
    F = (cell.target * h - split_relu(W @ h + u)).abs().square().sum() / 2
    return torch.autograd.grad(F, h)[0].detach()


# each recurrence: from a cell, its weights, an input and the parts of a state to the parts of the next state


def _added(w, *names):
    return sum(w[name] for name in names if name in w)


def _elman(cell, w, x, h):
    z = w["weight_hh"] @ h + w["weight_ih"] @ x + _added(w, "bias_ih", "bias_hh")
    return (mod_relu(z, w["bias"]) if cell.nonlinearity == "modrelu" else mod_tanh(z),)


def _leaky(cell, w, x, h):
    (f,) = _elman(cell, w, x, h)
    return ((1 - cell.leak) * h + cell.leak * f,)


def _lstm(cell, w, x, h, c):
    i, f, g, o = (w["weight_hh"] @ h + w["weight_ih"] @ x + _added(w, "bias_ih", "bias_hh")).chunk(4)
    c = gate(f) * c + gate(i) * mod_tanh(g)
    return gate(o) * mod_tanh(c), c


def _gru(cell, w, x, h):
    (v_r, v_z, v_n), (w_r, w_z, w_n) = (w["weight_ih"] @ x).chunk(3), (w["weight_hh"] @ h).chunk(3)
    z = gate(v_z + w_z)
    return (z * h + (1 - z) * mod_tanh(v_n + gate(v_r + w_r) * w_n),)


def _goru(cell, w, x, h):
    (v_r, v_g, v_c), (w_r, w_g, w_c) = (w["weight_ih"] @ x).chunk(3), (w["weight_hh"] @ h).chunk(3)
    b_r, b_g = w["bias_ih"].chunk(2)
    g = gate(v_g + w_g + b_g)
    return (g * h + (1 - g) * mod_relu(v_c + gate(v_r + w_r + b_r) * w_c, w["bias"]),)


def _nru(cell, w, x, h, c):
    h = split_relu(w["weight_ih"] @ x + w["weight_hh"] @ h + w["weight_mh"] @ c + w["bias_ih"])
    a = w["weight_hm"] @ torch.cat([h, c]) + w["bias_hm"]
    f = split_relu if cell.rectify else lambda z: z
    k, M = cell.heads, cell.memory_size
    s = round((k * M) ** 0.5)
    alpha, beta, p, q, r, t = a.split([k, k, s, s, s, s])
    for sign, strength, left, right in ((1, alpha, p, q), (-1, beta, r, t)):
        rows = f(torch.outer(left, right).reshape(k, M))
        rows = rows / rows.abs().pow(5).sum(-1, keepdim=True).pow(0.2).clamp(min=1e-12)
        c = c + sign * f(strength) @ rows / k
    return h, c


def _euler(cell, w, x, h):
    z = w["weight_ih"] @ x + _added(w, "bias")
    W = w["weight_hh"] @ h
    slope = mod_tanh(W + z[:4])
    return (h + cell.step_size * (slope * gate(W + z[4:]) if cell.gated else slope),)


def _lipschitz(cell, w, x, h):
    z = w["weight_ih"] @ x + w["bias"]
    A, W = w["weight_hh"][:4] @ h, w["weight_hh"][4:] @ h
    slope = A + mod_tanh(W + z[:4])
    return (h + cell.step_size * (slope * gate(W + z[4:]) if cell.gated else slope),)


def _cornn(cell, w, x, y, z):
    W_y, W_z = w["weight_hh"][:4], w["weight_hh"][4:]
    force = mod_tanh(W_y @ y + W_z @ z + w["weight_ih"] @ x + _added(w, "bias"))
    z = z + cell.time_step * (force - cell.stiffness * y - cell.damping * z)
    return y + cell.time_step * z, z


def _lem(cell, w, x, y, z):
    W_a, W_c, W_z, W_y = w["weight_hh"].split(4)
    u_a, u_c, u_z, u_y = (w["weight_ih"] @ x + _added(w, "bias_ih", "bias_hh")).split(4)
    a, c = cell.time_step * gate(W_a @ y + u_a), cell.time_step * gate(W_c @ y + u_c)
    z = (1 - c) * z + c * mod_tanh(W_z @ y + u_z)
    return (1 - a) * y + a * mod_tanh(W_y @ z + u_y), z


def _sbo(cell, w, x, h, z=None):
    slope = energy_slope(cell, w["weight_hh"], w["weight_ih"] @ x + _added(w, "bias"), h)
    if cell.method == "sgd":
        return (h - cell.step_size * slope,)
    if cell.method == "heavy_ball":
        z = w["momentum"] * z - cell.step_size * slope
        return h + z, z
    new = h - cell.step_size * slope
    return new + w["momentum"] * (new - z), new


def _lru(cell, w, x, h):
    return (w["weight_hh"] @ h + w["log_gamma"].exp() * (w["weight_ih"] @ x),)


def _tree(cell, w, x, h):
    blocks = dict(zip(cell.gates, w["weight_hh"].split(4), strict=True))
    inputs = dict(zip(cell.inputs, w["weight_ih"].split(4), strict=True))
    slots = sorted({node.slot for node in cell.nodes} - {"identity"})
    biases = dict(zip(slots, w["bias"].split(4), strict=True))
    return (naive_tree(cell.nodes, blocks, biases, inputs, x, h)[-1],)


def _tree_search(cell, w, x, h):
    return (naive_search(cell, w, x, h)[0],)


def _quadratic(cell, w, x, h):
    return ((w["weight_hh"] @ h + w["weight_ih"] @ x + _added(w, "bias")).square(),)


def _unit(z):
    z = z / z.abs().max().clamp(min=1e-320)  # or squares vanish
    return z / z.abs().square().sum().sqrt().clamp(min=1e-9)


def _strengths(cell, w, x):
    if cell.beta == "reflection":
        return torch.full((cell.reflections * getattr(cell, "heads", 1),), 2.0, dtype=torch.float64)
    return gate(w["weight_beta"] @ x + w["bias_beta"]) * (2 if cell.beta == "up to 2" else 1)


def _householder(cell, w, x, h):
    keys = (w["weight_key"] @ x + _added(w, "bias_key")).split(len(h))
    for key, beta in zip(keys, _strengths(cell, w, x), strict=True):
        k = _unit(key)
        h = (torch.eye(len(h), dtype=h.dtype) - beta * torch.outer(k, k.conj())) @ h
    z = h + w["weight_ih"] @ x + _added(w, "bias_ih")
    return ({"identity": lambda z: z, "tanh": mod_tanh}.get(cell.nonlinearity, lambda z: mod_relu(z, w["bias"]))(z),)


def _delta(cell, w, x, y, H):
    H, k = H.clone(), cell.reflections
    q = (w["weight_query"] @ x).chunk(cell.heads)
    keys = (w["weight_key"] @ x + _added(w, "bias_key")).chunk(k * cell.heads)
    values = (w["weight_ih"] @ x + _added(w, "bias_ih")).chunk(k * cell.heads)
    beta = _strengths(cell, w, x)
    if cell.decay:
        rate = torch.nn.functional.softplus((w["weight_decay"] @ x + w["bias_decay"]).real)
        H = H * torch.exp(-w["log_rate"].exp() * rate)[:, None, None]
    outputs = []
    for head in range(cell.heads):
        for r in range(head, k * cell.heads, cell.heads):
            key = _unit(keys[r])
            H[head] = H[head] + beta[r] * torch.outer(key, values[r] - key.conj() @ H[head])
        outputs.append(_unit(q[head]).conj() @ H[head])
    return torch.cat(outputs), H


def _rotating(cell, w, x, h):
    parts = torch.cat([x.real, x.imag if x.is_complex() else 0 * x]) if h.is_complex() else x
    phase = w["phase"] + w["weight_phase"] @ parts
    if cell.time_step:
        phase = torch.nn.functional.softplus(w["weight_step"] @ parts + w["bias_step"]) * phase
    z = h if h.is_complex() else torch.complex(h[::2], h[1::2])
    z = torch.exp(1j * phase) * z
    h = z if h.is_complex() else torch.view_as_real(z).flatten()
    return (h + w["weight_ih"] @ x + _added(w, "bias_ih"),)


RECURRENCES = {
    CoRNN: _cornn,
    DeltaProduct: _delta,
    Elman: _elman,
    Euler: _euler,
    GORU: _goru,
    GRU: _gru,
    HouseholderProduct: _householder,
    LEM: _lem,
    LRU: _lru,
    LSTM: _lstm,
    LeakyElman: _leaky,
    Lipschitz: _lipschitz,
    NRU: _nru,
    Quadratic: _quadratic,
    Rotating: _rotating,
    SBO: _sbo,
    Tree: _tree,
    TreeSearch: _tree_search,
}
