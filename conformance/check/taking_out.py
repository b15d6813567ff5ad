"""Tensors that a user has to take out of a file by hand, since no timm opens it so, and the code that does it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..reference import Opened
from .explaining.left_out import LeftOut
from .handing import text
from .loading import Checkpoint, Loaded


@dataclass(frozen=True)
class TakenOut:
    """Where the tensors lie, and what is done to their names.

    ``chunked``, ``left_out`` and ``numpy`` are as in :class:`.opening.Opening`. Names that begin with ``heads`` are left out.
    ``namespace`` says that the file holds arguments in a Namespace, which torch reads only if it is told to.
    """

    opened: Opened
    chunked: bool
    heads: str
    namespace: bool
    left_out: LeftOut = field(default_factory=LeftOut)
    numpy: str = ""

    def code(self, checkpoint: Checkpoint, reading: list[str]) -> list[str]:
        """Python lines after which ``state`` has the tensors under the names that timm expects.

        ``reading`` are lines after which ``content`` has what lies under the entry; none for a file that timm reads.
        """
        path = text(str(checkpoint.located.path))
        keys = "".join(f"[{text(key)}]" for key in self.opened.entry)
        lines = [f'state = torch.load({path}, map_location="cpu", weights_only={not self.numpy}){keys}']
        if self.numpy:
            lines[0] += "  # runs what is pickled in it: only if you trust its origin"
        if reading:
            lines = [*reading, "state = content"]
        elif checkpoint.located.file_kind == "safetensors":
            lines = [f"state = safetensors.torch.load_file({path})"]
        if self.namespace and not self.numpy:
            lines.insert(0, "torch.serialization.add_safe_globals([argparse.Namespace])")
        if self.opened.prefix:
            prefix = text(self.opened.prefix)
            lines.append(f"state = {{k.removeprefix({prefix}): v for k, v in state.items() if k.startswith({prefix})}}")
        elif self.left_out.counters:
            lines.append(f"for name in {list(self.left_out.counters)}: state.pop(name)".replace("'", '"'))
        if self.numpy == "arrays":
            lines.append("state = {k: torch.as_tensor(v) for k, v in state.items()}")
        for wrapper in self.left_out.wrappers:
            point = "." if wrapper == "module." else ""  # names may end in this word
            old, new = text(point + wrapper), text(point)
            lines.append(f"state = {{k.replace({old}, {new}): v for k, v in state.items()}}")
        if self.heads:
            lines.append(f"state = {{k: v for k, v in state.items() if not k.startswith({text(self.heads)})}}")
        if self.chunked:
            lines.append(r'state = {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", k): v for k, v in state.items()}')
        return lines


def has_namespace(content: Mapping[str, Any]) -> bool:
    """Whether a file holds the arguments of a training script as argparse has them."""
    return any(isinstance(v, argparse.Namespace) for v in content.values())


def foreign_heads(loaded: Loaded, state: Mapping[str, object], right: Mapping[str, object]) -> str:
    """The first part of the names of heads that a file has beside the tower and the model has not; empty if there is none."""
    parts = {k.partition(".")[0] for k in loaded.state_dict.keys() - right.keys()}
    own = {k.partition(".")[0] for k in right}
    known = [p for p in parts if p not in own and any(k.startswith(f"{p}.") for k in state)]
    return f"{known[0]}." if len(parts) == len(known) == 1 else ""
