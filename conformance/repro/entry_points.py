"""The ways in which a script can load its checkpoint: ``create_model``, the loader's function, or ``load_pretrained``."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..cases.case import Geometry
from ..families.asks import NAFLEX
from ..families.base import Arch
from ..targets.models import Unsupported, model_class, model_kwargs
from . import script, source_code
from .script import Call
from .scriptable_case import ScriptableCase

Convert = Callable[[str], str]


def load_calls(scripted: ScriptableCase) -> Iterator[tuple[Call, str]]:
    """Every way to load the checkpoint, the most usual first, each with the code for the loaded tensors."""
    for call in by_create_model(scripted):
        yield call, "model.state_dict()"
    if scripted.case.saved:
        return
    found = by_function(scripted)
    if found is None:
        yield by_load_pretrained(scripted), "model.state_dict()"
    else:
        call, _ = found
        yield dataclasses.replace(call, load=[*call.load, "model.load_state_dict(state)"]), "model.state_dict()"
        yield call, "state"


def _options(scripted: ScriptableCase, arch: Arch, created: bool) -> dict[str, Any]:
    """Constructor arguments of ``arch`` that the target's release has, as the family gives them."""
    family = scripted.family
    known = model_kwargs(family, arch, created)
    given = ((created and family.created_kwargs) or family.model_kwargs)(arch)
    return {k: given[k] for k in known}


def by_create_model(scripted: ScriptableCase) -> Iterator[Call]:
    """Loads by ``create_model``, from memory and from a file, if its arguments can express the case.

    What a training script saved is read from a file only.
    """
    case, family, loader = scripted.case, scripted.family, scripted.loader
    if not (loader.target.is_timm and case.model_name and loader.knows_model(case.model_name)):
        return
    if case.declared == "absent":  # a registered model always declares a size
        return
    import timm

    arch, model_arch = case.arch, case.model_arch
    overlay: dict[str, Any] = {"custom_load": True} if family.in_place else {}
    if case.declared == "true":
        overlay["input_size"] = (arch.get("in_chans", 3), *family.img_size(arch, case.source))
    overlay["num_classes"] = arch["num_classes"]

    def build(options: dict[str, Any]) -> torch.nn.Module:
        resolved = {k: v for k, v in model_kwargs(family, model_arch, created=True).items() if k in options}
        resolved |= NAFLEX if case.asks_for_naflex else {}
        plainly = {k: v for k, v in overlay.items() if k != "custom_load"}
        return timm.create_model(case.model_name, pretrained_cfg_overlay=plainly, **scripted.created_sizes, **resolved)

    names = source_code.Names()
    with contextlib.suppress(Unsupported, TypeError):  # a release without such a model, options without a name
        options = source_code.minimal_options(build, _options(scripted, model_arch, created=True))
        options |= NAFLEX if case.asks_for_naflex else {}
        if case.num_classes is not None:
            options["num_classes"] = case.num_classes
        prepare = [f'name = "{case.model_name}"', *names.options(options)]
        load = create_model_line(scripted)
        if not family.in_place and not case.saved:
            prepared = [*prepare, _overlay('"state_dict": checkpoint', overlay)]
            yield Call([*names.imports], prepared, [load], names.functions)
        lines = [*_writing(scripted.file, case.dtype), _overlay('"file": path', overlay), load]
        yield Call([*names.imports, *_FILE_IMPORTS], prepare, _in_folder(lines), names.functions)


def create_model_line(
    scripted: ScriptableCase, *, pretrained: str = "True", geometry: Geometry | None = None, more: tuple[str, ...] = ()
) -> str:
    """Code that creates ``model`` at a geometry, by default the case's destination, with ``more`` arguments."""
    case = scripted.case
    sizes = scripted.family.created_sizes(case.arch, geometry or case.destination)
    given = {k: source_code.size(k, v) for k, v in sizes.items()}
    if case.in_chans is not None or "in_chans" in case.arch:
        given["in_chans"] = str(case.in_chans or case.arch["in_chans"])
    start = ["name", f"pretrained={pretrained}", "pretrained_cfg_overlay=overlay"]
    parts = [", ".join(start), ", ".join([*map("=".join, given.items()), *more, "**options"])]
    line = f"model = timm.create_model({', '.join(parts)})"
    if len(line) < source_code.WIDTH - 8:
        return line
    between = ", " if sum(map(len, parts)) < source_code.WIDTH - 12 else ",\n    "
    return f"model = timm.create_model(\n    {between.join(parts)}\n)"


def _overlay(source: str, overlay: dict[str, Any]) -> str:
    return f"overlay = {{{', '.join([source, *(f'{chr(34)}{k}{chr(34)}: {v!r}' for k, v in overlay.items())])}}}"


_FILE_IMPORTS = ("import tempfile", "import numpy", "import safetensors.torch")


def _in_folder(lines: list[str]) -> list[str]:
    return ["with tempfile.TemporaryDirectory() as folder:", *script.indented(lines)]


def _writing(container: str, dtype: str) -> list[str]:
    """Lines that write ``checkpoint`` to a file ``path``. NumPy has no bfloat16 and stores it as two raw bytes."""
    array = 'v.view(torch.int16).numpy().view("V2")' if dtype == "bfloat16" else "v.numpy()"
    write = {
        "safetensors": "safetensors.torch.save_file(checkpoint, path)",
        "pth": "torch.save(checkpoint, path)",
        "npz": f"numpy.savez(path, **{{k: {array} for k, v in checkpoint.items()}})",
    }
    return [f'path = f"{{folder}}/checkpoint.{container}"', write[container]]


def by_function(scripted: ScriptableCase) -> tuple[Call, Convert] | None:
    """A load by the loader's function alone, and a function that makes the code to convert the checkpoint of an expression."""
    family, loader, arch = scripted.family, scripted.loader, scripted.case.arch
    if family.in_place:
        return None
    names, call = _model(scripted)
    kind = loader.target.kind
    if kind == "reference":
        function, options = names.imported("timm_conformance.reference", "load_state_dict"), {}
    elif kind == "loader":
        function = names.imported(*loader.target.value.split(":"))
        options = loader.filter_options(family, arch)
    else:
        found = loader.filter_function(family)
        if found is None:
            return call, lambda expression: expression
        function, options = names.imported(found.__module__, found.__name__), loader.filter_options(family, arch)
    keywords = "".join(f", {k}={names.value(v)}" for k, v in options.items())

    def convert(expression: str) -> str:
        return f"{function}({expression}, model{keywords})"

    load = [f"state = {convert('checkpoint')}"]
    return Call([*names.imports], call.prepare, load, names.functions), convert


def by_load_pretrained(scripted: ScriptableCase) -> Call:
    """A load of a ``.npz`` file straight into a model's parameters."""
    _, call = _model(scripted)
    prefix = ', prefix="img/"' if "img/embedding/kernel" in scripted.given else ""
    lines = [*_writing("npz", scripted.case.dtype), f"model.load_pretrained(path{prefix})"]
    return Call([*call.imports, *_FILE_IMPORTS], call.prepare, _in_folder(lines), call.functions)


def _model(scripted: ScriptableCase) -> tuple[source_code.Names, Call]:
    """The destination model, built by its class."""
    family, arch = scripted.family, scripted.case.arch
    names = source_code.Names()

    def build(options: dict[str, Any]) -> torch.nn.Module:
        resolved = {k: v for k, v in model_kwargs(family, arch).items() if k in options}
        return model_class(family)(**scripted.sizes, **resolved)

    options = source_code.minimal_options(build, _options(scripted, arch, created=False))
    built = names.imported(f"timm.models.{family.module}", family.model_class)
    sizes = ", ".join(f"{k}={source_code.size(k, v)}" for k, v in scripted.sizes.items())
    prepare = [*names.options(options), f"model = {built}({sizes}, **options)"]
    model: Any = scripted.original.model()
    if hasattr(model, "pretrained_cfg"):
        prepare.append(f'model.pretrained_cfg = {{"input_size": {model.pretrained_cfg["input_size"]}}}')
    return names, Call([*names.imports], prepare, ["state = checkpoint"], names.functions)
