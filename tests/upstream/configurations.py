"""``python -m tests.upstream.configurations``: write the snapshot of the configurations that upstream packages ship.

open_clip is the installed one. The others are those of ``packages.txt``, read without being imported.
"""

from __future__ import annotations

import ast
import json
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from timm_conformance.drawing.configurations import PATH

from .packages import REQUIREMENTS, unpacked

Configurations = dict[str, dict[str, Any]]

_SIZES = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size"}
_TRAINING = {"timm_drop", "timm_drop_path", "timm_model_pretrained"}


def open_clip() -> tuple[str, Configurations]:
    """The package with its version, and the options of its image towers and trunks."""
    package = distribution("open_clip_torch")
    found = {}
    for file in package.files or []:
        if file.parent.name == "model_configs" and file.suffix == ".json":
            model = json.loads(Path(str(file.locate())).read_text(encoding="utf-8"))
            vision = model["vision_cfg"]
            options = {k: v for k, v in vision.items() if k not in _SIZES | _TRAINING}
            options |= {"resnet": True} if isinstance(vision.get("layers"), list) else {}
            options |= {"quick_gelu": True} if model.get("quick_gelu") else {}
            found[file.stem] = options
    return f"open_clip_torch {package.version}", dict(sorted(found.items()))


def transformers() -> tuple[str, Configurations]:
    """The package with its version, and its configurations of encoders of images in patches, by class."""
    found = {}
    for path in sorted((unpacked() / "transformers" / "models").glob("*/configuration_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and {"patch_size", "image_size", "num_attention_heads"} <= _fields(node):
                found[node.name] = {"model": path.parent.name}
    return f"transformers {_version('transformers')}", found


def _fields(node: ast.ClassDef) -> set[str]:
    annotated = (statement for statement in node.body if isinstance(statement, ast.AnnAssign))
    return {statement.target.id for statement in annotated if isinstance(statement.target, ast.Name)}


def segment_anything() -> tuple[str, Configurations]:
    """The package with its version, and the names of its models."""
    source = (unpacked() / "segment_anything" / "build_sam.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sam_model_registry":
            names = [str(ast.literal_eval(key)) for key in node.value.keys if key is not None]  # type: ignore[attr-defined]
            return f"segment_anything {_version('segment_anything')}", {n: {} for n in names if n != "default"}
    raise LookupError("segment_anything/build_sam.py has no sam_model_registry")


def _version(package: str) -> str:
    """The version of a package in ``packages.txt``."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{package}==")).split()[0].partition("==")[2]


def snapshot() -> dict[str, Configurations]:
    """All of them, as the file holds them."""
    return dict([open_clip(), transformers(), segment_anything()])


def text(packages: dict[str, Configurations]) -> str:
    """The file: one configuration in each line."""
    parts = []
    for package, found in packages.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(options)}" for name, options in found.items())
        parts.append(f" {json.dumps(package)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    PATH.write_text(text(snapshot()), encoding="utf-8")
