"""big_vision's Flax Vision Transformer in the copy that gemma ships, and files as big_vision and PaliGemma save them.

Google's original layout (``vit_jax``) has the same blocks under other names, a class token that gets a position, and a
linear head; those few lines are written out here, the blocks are the package's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timm_conformance.checkpoints import files

from .clip import siglip_model
from .model import TINY, Upstream, weights
from .packages import load, stub

_ORIGIN = "gemma: gemma/multimodal/vision_utils.py {} (big_vision/models/vit.py)"
_BLOCKS = "Transformer/encoderblock_{}/"
_ARCH = {**TINY, "num_classes": 0, "class_token": False, "act": "gelu_tanh", "fc_norm": False}
Tree = dict[str, Any]


def _vision_utils() -> Any:
    import jax

    jax.config.update("jax_enable_x64", True)
    stub("kauldron", typing=stub("kauldron.typing"))  # only named in annotations
    return load("gemma.multimodal.vision_utils", without_init=("gemma.multimodal",))


def _vit() -> Any:
    return _vision_utils().ViTModel(patch_size=(4, 4), width=32, depth=2, mlp_dim=128, num_heads=2, dtype_mm="float64")


def _jax(image: Tensor) -> Any:
    """An image as Flax takes it: channels last."""
    import jax

    return jax.numpy.asarray(image.permute(0, 2, 3, 1).numpy())


def _torch(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))


def _random(module: Any, *inputs: Any) -> dict[str, Tensor]:
    """Parameters of a Flax module with random values, flat, with ``/`` between the names, as ``.npz`` files hold them."""
    import jax

    tree = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    leaves = {"/".join(p.key for p in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    generator = torch.Generator().manual_seed(0)
    return {name: weights(leaf.shape, generator, float(name.endswith("scale"))) for name, leaf in leaves.items()}


def _tree(flat: Mapping[str, Tensor], prefix: str = "") -> Tree:
    """The entries below ``prefix`` as nested Flax parameters."""
    import jax

    tree: Tree = {}
    for name, value in flat.items():
        if name.startswith(prefix):
            *parents, leaf = name.removeprefix(prefix).split("/")
            inner = tree
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[leaf] = jax.numpy.asarray(value.numpy())
    return {"params": tree}


def _scanned(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks stacked by hand, as ``scan=True`` stores them: the package's own scan cannot run."""
    first, second = _BLOCKS.format(0), _BLOCKS.format(1)
    rest = {name: value for name, value in flat.items() if not name.startswith((first, second))}
    stacks = {n.removeprefix(first): v for n, v in flat.items() if n.startswith(first)}
    return rest | {f"Transformer/encoderblock/{n}": torch.stack([v, flat[second + n]]) for n, v in stacks.items()}


def _prefixed(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in flat.items()}


# -- big_vision --------------------------------------------------------------------------------------------------------


def _gap(save: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Upstream:
    """Mean pooling."""
    vit = _vit()
    flat = _random(vit, _jax(torch.zeros(1, 3, 16, 16)))
    return Upstream(
        family="big_vision",
        origin=_ORIGIN.format("ViTModel"),
        arch={**_ARCH, "global_pool": "avg"},
        checkpoint=save(flat),
        run=lambda image: _torch(vit.apply(_tree(flat), _jax(image)).mean(axis=1)),
    )


def big_vision() -> Upstream:
    """A training checkpoint's parameters."""
    return _gap(lambda flat: _prefixed(flat, "params/"))


def big_vision_bare() -> Upstream:
    """A saved tree without prefix."""
    return _gap(dict)


def big_vision_scan() -> Upstream:
    """Stacked blocks."""
    return _gap(lambda flat: _prefixed(_scanned(flat), "params/"))


def paligemma() -> Upstream:
    """An image tower's prefix, stacked blocks."""
    return _gap(lambda flat: _prefixed(_scanned(flat), "img/"))


def _map(save: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Upstream:
    """SigLIP's MAP head, whose MLP computes in float32."""
    vit, head = _vit(), _vision_utils().MAPHead(block_id=0, num_heads=2)
    flat = _random(vit, _jax(torch.zeros(1, 3, 16, 16)))
    flat |= _prefixed(_random(head, np.zeros((1, 16, 32), "float32")), "MAPHead_0/")

    def run(image: Tensor) -> Tensor:
        trunk = {name: value for name, value in flat.items() if not name.startswith("MAPHead_0/")}
        return _torch(head.apply(_tree(flat, "MAPHead_0/"), vit.apply(_tree(trunk), _jax(image))))

    return Upstream(
        family="big_vision",
        origin=_ORIGIN.format("ViTModel, MAPHead"),
        arch={**_ARCH, "global_pool": "map"},
        checkpoint=save(flat),
        run=run,
        precision=torch.float32,
    )


def big_vision_siglip() -> Upstream:
    """A whole SigLIP's file, of which this is the image tower."""
    return _map(lambda flat: _prefixed(flat, "params/img/"))


def big_vision_siglip_scan() -> Upstream:
    """The same with stacked blocks."""
    return _map(lambda flat: _prefixed(_scanned(flat), "params/img/"))


def big_vision_read_by_open_clip() -> Upstream:
    """The file of :func:`big_vision_siglip` with a text tower beside it, read and run by open_clip."""
    from open_clip.convert import load_big_vision_weights

    made = big_vision_siglip()
    file = {**made.checkpoint, **_text_tower()}
    model = siglip_model(32, "none", text_width=32)
    with tempfile.TemporaryDirectory(prefix="timm-conformance-") as folder:
        load_big_vision_weights(model, str(files.write(file, "bare", "npz", Path(folder))))
    return replace(
        made,
        origin="open_clip_torch: open_clip/convert.py load_big_vision_weights",
        checkpoint=file,
        run=model.double().eval().encode_image,
        precision=torch.float64,
    )


def _text_tower() -> dict[str, Tensor]:
    """What open_clip looks for beside the image tower: one block, 32 wide."""
    text, block = "params/txt/", "params/txt/Encoder_0/encoderblock_0/"
    attention, mlp = f"{block}MultiHeadDotProductAttention_0/", f"{block}MlpBlock_0/"
    shapes: dict[str, tuple[int, ...]] = {
        "params/b": (1,),
        "params/t": (1,),
        f"{text}Embed_0/embedding": (11, 32),
        f"{text}pos_embedding": (1, 5, 32),
        f"{text}head/kernel": (32, 32),
        f"{text}head/bias": (32,),
        f"{attention}out/kernel": (2, 16, 32),
        f"{attention}out/bias": (32,),
        f"{mlp}Dense_0/kernel": (32, 128),
        f"{mlp}Dense_0/bias": (128,),
        f"{mlp}Dense_1/kernel": (128, 32),
        f"{mlp}Dense_1/bias": (32,),
    }
    for name in ("query", "key", "value"):
        shapes |= {f"{attention}{name}/kernel": (32, 2, 16), f"{attention}{name}/bias": (2, 16)}
    for norm in (f"{text}Encoder_0/encoder_norm", f"{block}LayerNorm_0", f"{block}LayerNorm_1"):
        shapes |= {f"{norm}/scale": (32,), f"{norm}/bias": (32,)}
    generator = torch.Generator().manual_seed(4)
    return {name: weights(shape, generator) for name, shape in shapes.items()}


# -- the original layout -----------------------------------------------------------------------------------------------

# In its pre-Linen ancestor the modules of a block were counted through, whatever their kind.
_ORIGINAL = {"LayerNorm_1/": "LayerNorm_2/", "MlpBlock_0/": "MlpBlock_3/"}
_ORIGINAL |= {"MultiHeadDotProductAttention_0/": "MultiHeadDotProductAttention_1/"}


def _original_names(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in flat.items():
        for new, old in _ORIGINAL.items():
            name = name.replace(new, old)
        out[name] = value
    return out


def _google(prefix: str) -> Upstream:
    """A classifier on the class token, which gets the first position."""
    import flax.linen as nn
    import jax.numpy as jnp

    encoder = _vision_utils().Encoder(depth=2, mlp_dim=128, num_heads=2, dtype_mm="float64")
    embedding = nn.Conv(32, (4, 4), strides=(4, 4), padding="VALID", dtype="float64")
    blocks = _random(encoder, np.zeros((1, 17, 32)))
    patches = _random(embedding, np.zeros((1, 16, 16, 3)))
    generator = torch.Generator().manual_seed(3)
    own = {
        name: weights(shape, generator)
        for name, shape in {
            "cls": (1, 1, 32),
            "Transformer/posembed_input/pos_embedding": (1, 17, 32),
            "head/kernel": (32, 7),
            "head/bias": (7,),
        }.items()
    }

    def run(image: Tensor) -> Tensor:
        cls, positions, kernel, bias = (jnp.asarray(value.double().numpy()) for value in own.values())
        x = embedding.apply(_tree(patches), _jax(image)).reshape(len(image), 16, 32)
        x = jnp.concatenate([jnp.tile(cls, (len(image), 1, 1)), x], axis=1) + positions
        return _torch(encoder.apply(_tree(blocks), x)[:, 0] @ kernel + bias)

    flat = _original_names(_prefixed(blocks, "Transformer/")) | _prefixed(patches, "embedding/") | own
    return Upstream(
        family="google_npz",
        origin=_ORIGIN.format("Encoder") + ", class token, positions and head by hand",
        arch={**_ARCH, "class_token": True, "num_classes": 7, "global_pool": "token"},
        checkpoint=_prefixed(flat, prefix),
        run=run,
    )


def google_npz() -> Upstream:
    """As the published files hold it."""
    return _google("")


def google_npz_training() -> Upstream:
    """Inside a training state."""
    return _google("opt/target/")


BUILDERS = (
    big_vision,
    big_vision_bare,
    big_vision_scan,
    paligemma,
    big_vision_siglip,
    big_vision_siglip_scan,
    big_vision_read_by_open_clip,
    google_npz,
    google_npz_training,
)
