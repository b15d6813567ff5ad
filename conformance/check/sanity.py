"""Whether what a checkpoint holds can be weights at all: said by name, before any loader makes something of it.

Only the tensors that its format reads are looked at: text towers and optimisers beside them may hold anything. Names and
shapes are the reference's to refuse, as are dtypes, which depend on the model.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import UserError
from ..reference import LoadError, detect
from ..reference.errors import some

# The word embeddings of CLIP, of Hugging Face's text models, of GPT.
_WORDS = ("token_embedding.weight", "word_embeddings.weight", "embed_tokens.weight", "wte.weight")


def sane(state: Mapping[str, Tensor]) -> None:
    """Refuse an unwrapped state dict (``reference.unwrap``) that no loader should turn into a model.

    Raises :class:`UserError`, one line naming the tensors: of no known format (a text model says so), without data or
    values, with NaN or infinity. Values are looked at once, without a copy.
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
    """Whether all values are finite, of a dtype that weights have; NaN makes both extremes NaN."""
    if not tensor.is_floating_point() or tensor.itemsize < 2:
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite() & high.isfinite())
