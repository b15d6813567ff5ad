"""bfloat16 `.npz` files through the one door timm has for them, `_load_weights(load_bfloat16=True)`, which needs jax."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch

from timm_conformance import reference
from timm_conformance.cases.case import Case, Geometry
from timm_conformance.checkpoints import files, state_dicts
from timm_conformance.families import FAMILIES
from timm_conformance.targets.loader import Loader
from timm_conformance.targets.target import MODEL_RELEASE, parse_target
from timm_conformance.trials import bounds

from . import packages

if packages.VARIABLE not in os.environ:
    pytest.skip("needs jax: run nox -s upstream", allow_module_level=True)

ARCH = {
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
    "class_token": False,
    "reg_tokens": 0,
    "num_classes": 0,
    "act": "gelu_tanh",
    "fc_norm": False,
    "no_embed_class": True,
    "global_pool": "map",
}


@pytest.mark.parametrize("wrapper", ["params/img/", "img/+scan", "bare"])
def test_timm_and_the_reference_read_the_same_bfloat16_file(wrapper: str, tmp_path: Path) -> None:
    """PaliGemma's towers are stored so: resampled, they agree to one unit of bfloat16."""
    source, destination = Geometry((4, 4), (3, 3)), Geometry((5, 5), (2, 2))
    family = FAMILIES["big_vision"]
    case = Case(family.name, ARCH, source, destination, dtype="bfloat16", wrapper=wrapper)
    loader = Loader(parse_target(f"timm=={MODEL_RELEASE}"))
    model = loader.model(family, case, destination, source.img_size)
    upstream = state_dicts.encode(family, case, state_dicts.truth(family, case))
    path = files.write(upstream, wrapper, "npz", tmp_path)
    timm = importlib.import_module("timm.models.vision_transformer")
    prefix = "img/" if wrapper.startswith("img/") else ""
    timm._load_weights(model, str(path), prefix=prefix, load_bfloat16=True)
    got = model.state_dict()
    for name, want in reference.load_state_dict(files.read(path), model).items():
        assert want.dtype == torch.bfloat16
        error = (got[name].to(torch.float64) - want.to(torch.float64)).abs()
        assert bool((error <= bounds.rounding(want, torch.bfloat16)).all()), name
