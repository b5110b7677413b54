import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import manifold_rnn as mr


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("name", mr.zoo.available())
def test_two_halves_with_the_state_between_them_are_the_whole(name, every_step):
    torch.manual_seed(0)
    network, x = getattr(mr.zoo, name)(3, 8, 2), torch.randn(4, 9, 3)
    first, state = network.carry_on(x[:, :5], every_step=every_step)
    second, _ = network.carry_on(x[:, 5:], state, every_step=every_step)
    whole = network(x, every_step=every_step)
    got = torch.cat([first, second], 1) if every_step else second
    torch.testing.assert_close(got, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["exprnn", "lru", "scurnn"])
def test_a_packed_batch_is_carried_too(name):
    network, x = getattr(mr.zoo, name)(3, 8, 2), torch.randn(2, 6, 3)
    packed = pack_padded_sequence(x, [6, 4], batch_first=True)
    out, _ = network.carry_on(packed)
    torch.testing.assert_close(out[1], network(x[1:, :4])[0], rtol=1e-4, atol=1e-5)
