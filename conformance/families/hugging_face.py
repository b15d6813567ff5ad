"""What the families of Hugging Face transformers share: the names of a file, and those of a model in memory.

``save_pretrained`` writes the names of transformers 4.x. The ``state_dict()`` of a model of 5.x has those of its modules.
Source: ``huggingface/transformers`` ``src/transformers/conversion_mapping.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from ..cases.case import Case

if TYPE_CHECKING:
    from .base import State

Renamings = tuple[tuple[str, str], ...]

# The names in a file and in a module, of which the first that a name has is replaced.
ATTENTION: Renamings = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
)
ENCODER: Renamings = (*ATTENTION, ("intermediate.dense.", "mlp.fc1."), ("output.dense.", "mlp.fc2."))
REGIMES = frozenset({"names-saved", "names-modules", "bare-encoder"})


@st.composite
def architectures(draw: st.DrawFn, options: st.SearchStrategy[dict[str, Any]], bare: bool = True) -> dict[str, Any]:
    """``options`` with the names that the checkpoint has, and whether it is a bare encoder's, which has no classifier."""
    arch = draw(options)
    names = draw(st.sampled_from(["saved", "modules"]), label="names")
    encoder = bare and not arch["num_classes"] and draw(st.booleans(), label="bare")
    return arch | {"names": names, "bare": encoder}


def spelled(case: Case, state: State, root: str, layers: str, renamings: Renamings) -> State:
    """``state`` under the names of the case. ``layers`` is what a module has in place of ``encoder.layer.``."""
    out: State = {}
    for name, tensor in state.items():
        if case.arch["names"] == "modules":
            old, new = next((pair for pair in renamings if pair[0] in name), ("", ""))
            name = name.replace(old, new, 1).replace("encoder.layer.", layers, 1)
        out[name.removeprefix(root) if case.arch["bare"] else name] = tensor
    return out


def tags(case: Case) -> frozenset[str]:
    """Which names the checkpoint has, and whether it is a bare encoder's."""
    return frozenset({f"names-{case.arch['names']}"} | ({"bare-encoder"} if case.arch["bare"] else set()))
