import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")  # fixtures of a module run scans too
def _no_native_scan(tmp_path_factory):
    """Run the same scans wherever the tests run; those of the native scan look where it is built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path_factory.getbasetemp() / "nothing_built"))
        yield


@pytest.fixture(params=[torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=[torch.float64, torch.complex128], ids=str)
def wide(request):
    return request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
