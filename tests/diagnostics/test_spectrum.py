"""The spectrum of a matrix: known values, laws, extreme scales, and the numbers of two forms of one matrix."""

import math

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import diagnostics
from manifold_rnn.diagnostics.sources import input_matrix
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError, UnsupportedError

EXACT = 1e-8  # closed forms in double precision, as the project promises


def chain(n, forward=1.0, backward=0.0):
    ones = torch.ones(n - 1, dtype=torch.float64)
    return forward * ones.diag(-1) + backward * ones.diag(1)


def jordan(n, value):
    return value * torch.eye(n, dtype=torch.float64) + chain(n).mT


def orthogonal(n, generator):
    return mr.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]


def real_form(U):
    return torch.cat([torch.cat([U.real, -U.imag], 1), torch.cat([U.imag, U.real], 1)])


# ---- closed forms ----------------------------------------------------------------------------------------------------


def test_a_jordan_block_is_defective_and_its_numbers_are_known():
    n, value = 6, 0.5
    found = diagnostics.spectrum(jordan(n, value))
    assert found.radius == value and found.eigenvalues == (value,) * n and set(found.conditions) == {math.inf}
    assert found.henrici == pytest.approx(math.sqrt(n - 1), abs=EXACT)
    assert found.numerical_radius == pytest.approx(value + math.cos(math.pi / (n + 1)), abs=EXACT)
    assert found.commutator == pytest.approx(math.sqrt(2) / (n * value**2 + n - 1), abs=EXACT)
    powers = [torch.linalg.matrix_norm(torch.linalg.matrix_power(jordan(n, value), k), 2).item() for k in range(60)]
    assert found.transient == pytest.approx(max(powers), rel=EXACT)
    assert found.transient_step == powers.index(max(powers))
    assert 1 < found.kreiss <= found.transient <= math.e * n * found.kreiss


def test_a_jordan_block_of_size_two_has_a_known_pseudospectral_radius():
    found = diagnostics.spectrum(jordan(2, 0.5), eps=(1e-6, 1e-2, 0.5))
    for eps, radius in found.pseudo.items():
        assert radius == pytest.approx(0.5 + math.sqrt(eps + eps**2), abs=EXACT)


def test_a_circulant_is_normal_and_its_eigenvalues_are_a_fourier_transform(generator):
    first = torch.randn(12, dtype=torch.float64, generator=generator)
    W = torch.stack([first.roll(k) for k in range(12)], 1)
    found, moduli = diagnostics.spectrum(W), torch.fft.fft(first).abs().sort().values
    torch.testing.assert_close(torch.tensor(found.moduli, dtype=torch.float64), moduli, atol=EXACT, rtol=0)
    largest = pytest.approx([moduli[-1].item()] * 3, abs=EXACT)
    assert [found.norm, found.numerical_radius, found.radius] == largest
    assert found.commutator < EXACT and found.henrici < EXACT
    assert found.conditions == pytest.approx([1] * 12, abs=EXACT)


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("scale", [0.9, 1.0])
def test_a_multiple_of_an_orthogonal_matrix_is_as_far_from_instability_as_its_radius(n, scale, generator):
    found = diagnostics.spectrum(scale * orthogonal(n, generator), eps=(1e-8, 1e-3, 0.2))
    assert [found.radius, found.norm] == pytest.approx([scale] * 2, abs=EXACT)
    for eps, radius in found.pseudo.items():
        assert radius == pytest.approx(scale + eps, abs=EXACT)
    assert found.distance_to_instability == pytest.approx(1 - scale, abs=EXACT)
    assert found.kreiss == found.transient == pytest.approx(1, abs=EXACT) and found.transient_step == 0


@pytest.mark.parametrize(
    ("n", "radii"), [(20, (0.40, 0.64, 0.84)), (50, (0.70, 0.85, 0.95)), (100, (0.84, 0.93, 0.98))]
)
def test_pseudospectral_radii_of_chains(n, radii):
    found = diagnostics.spectrum(chain(n))
    assert found.radius == 0 and found.transient == 1
    for radius, (eps, got) in zip(radii, found.pseudo.items(), strict=True):
        assert got == pytest.approx(radius, abs=0.012)  # the table comes from a grid of 0.011
        z = got * torch.eye(n, dtype=torch.float64)  # the smallest singular value depends on the modulus alone
        assert torch.linalg.svdvals(z - chain(n))[-1].item() == pytest.approx(eps, rel=1e-5)


def test_a_feedback_chain_has_a_radius_that_dense_eigenvalues_miss():
    found = diagnostics.spectrum(chain(100, 0.99, 0.01))
    assert found.radius == pytest.approx(2 * math.sqrt(0.0099) * math.cos(math.pi / 101), abs=EXACT)
    assert f"{found.radius:.5f}" == "0.19890"
    assert found.moduli[-1] > 0.4 and set(found.conditions) == {math.inf}


def test_condition_numbers_are_known_for_triangles_and_one_where_eigenvalues_repeat(generator):
    for gap in (1e-1, 1e-3, 1e-6):
        W = torch.tensor([[0.5, 1.0], [0.0, 0.5 - gap]], dtype=torch.float64)
        assert diagnostics.spectrum(W).conditions == pytest.approx([math.hypot(1, 1 / gap)] * 2, rel=EXACT)
    Q = orthogonal(6, generator)
    repeated = Q @ torch.tensor([1.0, 1, 1, 0.5, 0.5, 0.1], dtype=torch.float64).diag() @ Q.mT
    assert diagnostics.spectrum(repeated).conditions == pytest.approx([1] * 6, abs=EXACT)


def test_condition_numbers_are_those_of_eigenvectors(generator):
    W = torch.randn(9, 9, dtype=torch.complex128, generator=generator)
    values, X = torch.linalg.eig(W)
    expected = torch.linalg.vector_norm(X, dim=0) * torch.linalg.vector_norm(torch.linalg.inv(X), dim=1)
    found = diagnostics.spectrum(W)
    for value, condition in zip(found.eigenvalues, found.conditions, strict=True):
        assert condition == pytest.approx(expected[(values - value).abs().argmin()].item(), rel=1e-10)


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_noise_changes_henrici_and_not_the_commutator(generator):
    W = chain(100, 1.02)
    exact = diagnostics.spectrum(W, eps=(1e-2,))
    assert exact.henrici == pytest.approx(10.149, abs=1e-3) and exact.commutator == pytest.approx(0.01428, abs=1e-5)
    for size in (1e-14, 1e-8):
        noisy = diagnostics.spectrum(W + size * torch.randn(W.shape, dtype=W.dtype, generator=generator), eps=(1e-2,))
        assert noisy.henrici < 0.8 * exact.henrici and noisy.commutator == pytest.approx(exact.commutator, rel=1e-4)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_complex_matrix_and_its_real_form_have_the_same_numbers(n, generator):
    U = torch.randn(n, n, dtype=torch.complex128, generator=generator)
    U = 0.9 * U / mr.linalg.spectral_radius(U)
    one, two = diagnostics.spectrum(U), diagnostics.spectrum(real_form(U))
    for name in ("radius", "norm", "numerical_radius", "distance_to_instability", "transient"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=EXACT), name
    assert one.transient_step == two.transient_step and one.kreiss == pytest.approx(two.kreiss, rel=1e-2)
    assert two.henrici == pytest.approx(math.sqrt(2) * one.henrici, rel=EXACT)  # Frobenius norms of two copies
    assert two.commutator == pytest.approx(one.commutator / math.sqrt(2), rel=EXACT)
    assert list(two.pseudo.values()) == pytest.approx(list(one.pseudo.values()), rel=EXACT)
    assert two.moduli[::2] == pytest.approx(one.moduli, rel=EXACT)
    assert two.singular_values[::2] == pytest.approx(one.singular_values, rel=EXACT)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_inequalities_between_the_numbers(n, generator):
    for dtype in (torch.float64, torch.complex128):
        W = torch.randn(n, n, dtype=dtype, generator=generator).triu()
        W = 0.95 * W / mr.linalg.spectral_radius(W)
        found = diagnostics.spectrum(W)
        rounded = 1 + 1e-12
        assert max(found.radius, found.norm / 2) <= found.numerical_radius * rounded <= found.norm * rounded**2
        assert 1 <= found.kreiss <= found.transient * rounded
        assert found.distance_to_instability <= (1 - found.radius) * rounded
        for eps, radius in found.pseudo.items():
            assert found.radius + eps <= radius * rounded <= (found.norm + eps) * rounded**2


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_no_angle_and_no_power_has_more(dtype, generator):
    W = torch.randn(12, 12, dtype=dtype, generator=generator)
    W = 0.98 * W / mr.linalg.spectral_radius(W)
    found = diagnostics.spectrum(W, eps=(0.05,))
    turns = torch.polar(torch.ones(720, dtype=torch.float64), torch.arange(720, dtype=torch.float64) * math.pi / 360)
    turned = turns[:, None, None] * W
    largest = torch.linalg.eigvalsh((turned + turned.mH) / 2)[:, -1].max().item()
    assert largest <= found.numerical_radius * (1 + 1e-12) <= largest * (1 + 1e-4)
    eye = torch.eye(12, dtype=torch.complex128)
    circle = torch.linalg.svdvals(turns[:, None, None] * eye - W)[:, -1].min().item()
    assert circle * (1 - 1e-2) <= found.distance_to_instability <= circle * (1 + 1e-8)
    outside = torch.linalg.svdvals(found.pseudo[0.05] * 1.0001 * turns[:, None, None] * eye - W)[:, -1]
    assert outside.min() > 0.05
    sizes = [torch.linalg.matrix_norm(torch.linalg.matrix_power(W, k), 2).item() for k in range(300)]
    assert found.transient == pytest.approx(max(sizes), rel=EXACT)
    assert found.transient_step == sizes.index(max(sizes))


def test_the_largest_power_is_found_far_away_as_well():
    W = torch.tensor([[0.9999, 1.0], [0.0, 0.9999]], dtype=torch.float64)
    powers = {k: [[0.9999**k, k * 0.9999 ** (k - 1)], [0, 0.9999**k]] for k in range(9990, 10010)}
    sizes = {k: torch.linalg.matrix_norm(torch.tensor(p, dtype=torch.float64), 2).item() for k, p in powers.items()}
    found = diagnostics.spectrum(W)
    assert found.transient == pytest.approx(max(sizes.values()), rel=1e-6)
    assert abs(found.transient_step - max(sizes, key=sizes.get)) <= 1


def test_powers_diverge_beyond_the_unit_circle_and_on_it_if_defective():
    for W in (1.01 * torch.eye(3), jordan(2, 1.0), jordan(3, -1.0), chain(20, 1e30)):
        found = diagnostics.spectrum(W)
        assert found.transient == math.inf and found.transient_step is None
        assert "diverge" in found.table()
    assert diagnostics.spectrum(1.01 * torch.eye(3)).kreiss == math.inf


def test_single_precision_orthogonal_matrices_count_as_orthogonal():
    found = diagnostics.spectrum(mr.zoo.exprnn(1, 60, 2))
    assert (found.transient, found.transient_step, found.kreiss) == (1, 0, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_no_room_for_growth(dtype, generator):
    Q = orthogonal(128, generator)
    large, small = (diagnostics.spectrum((factor * Q).to(dtype), eps=(0.1,)) for factor in (1.5, 0.9))
    assert large.transient == large.kreiss == math.inf
    assert small.transient == small.kreiss == 1


@pytest.mark.parametrize(("above", "below"), [(3.0, 0.2), (190.0, 0.997)])
def test_powers_with_an_eigenvalue_one_that_is_not_defective_converge(above, below):
    found = diagnostics.spectrum(torch.tensor([[1.0, above], [0.0, below]], dtype=torch.float64))
    limit = math.hypot(1, above / (1 - below))  # the powers converge to [[1, above / (1 - below)], [0, 0]]
    assert found.transient == pytest.approx(limit, rel=1e-6)
    assert limit / 4 <= found.kreiss <= found.transient


def test_a_power_between_those_that_are_searched_is_called_a_lower_bound():
    close, far = (torch.tensor([[value, 1.0], [0.0, value]]).double() for value in (0.5, 0.9999))
    assert "a lower bound" not in diagnostics.spectrum(close).table().split("kreiss")[0]
    assert "a lower bound" in diagnostics.spectrum(far).table().split("kreiss")[0]


# ---- extreme matrices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.3, -0.5])
def test_a_matrix_of_one_entry(value):
    found = diagnostics.spectrum(torch.tensor([[value]], dtype=torch.float64))
    assert found.eigenvalues == (value,) and found.radius == found.norm == found.numerical_radius == abs(value)
    assert found.henrici == found.commutator == 0 and found.conditions == (1,) and found.kreiss == 1
    assert found.distance_to_instability == pytest.approx(1 - abs(value), abs=EXACT)
    assert found.pseudo[0.01] == pytest.approx(abs(value) + 0.01, abs=EXACT)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-30, 1e30, 1e200, 1e300])
@pytest.mark.parametrize("build", [lambda: chain(8), lambda: torch.zeros(8, 8).double(), lambda: jordan(8, 1.0).mT])
def test_huge_and_tiny_matrices_have_the_numbers_of_ordinary_ones(scale, build):
    W, levels = build(), (1e-6, 1e-2)
    one, two = diagnostics.spectrum(W, eps=levels), diagnostics.spectrum(scale * W, eps=[scale * e for e in levels])
    for name in ("radius", "norm", "numerical_radius", "henrici"):
        assert getattr(two, name) == pytest.approx(scale * getattr(one, name), rel=1e-12), name
    assert two.commutator == pytest.approx(one.commutator, rel=1e-12) and two.conditions == one.conditions
    assert [r / scale for r in two.pseudo.values()] == pytest.approx(list(one.pseudo.values()), rel=1e-8)
    assert all(math.isfinite(radius) for radius in diagnostics.spectrum(scale * W).pseudo.values())
    if scale < 1:
        assert (two.transient, two.kreiss) == (1, 1) and two.distance_to_instability == pytest.approx(1)


# ---- sources, bad input, pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scornn", "full_urnn", "exprnn"])
def test_orthogonal_and_unitary_matrices_have_their_eigenvalues_on_the_circle(name):
    network = getattr(mr.zoo, name)(1, 8, 2)
    spectrum = diagnostics.spectrum(network)
    assert spectrum.matrix == "W_hh" and spectrum.moduli == pytest.approx([1] * 8, abs=1e-5)
    assert "moduli from 1 to 1" in spectrum.table()


def test_a_network_keeps_its_state_and_the_random_numbers_theirs():
    network = mr.zoo.nonnormal(2, 12, 3)
    before, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.random.get_rng_state()
    diagnostics.spectrum(network)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items()) and network.training
    assert torch.equal(random, torch.random.get_rng_state()) and all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("constraint", [None, mr.Orthogonal()], ids=repr)
def test_gates_over_units_are_those_of_evaluation_in_either_mode(constraint):
    torch.manual_seed(0)
    layer = mr.nn.gate_units(mr.nn.GRU(2, 6, constraint=constraint, num_layers=2), inputs=True)
    found = []
    for _ in range(2):  # each call draws other gates
        layer.train()(torch.randn(3, 2, 2))
        state = torch.get_rng_state()
        found.append((diagnostics.eigenvalues(layer), input_matrix(layer)))
        assert layer.training and torch.equal(torch.get_rng_state(), state)
    layer.eval()
    for eigenvalues, V in found:
        assert eigenvalues == diagnostics.eigenvalues(layer)
        assert torch.equal(V, layer.weights("_l0")["weight_ih"].chunk(3)[2])
    gates = layer.unit_gates["l0"]()
    expected = torch.linalg.eigvals((layer.weight_hh_l0.chunk(3)[2] * gates).double()).detach()
    matched = (torch.tensor(found[0][0], dtype=torch.complex128).unsqueeze(1) - expected).abs().amin(0)
    assert float(matched.max()) < 1e-12


def test_eigenvalues_alone_are_those_of_the_spectrum_and_none_of_a_matrix_that_is_not_finite():
    lstm = nn.LSTM(2, 7)
    alone, all_numbers = diagnostics.eigenvalues(lstm), diagnostics.spectrum(lstm)
    assert sorted(map(abs, alone)) == pytest.approx(all_numbers.moduli, rel=1e-10)
    network = mr.zoo.Network(mr.nn.RNN(1, 3, batch_first=True), 2)
    nn.init.constant_(network.layer.weight_hh_l0, torch.nan)
    assert diagnostics.eigenvalues(network) == ()
    with pytest.raises(NonFiniteError, match=r"9 entries of W_hh"):
        diagnostics.spectrum(network)


@pytest.mark.parametrize("function", ["spectrum", "eigenvalues", "pseudospectrum", "fisher_memory"])
def test_bad_input_is_answered_by_name(function):
    measure = getattr(diagnostics, function)
    for shape in ((3, 4), (0, 0), (3,), (2, 3, 3)):
        with pytest.raises(ShapeError, match=rf"{function} needs one square matrix.*\n?.*"):
            measure(torch.zeros(shape))
    with pytest.raises(OptionError, match="Linear has no recurrent matrix"):
        measure(nn.Linear(2, 2))
    for matrix in ([[0.5]], torch.eye(2).numpy()):
        with pytest.raises(OptionError, match=r"is neither a matrix nor a module.*\n.*\n.*torch.as_tensor"):
            measure(matrix)
    for matrix in (torch.eye(2).to_sparse(), torch.eye(2, device="meta")):
        with pytest.raises(UnsupportedError, match=rf"{function} needs (a dense tensor|a tensor with data)"):
            measure(matrix)
    if function != "eigenvalues":
        with pytest.raises(NonFiniteError, match=f"{function} needs a matrix of finite numbers"):
            measure(torch.full((2, 2), torch.inf))


@pytest.mark.parametrize(
    "eps", [(), 0.1, None, "a", True, (True,), (None,), (0.0,), (-1.0, 1.0), (math.nan,), (math.inf,)]
)
@pytest.mark.parametrize("function", ["spectrum", "pseudospectrum"])
def test_sizes_of_perturbations_are_positive(function, eps):
    with pytest.raises(OptionError, match=f"{function} needs sizes of perturbations"):
        getattr(diagnostics, function)(torch.eye(2), eps=eps)


def test_whole_numbers_become_double_precision():
    assert diagnostics.spectrum(torch.tensor([[0, 1], [1, 0]])).radius == 1


def test_table_and_picture_show_every_number():
    found = diagnostics.spectrum(chain(6, 0.5))
    table = found.table()
    assert table.isascii() and table.startswith("spectrum of W: moduli from 0 to 0, median 0")
    assert "radius at 1.24e-05" in diagnostics.spectrum(chain(4), eps=(1.24e-5,)).table()
    assert len(table.splitlines()) == 1 + 9 + len(found.pseudo)
    pytest.importorskip("matplotlib")
    axes = found.plot()
    assert len(axes.collections[0].get_offsets()) == 6 and len(axes.patches) == 1 + len(found.pseudo)
    assert axes.get_xlabel() and axes.get_title() == "spectrum of W" and axes.get_legend()
