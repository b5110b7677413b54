"""Small hand-made inventories of other projects, so that links to them need no network while the pages are built."""

import zlib
from pathlib import Path

# project: (address, {page with "$" for the name: names})
PROJECTS = {
    "python": (
        "https://docs.python.org/3/",
        {
            "library/exceptions.html#$": ["exception:ValueError", "exception:TypeError", "exception:RuntimeError"],
            "library/functions.html#$": ["class:int", "class:float", "class:bool", "class:complex", "class:object"],
            "library/stdtypes.html#$": ["class:str", "class:list", "class:dict", "class:tuple"],
            "library/abc.html#$": ["class:abc.ABC"],
            "library/typing.html#$": ["data:typing.Any", "class:typing.Protocol", "data:typing.Literal"],
        },
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        {
            "tensors.html#$": ["class:torch.Tensor"],
            "tensor_attributes.html#$": ["class:torch.dtype", "class:torch.device"],
            "generated/torch.Generator.html#$": ["class:torch.Generator"],
            "optim.html#$": ["class:torch.optim.Optimizer", "class:torch.optim.optimizer.Optimizer"],
            "generated/$.html#$": [
                "class:torch.nn.Module",
                "class:torch.nn.RNN",
                "class:torch.nn.LSTM",
                "class:torch.nn.GRU",
                "class:torch.nn.Linear",
                "class:torch.nn.MultiheadAttention",
                "class:torch.optim.Adam",
                "class:torch.optim.SGD",
                "function:torch.matrix_exp",
            ],
        },
    ),
}

LAST_LINE = "# The remainder of this file is compressed using zlib."  # the format asks for these words

#: Projects whose other names are left without a link.
FOREIGN = ["torch", "geoopt", "lightning", "numpy", "matplotlib", "rich", "collections", "pathlib", "argparse"]
FOREIGN += ["Optimizer"]  # torch's, in a docstring that is inherited from it


def write(folder: Path) -> dict[str, tuple[str, str]]:
    """Write the inventories in Sphinx's format (version 2) and return the mapping that intersphinx reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for project, (_, pages) in PROJECTS.items():
        rows = "".join(_row(page, name) for page, names in pages.items() for name in names)
        head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n{LAST_LINE}\n"
        (folder / f"{project}.inv").write_bytes(head.encode() + zlib.compress(rows.encode()))
    return {project: (address, str(folder / f"{project}.inv")) for project, (address, _) in PROJECTS.items()}


def _row(page: str, entry: str) -> str:
    kind, _, name = entry.partition(":")
    return f"{name} py:{kind} 1 {page.replace('$', name)} -\n"
