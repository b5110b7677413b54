"""What the tests of published networks share."""

import torch

WIDE = torch.float64


def signs(n, negatives):
    return torch.cat([torch.ones(n - negatives, dtype=WIDE), -torch.ones(negatives, dtype=WIDE)])
