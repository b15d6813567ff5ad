"""The tensor shapes of a checkpoint in timm's layout, written layer by layer. Tensors are filled in this order."""

from __future__ import annotations

from .base import Arch


def pools_by_average(arch: Arch) -> bool:
    """Whether the final norm comes after pooling (timm's ``fc_norm``)."""
    return arch.get("fc_norm", arch.get("global_pool", "token") == "avg")


class Layout(dict[str, tuple[int, ...]]):
    """Shapes by tensor name, for a model of width ``dim``. Its norms have a bias unless they are RMSNorms (``rms``)."""

    def __init__(self, dim: int, rms: bool = False) -> None:
        super().__init__()
        self._dim, self._rms = dim, rms

    def linear(self, name: str, rows: int, cols: int, bias: bool = True) -> None:
        """A linear layer from ``cols`` to ``rows`` channels."""
        self[f"{name}.weight"] = (rows, cols)
        if bias:
            self[f"{name}.bias"] = (rows,)

    def norm(self, name: str, width: int | None = None) -> None:
        """A norm of ``width`` channels, by default the model's."""
        self[f"{name}.weight"] = (width or self._dim,)
        if not self._rms:
            self[f"{name}.bias"] = (width or self._dim,)

    def attention_pool(self, hidden: int) -> None:
        """timm's ``AttentionPoolLatent``: a latent that attends to all tokens, then an MLP of ``hidden`` channels."""
        dim = self._dim
        self["attn_pool.latent"] = (1, 1, dim)
        self.linear("attn_pool.q", dim, dim)
        self.linear("attn_pool.kv", 2 * dim, dim)
        self.linear("attn_pool.proj", dim, dim)
        self.norm("attn_pool.norm")
        self.linear("attn_pool.mlp.fc1", hidden, dim)
        self.linear("attn_pool.mlp.fc2", dim, hidden)
