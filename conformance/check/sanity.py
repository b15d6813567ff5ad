"""Checks that the tensors of a checkpoint can be weights, before any loader uses them.

It looks only at the tensors that the format reads: text towers and optimisers beside them may hold anything. The reference
itself checks names, shapes and dtypes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import UserError
from ..reference import LoadError, detect
from ..reference.errors import some

# The word embeddings of CLIP, of Hugging Face's text models, of GPT.
_WORDS = ("token_embedding.weight", "word_embeddings.weight", "embed_tokens.weight", "wte.weight")


def require_weights(state: Mapping[str, Tensor]) -> None:
    """Raise :class:`UserError` for an unwrapped state dict (``reference.unwrap``) that no loader should load.

    The error is one line. It names tensors without data or values or with NaN or infinity, or says that the format is unknown
    or that this is a text model. Values are read once, without a copy.
    """
    try:
        namespace = detect(state).namespace
    except LoadError as error:
        words = [k for k in state if k.endswith(_WORDS)]
        if words and not any(v.ndim == 4 for v in state.values()):
            raise UserError(f"this checkpoint holds a text model ({some(words)}) and no image encoder") from None
        raise UserError(str(error)) from None
    own = {k: v for k, v in state.items() if k.startswith(namespace)}
    _refuse("without data, as on the meta device", [k for k, v in own.items() if v.is_meta])
    _refuse("without values", [f"{k} {tuple(v.shape)}" for k, v in own.items() if not v.numel()])
    _refuse("with NaN or infinite values", [k for k, v in own.items() if not _finite(v)])


def _refuse(what: str, names: list[str]) -> None:
    if names:
        raise UserError(f"this checkpoint has tensors {what}: {some(names)}; save it again, or find one that is whole")


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite. A NaN makes both extremes NaN. Dtypes that no weights have are not looked at."""
    if not tensor.is_floating_point() or tensor.itemsize < 2:
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite() & high.isfinite())
