"""I-JEPA: the context encoder under ``encoder``, as DistributedDataParallel saved it, or without its prefix."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from . import vit

IJEPA = vit.family(
    name="ijepa",
    # 0.9.5 has _convert_ijepa, which moved the norm; 0.9.8 only takes the prefix away.
    source="facebookresearch/ijepa src/models/vision_transformer.py, src/train.py",
    known_since="0.9.5",
    complete_since="0.9.8",
    architectures=vit.architectures(
        class_token=st.just(False), num_classes=st.just(0), global_pool=st.just("avg"), fc_norm=st.just(False)
    ),
    models=("vit_*_ijepa*",),
    wrappers=("encoder", "model.encoder"),
    containers=("pth", "memory"),
    unreachable=frozenset({"prefix-1", "prefix-1+R", "safetensors"}),
    weight=0.22,
)

IJEPA_WITHOUT_DDP = replace(
    IJEPA,
    name="ijepa_without_ddp",
    source="facebookresearch/ijepa src/train.py (an encoder saved without DistributedDataParallel)",
    shares_format="timm_native",
    # 0.9.5 to 0.9.7 take the prefix away where it is, and are judged on the files that have it.
    known_since="0.9.8",
    weight=0.22,
)

FAMILIES = (IJEPA, IJEPA_WITHOUT_DDP)
