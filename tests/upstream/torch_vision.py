"""torchvision's VisionTransformer, as it saves itself and as its published files were saved. timm depends on torchvision."""

from __future__ import annotations

from typing import Any

from .model import TINY, Upstream, randomise, saved

_OLDER = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}


def _vit(family: str, older: bool = False) -> Upstream:
    from torchvision.models import vision_transformer

    model: Any = randomise(
        vision_transformer.VisionTransformer(
            image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=128, num_classes=5
        )
    )
    state = saved(model)
    if older:
        for new, old in _OLDER.items():
            state = {name.replace(new, old): tensor for name, tensor in state.items()}
        model.load_state_dict(state)  # upstream reads the older names
        model.double()
    return Upstream(
        family=family,
        origin="torchvision: models/vision_transformer.py VisionTransformer",
        arch={**TINY, "num_classes": 5},
        checkpoint=state,
        run=model,
    )


def torchvision_vit() -> Upstream:
    """A model of today."""
    return _vit("torchvision_vit")


def torchvision_vit_older() -> Upstream:
    """The names of the published files."""
    return _vit("torchvision_vit_older", older=True)


BUILDERS = (torchvision_vit, torchvision_vit_older)
