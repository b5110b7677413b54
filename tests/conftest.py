import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(params=[torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=[torch.float64, torch.complex128], ids=str)
def wide(request):
    return request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
