"""The corrected Vision Transformer checkpoint loader, written from the formats' own definitions with torch alone.

``load_state_dict(checkpoint, model)`` returns what a strict load of ``model`` needs, for any known format and any patch
or image size; ``forward(checkpoint, image, arch)`` runs the upstream tensors without converting them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .detect import detect
from .entries import Opened, open_checkpoint, unwrap
from .errors import LoadError
from .formats import FORMATS, Facts, Format
from .loader import load_state_dict
from .resize import BICUBIC_ANTIALIAS, BILINEAR, Resampling


def forward(checkpoint: Mapping, image: Tensor, arch: Mapping) -> Tensor:
    """Output of the upstream model of a checkpoint on ``image`` ``(batch, in_chans, height, width)``.

    ``arch`` holds the hyperparameters that the tensors do not give. ``num_heads`` is always needed. ``act``, ``eps``,
    ``global_pool``, ``no_embed_class``, ``patch_size`` (linear patch embeddings), ``stem_padding``, ``stem_constants`` and
    ``pre_logits`` are needed if they differ from the format's defaults. Raises :class:`LoadError`, one line, if tensors, image
    and ``arch`` do not fit together.
    """
    state_dict = unwrap(checkpoint)
    form = detect(state_dict)
    try:
        return form.forward(state_dict, image, arch)
    except LoadError:
        raise
    except KeyError as error:
        raise LoadError(f"the {form.name} forward finds no {error.args[0]} in the checkpoint or in arch") from error
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LoadError(f"the {form.name} forward cannot run on tensors of these shapes: {reason}") from error


__all__ = [
    "BICUBIC_ANTIALIAS",
    "BILINEAR",
    "FORMATS",
    "Facts",
    "Format",
    "LoadError",
    "Opened",
    "Resampling",
    "detect",
    "forward",
    "load_state_dict",
    "open_checkpoint",
    "unwrap",
]
