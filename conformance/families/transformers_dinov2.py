"""Hugging Face transformers' DINOv2: plain, with register tokens, and with a SwiGLU MLP."""

from __future__ import annotations

from dataclasses import replace

from ..cases.case import Case
from . import dinov2, hugging_face
from .base import NO_RELEASE, Arch, Family, Shapes, State

_SOURCE = "huggingface/transformers src/transformers/models/"
_ROOTS = ("dinov2.", "dinov2_with_registers.")
_RENAMINGS = (*hugging_face.ATTENTION, ("mlp.weights_out.", "mlp.down_proj."))


def _root(arch: Arch) -> str:
    return _ROOTS[arch["reg_tokens"] > 0]


def _written(case: Case, state: State) -> State:
    """Under the names of the case. A module has gate and value of a SwiGLU in two layers, a file in one."""
    rooted = {_root(case.arch) + k.removeprefix(_ROOTS[0]).removeprefix(_ROOTS[1]): v for k, v in state.items()}
    out: State = {}
    for name, tensor in hugging_face.spelled(case, rooted, _root(case.arch), "encoder.layer.", _RENAMINGS).items():
        if case.arch["names"] == "modules" and "mlp.weights_in." in name:
            parts = (name.replace("weights_in", part) for part in ("gate_proj", "up_proj"))
            out |= dict(zip(parts, tensor.chunk(2)))
        else:
            out[name] = tensor
    return out


def _classifier(arch: Arch) -> Shapes:
    """A classifier of the class token beside the mean patch token, which no model of timm's has."""
    if arch["bare"]:
        return {}
    return {"classifier.weight": (5, 2 * arch["embed_dim"]), "classifier.bias": (5,)}


def _family(original: Family, name: str, source: str) -> Family:
    return replace(
        original,
        name=name,
        source=_SOURCE + source,
        known_since=NO_RELEASE,
        complete_since="",
        architectures=hugging_face.architectures(original.architectures),
        written=_written,
        foreign=_classifier,
        wrappers=("bare", "model"),
        tags=lambda case: original.tags(case) | hugging_face.tags(case),
        own_regimes=original.own_regimes | hugging_face.REGIMES,
        weight=0.1,
    )


TRANSFORMERS_DINOV2 = _family(dinov2.DINOV2, "transformers_dinov2", "dinov2/modeling_dinov2.py")

TRANSFORMERS_DINOV2_REGISTERS = _family(
    dinov2.DINOV2_REGISTERS,
    "transformers_dinov2_registers",
    "dinov2_with_registers/modeling_dinov2_with_registers.py",
)

TRANSFORMERS_DINOV2_SWIGLU = _family(
    dinov2.DINOV2_SWIGLU,
    "transformers_dinov2_swiglu",
    "dinov2/modeling_dinov2.py: Dinov2SwiGLUFFN",
)

FAMILIES = (TRANSFORMERS_DINOV2, TRANSFORMERS_DINOV2_REGISTERS, TRANSFORMERS_DINOV2_SWIGLU)
