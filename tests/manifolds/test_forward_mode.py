"""Every map in forward mode, against differences and reverse mode; and traces, which hold for other numbers."""

import pytest
import torch
from manifolds.test_autograd import MAPS, TABLE, arguments, refused, scalar, small
from support.manifold_cases import ids
from torch.fx.experimental.proxy_tensor import make_fx

ROWS = [row for row in TABLE if row[0].retractions != ("own",)]
