"""Steps of Muon for gradients and angles of any size, also where the direction has no closed form."""

import geoopt
import pytest
import torch

import manifold_rnn as mr


@pytest.mark.parametrize("kind", [mr.Unitary, mr.SpecialUnitary, mr.UnitaryRealForm, mr.Orthogonal, mr.Stiefel])
@pytest.mark.parametrize("lr", [1e3, 1e20, 1e39, 1e300])
def test_an_angle_of_many_turns_ends_on_the_manifold(lr, kind, generator):
    m = kind()
    p = torch.nn.Parameter(
        m.random(4, 4, dtype=torch.complex64 if m.is_complex else torch.float32, generator=generator)
    )
    p.manifold, p.grad = m, torch.randn(p.shape, dtype=p.dtype, generator=generator)
    mr.optim.RiemannianMuon([p], lr=lr).step()
    assert float(m.defect(p.detach()).max()) < 1e-5


@pytest.mark.parametrize("make", [mr.SPD, lambda: mr.SPD("log-cholesky"), lambda: geoopt.Sphere()])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e19, 1e30])
def test_the_size_of_a_gradient_does_not_matter_without_a_closed_form(size, make, generator):
    m, g = make(), torch.randn(4, 4, generator=generator)
    ends = []
    for scale in (1.0, size):
        x = torch.eye(4)
        p = torch.nn.Parameter(x.clone()) if not isinstance(m, geoopt.Sphere) else geoopt.ManifoldParameter(x, m)
        p.manifold, p.grad = m, scale * g
        mr.optim.RiemannianMuon([p], lr=0.1).step()
        ends.append(p.detach())
    assert float((ends[0] - torch.eye(4)).norm()) > 0.05
    torch.testing.assert_close(*ends, atol=1e-5, rtol=0)


def test_a_matrix_without_columns_is_left(generator):
    p = torch.nn.Parameter(torch.zeros(4, 0))
    p.grad = torch.zeros(4, 0)
    mr.optim.RiemannianMuon([p]).step()
