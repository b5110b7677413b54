"""Checkpoints of orthogonal fine-tuning (OFT) in the format of the library peft.

peft multiplies the inputs, which are rows, by :math:`R_p` from the right. Hence :math:`R_p` is the transpose of ``R``
of `manifold_rnn.OrthogonalAdapter`. With ``use_cayley_neumann=False`` its blocks are :math:`(I - Q)(I + Q)^{-1}`. With
``use_cayley_neumann=True`` they are the truncated series of :math:`(I + Q)(I - Q)^{-1}`. The same coordinates therefore
give rotations in opposite directions.

>>> import tempfile
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 8))
>>> model = mr.constrain_matching(model, {"0.weight": mr.OrthogonalAdapter(4)}, freeze_others=True)
>>> folder = tempfile.mkdtemp()
>>> mr.interop.peft.write_oft(model, folder)
>>> other = torch.nn.Sequential(torch.nn.Linear(8, 8))
>>> assert mr.interop.peft.read_oft(other, folder)[0].constraints["weight"].block_size == 4
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..constraints import OrthogonalAdapter, Parametrization, constrain_matching, parametrizations
from ..constraints.kinds.adapter import AdapterParametrization
from ..constraints.kinds.orthogonal_adapter import OrthogonalAdapterParametrization
from ..errors import OptionError, ShapeError, UnsupportedError
from ..linalg import pack_skew, unpack_skew
from ..linalg.checks import require_finite
from ..linalg.skew import skew_size
from ..retractions import Cayley

__all__ = ["read_oft", "write_oft"]

_CONFIG, _WEIGHTS, _OLD_WEIGHTS = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX, _SUFFIX = "base_model.model.", ".oft_R.weight"
_SERIES_SINCE = (0, 18)  # earlier versions computed another series


def read_oft(model: nn.Module, folder: str | Path) -> nn.Module:
    """Add the OFT adapters of a peft checkpoint to a model, in place, and freeze all other parameters.

    Parameters
    ----------
    model : nn.Module
        The base model with its pretrained weights, without adapters.
    folder : str or path
        A folder with ``adapter_config.json``, and ``adapter_model.safetensors`` or ``adapter_model.bin``.

    Returns
    -------
    nn.Module
        ``model`` itself, constrained by `manifold_rnn.OrthogonalAdapter`. It has ``series_terms`` if the checkpoint was
        trained with the truncated series.

    Raises
    ------
    OptionError
        If these files are missing, they are not of OFT, or the model lacks a layer that they name.
    UnsupportedError
        If the checkpoint contains anything except OFT on linear layers, or projects its blocks (``coft``). Also if its
        series is from peft before 0.18 or has fewer than 3 terms, or if safetensors is needed and not installed.
    ShapeError, NonFiniteError
        If an adapter does not fit its layer, or has entries that are not finite. After any error the model is
        unchanged.

    Notes
    -----
    peft's ``num_cayley_neumann_terms=3`` computes the series of 4 terms, and becomes ``series_terms=4`` here. Weights
    are converted in float64 and rounded once.

    Examples
    --------
    >>> try: mr.interop.peft.read_oft(torch.nn.Linear(2, 2), "nowhere")
    ... except mr.errors.OptionError as error: assert "adapter_config.json" in str(error)
    """
    config, state = _read(Path(folder))
    terms = _series_terms(config)
    share = bool(config.get("block_share"))
    coordinates, constraints = {}, {}
    for key, numbers in state.items():
        name = key.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if not (key.startswith(_PREFIX) and key.endswith(_SUFFIX)):
            raise UnsupportedError(
                "read_oft reads only rotations of linear layers.\n"
                f"Expected names like {_PREFIX}layer{_SUFFIX}, got {key!r:.80}.\n"
                "Train without modules_to_save, biases and embeddings, or load and merge the checkpoint with peft."
            )
        size = _linear(model, name).in_features
        count = numbers.shape[-1] if numbers.ndim else 0
        block = (1 + math.isqrt(1 + 8 * count)) // 2  # size of a skew-symmetric matrix with this number of coordinates
        rows = 1 if share else size // block
        if numbers.shape != (rows, block * (block - 1) // 2) or size % block or not count:
            raise ShapeError(
                f"The adapter of {name!r:.120} must have one row of b(b - 1)/2 numbers for each block of size b of the "
                f"input size {size}.\nExpected {rows} rows, got shape {tuple(numbers.shape)}.\n"
                "Check that the checkpoint belongs to this model."
            )
        require_finite(numbers, key, "Nothing was changed. Use an earlier checkpoint.")
        constraints[f"{name}.weight"] = OrthogonalAdapter(block, share=share, series_terms=terms)
        coordinates[name] = _coordinates(numbers, exact=terms is None)
    constrain_matching(model, constraints, freeze_others=True)
    with torch.no_grad():
        for name, entry in _adapters(model).items():
            if name in coordinates:
                entry.coordinates.copy_(coordinates[name].unsqueeze(0))
    return model


def write_oft(model: nn.Module, folder: str | Path, *, base_model: str | None = None) -> None:
    """Write the adapters of a model as an OFT checkpoint for peft.

    Parameters
    ----------
    model : nn.Module
        A model with weights constrained by `manifold_rnn.OrthogonalAdapter`.
    folder : str or path
        The output folder. It is created if it is missing.
    base_model : str, optional
        The name of the base model for the config, from which peft can load it.

    Raises
    ------
    OptionError
        If no weight of the model is constrained by `OrthogonalAdapter`.
    UnsupportedError
        If peft cannot represent the adapters; then nothing is written. All adapters must have the same ``block_size``,
        ``share`` and ``series_terms``, and no others may be in the model. They must be real, have one factor, and act
        on the inputs of linear layers inside a model. Peft must also have their series.
    OffManifoldError
        If the retraction is not the Cayley map, and a block rotates by 180 degrees, which the Cayley map cannot.

    Notes
    -----
    The checkpoint contains ``use_cayley_neumann=False`` if ``R`` is orthogonal, for every retraction. With
    ``series_terms`` it contains True and the number of terms.

    Examples
    --------
    >>> try: mr.interop.peft.write_oft(torch.nn.Linear(2, 2), "nowhere")
    ... except mr.errors.OptionError as error: assert "OrthogonalAdapter" in str(error)
    """
    adapters = _adapters(model)
    _require_alone(model)
    if not adapters:
        raise OptionError(
            "write_oft needs weights under OrthogonalAdapter.\nExpected at least one in the model, got none.\n"
            "Call constrain_matching with OrthogonalAdapter first."
        )
    kinds = {(e.block_size, e.coordinates.shape[-2] == 1, e.series_terms) for e in adapters.values()}
    if len({(block, terms) for block, _, terms in kinds}) > 1 or not all(map(_is_oft, adapters.values())):
        raise UnsupportedError(
            "An OFT checkpoint has one block size and one map, one factor on the input side of real weights, and "
            f"no series or at least 4 terms.\nGot (block size, one block, terms) {sorted(map(str, kinds))!s:.99}.\n"
            "Constrain all weights in the same way, or merge adapters with release."
        )
    state, first = {}, next(iter(adapters.values()))
    shared = all(e.coordinates.shape[-2] == 1 for e in adapters.values())
    for name, entry in adapters.items():
        rows = entry.coordinates.shape[-2]
        if not shared and rows != entry.width // entry.block_size:
            raise UnsupportedError(
                "An OFT checkpoint shares blocks in all layers or in none.\n"
                f"Expected {entry.width // entry.block_size} blocks for {name!r:.80}, got {rows}.\n"
                "Constrain all weights in the same way."
            )
        state[f"{_PREFIX}{name}{_SUFFIX}"] = _vectors(entry)
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "block_share": shared and any(e.width != e.block_size for e in adapters.values()),
        "fan_in_fan_out": False,
        "inference_mode": True,
        "oft_block_size": first.block_size,
        "peft_type": "OFT",
        "peft_version": "0.18.0",  # the first version with this form of the series
        "r": 0,
        "target_modules": sorted(adapters),
        "use_cayley_neumann": first.series_terms is not None,
        "num_cayley_neumann_terms": first.series_terms or 5,
    }
    _write(Path(folder), config, state)


# --- coordinates ---


def _coordinates(vectors: Tensor, *, exact: bool) -> Tensor:
    """Return coordinates of skew matrices whose map is the transpose of peft's, given peft's upper triangles."""
    b = skew_size(vectors.shape[-1])
    rows, columns = torch.triu_indices(b, b, 1, device=vectors.device)
    Q = vectors.new_zeros((*vectors.shape[:-1], b, b), dtype=torch.float64)
    Q[..., rows, columns] = vectors.double()
    return pack_skew((2.0 if exact else -2.0) * (Q - Q.mT))


@torch.no_grad()
def _vectors(entry: OrthogonalAdapterParametrization) -> Tensor:
    A = unpack_skew(entry.coordinates.double()).flatten(0, -3)  # one factor
    if entry.retraction is not None and entry.retraction.name != "cayley":
        A = Cayley().inverse_group_map(entry.retraction.group_map(A))
    rows, columns = torch.triu_indices(entry.block_size, entry.block_size, 1, device=A.device)
    sign = 0.5 if entry.series_terms is None else -0.5
    return (sign * A)[..., rows, columns].float().cpu().contiguous()


# --- the layers ---


def _linear(model: nn.Module, name: str) -> nn.Linear:
    layer = dict(model.named_modules(remove_duplicate=False)).get(name)
    if layer is None or layer._parameters.get("weight") is None:
        raise OptionError(
            f"The checkpoint has an adapter for {name!r:.80}, which must be a layer of the model with a free weight.\n"
            f"Expected it among the modules, got {'none' if layer is None else type(layer).__name__}.\n"
            "Check that the checkpoint belongs to this model, and release its adapters first."
        )
    if not isinstance(layer, nn.Linear):
        raise UnsupportedError(
            "read_oft reads only adapters of linear layers: peft has two different rotations of convolutions.\n"
            f"Expected Linear for {name!r:.80}, got {type(layer).__name__}.\nMerge the adapter with peft."
        )
    return layer


def _adapters(model: nn.Module) -> dict[str, OrthogonalAdapterParametrization]:
    """Return the adapters of a model, by the name of their layer."""
    found = {}
    for name, entry in parametrizations(model):
        parts: list[Parametrization] = [entry, *entry.parts().values()]
        for part in parts:
            if isinstance(part, OrthogonalAdapterParametrization):
                owner, _, leaf = name.rpartition(".")
                linear = part is entry and leaf == "weight" and isinstance(model.get_submodule(owner), nn.Linear)
                if not linear:
                    raise UnsupportedError(
                        "An OFT checkpoint adapts only the weights of linear layers.\n"
                        f"Expected no others, got {name!r:.80}, of another layer or with matrix_dims or blocks.\n"
                        "Merge it with release first."
                    )
                found[owner] = part
    return found


def _require_alone(model: nn.Module) -> None:
    """Raise if a model has adapters of another kind, or is itself one layer, which peft cannot adapt."""
    for name, entry in parametrizations(model):
        kinds = [part for part in (entry, *entry.parts().values()) if isinstance(part, AdapterParametrization)]
        if not all(isinstance(part, OrthogonalAdapterParametrization) for part in kinds):
            raise UnsupportedError(
                "An OFT checkpoint has only orthogonal adapters, so the model could not be restored from it.\n"
                f"Expected OrthogonalAdapter only, got {type(kinds[0]).__name__} on {name!r:.80}.\n"
                "Merge the others with release first, and save that model as the base."
            )
        if "." not in name and isinstance(entry, OrthogonalAdapterParametrization):
            raise UnsupportedError(
                "peft adapts layers inside a model, by their names.\n"
                f"Expected a layer with a name, got the model itself, {type(model).__name__}.\n"
                "Put it into a Sequential."
            )


def _is_oft(entry: OrthogonalAdapterParametrization) -> bool:
    known = entry.series_terms is None or entry.series_terms >= 4
    return known and entry.side == "input" and entry.factors == 1 and not entry.base.is_complex()


# --- the files ---


def _read(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    weights = next((folder / name for name in (_WEIGHTS, _OLD_WEIGHTS) if (folder / name).is_file()), None)
    if weights is None or not (folder / _CONFIG).is_file():
        raise OptionError(
            f"A peft checkpoint is a folder with {_CONFIG} and {_WEIGHTS}.\n"
            f"Got {str(folder)!r:.80}, which lacks one of them.\nPass the folder that save_pretrained wrote."
        )
    try:
        config = json.loads((folder / _CONFIG).read_text())
    except ValueError as error:
        raise _damaged(_CONFIG, error) from error
    if not isinstance(config, dict):
        raise _damaged(_CONFIG, config)
    if config.get("peft_type") != "OFT":
        raise OptionError(
            f"read_oft reads OFT checkpoints.\nExpected peft_type 'OFT', got {config.get('peft_type')!r:.40}.\n"
            "Load and merge other checkpoints with peft."
        )
    if weights.name == _OLD_WEIGHTS:
        load: Callable[[Path], dict[str, Tensor]] = functools.partial(torch.load, map_location="cpu", weights_only=True)
    else:
        try:
            from safetensors.torch import load_file
        except ImportError as missing:
            raise UnsupportedError(
                f"{_WEIGHTS} needs safetensors.\nIt is not installed.\nRun pip install safetensors."
            ) from missing
        load = load_file
    try:
        state = load(weights)
    except Exception as error:  # each library raises its own errors
        raise _damaged(weights.name, error) from error
    if not state:
        raise OptionError(
            "An OFT checkpoint must have at least one adapter.\n"
            f"Expected names like {_PREFIX}layer{_SUFFIX}, got an empty file.\nSave the adapter again."
        )
    return config, state


def _damaged(name: str, cause: object) -> OptionError:
    return OptionError(
        f"{name} cannot be read.\nExpected a file that save_pretrained of peft wrote, got {cause!s:.160}.\n"
        "Save or download it again."
    )


def _series_terms(config: Mapping[str, Any]) -> int | None:
    """Return the number of terms of the series, counted as here; None for the exact map."""
    version = tuple(int(k) for k in re.findall(r"\d+", str(config.get("peft_version", "0")))[:2])
    terms = config.get("num_cayley_neumann_terms", 5)
    series = config.get("use_cayley_neumann")
    known = type(terms) is int and terms >= 3 and version >= _SERIES_SINCE
    if config.get("coft") or series is None or (series and not known):
        shown = {k: config.get(k) for k in ("coft", "use_cayley_neumann", "num_cayley_neumann_terms", "peft_version")}
        raise UnsupportedError(
            "read_oft supports plain OFT: the exact map, or the series of at least 3 terms of peft 0.18 or later.\n"
            f"Got {shown!s:.160}.\nLoad and merge it with the version of peft that wrote it."
        )
    return max(4, int(terms)) if series else None


def _write(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        from safetensors.torch import save_file
    except ImportError:  # peft reads both formats
        torch.save(dict(state), folder / _OLD_WEIGHTS)
    else:
        save_file(dict(state), folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
