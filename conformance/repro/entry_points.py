"""How a script loads its checkpoint: by ``create_model`` as a user does, by the loader's function, into a model's parameters."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..targets.loader import Unsupported
from . import script, source_code
from .script import Call
from .scriptable_case import Redrawn

Convert = Callable[[str], str]


def calls(redrawn: Redrawn) -> Iterator[tuple[Call, str]]:
    """Every way to load a checkpoint, the most usual first, and the code for the tensors that come of it."""
    for call in _created(redrawn):
        yield call, "model.state_dict()"
    found = direct(redrawn)
    if found is None:
        yield in_place(redrawn), "model.state_dict()"
    else:
        call, _ = found
        yield dataclasses.replace(call, load=[*call.load, "model.load_state_dict(state)"]), "model.state_dict()"
        yield call, "state"


def _options(redrawn: Redrawn, created: bool) -> dict[str, Any]:
    """Constructor arguments of the case that the target knows, as the family gives them."""
    family, arch = redrawn.family, redrawn.case.arch
    known = redrawn.loader.model_kwargs(family, arch, created)
    given = ((created and family.created_kwargs) or family.model_kwargs)(arch)
    return {k: given[k] for k in known}


def _created(redrawn: Redrawn) -> Iterator[Call]:
    """Loads by ``create_model``, from memory and from a file, where a user can tell it what the case says."""
    case, family, loader = redrawn.case, redrawn.family, redrawn.loader
    if not (loader.target.is_timm and case.model_name and loader.knows_model(case.model_name)):
        return
    if case.declared == "absent":  # a registered model always declares a size
        return
    import timm

    arch = case.arch
    overlay: dict[str, Any] = {"custom_load": True} if family.in_place else {}
    if case.declared == "true":
        overlay["input_size"] = (arch.get("in_chans", 3), *family.img_size(arch, case.source))
    overlay["num_classes"] = arch["num_classes"]

    def build(options: dict[str, Any]) -> torch.nn.Module:
        resolved = {k: v for k, v in loader.model_kwargs(family, arch, created=True).items() if k in options}
        plainly = {k: v for k, v in overlay.items() if k != "custom_load"}
        return timm.create_model(case.model_name, pretrained_cfg_overlay=plainly, **redrawn.sizes, **resolved)

    names = source_code.Names()
    with contextlib.suppress(Unsupported, TypeError):  # a release without such a model, options without a name
        options = source_code.fewest(build, _options(redrawn, created=True))
        if case.num_classes is not None:
            options["num_classes"] = case.num_classes
        prepare = [f'name = "{case.model_name}"', *names.options(options)]
        load = _create_model(redrawn)
        if not family.in_place:
            prepared = [*prepare, _overlay('"state_dict": checkpoint', overlay)]
            yield Call([*names.imports], prepared, [load], names.functions)
        lines = [*_writing(redrawn.file, case.dtype), _overlay('"file": path', overlay), load]
        yield Call([*names.imports, *_FILE_IMPORTS], prepare, _in_folder(lines), names.functions)


def _create_model(redrawn: Redrawn) -> str:
    case = redrawn.case
    given = {k: source_code.size(v) for k, v in redrawn.sizes.items()}
    if case.in_chans is not None or "in_chans" in case.arch:
        given["in_chans"] = str(case.in_chans or case.arch["in_chans"])
    arguments = ", ".join(["name", "pretrained=True", "pretrained_cfg_overlay=overlay", *map("=".join, given.items())])
    line = f"model = timm.create_model({arguments}, **options)"
    return line if len(line) < source_code.WIDTH - 8 else f"model = timm.create_model(\n    {arguments}, **options\n)"


def _overlay(source: str, overlay: dict[str, Any]) -> str:
    return f"overlay = {{{', '.join([source, *(f'{chr(34)}{k}{chr(34)}: {v!r}' for k, v in overlay.items())])}}}"


_FILE_IMPORTS = ("import tempfile", "import numpy", "import safetensors.torch")


def _in_folder(lines: list[str]) -> list[str]:
    return ["with tempfile.TemporaryDirectory() as folder:", *script.inside(lines)]


def _writing(container: str, dtype: str) -> list[str]:
    """Lines that write ``checkpoint`` to a file ``path``; NumPy lacks bfloat16 and holds it as two raw bytes."""
    array = 'v.view(torch.int16).numpy().view("V2")' if dtype == "bfloat16" else "v.numpy()"
    write = {
        "safetensors": "safetensors.torch.save_file(checkpoint, path)",
        "pth": "torch.save(checkpoint, path)",
        "npz": f"numpy.savez(path, **{{k: {array} for k, v in checkpoint.items()}})",
    }
    return [f'path = f"{{folder}}/checkpoint.{container}"', write[container]]


def direct(redrawn: Redrawn) -> tuple[Call, Convert] | None:
    """A load by the loader's function alone, and the code that converts what an expression names."""
    family, loader, arch = redrawn.family, redrawn.loader, redrawn.case.arch
    if family.in_place:
        return None
    names, call = _model(redrawn)
    kind = loader.target.kind
    if kind == "reference":
        function, options = names.imported("reference", "load_state_dict"), {}
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


def in_place(redrawn: Redrawn) -> Call:
    """A load of a ``.npz`` file straight into a model's parameters."""
    _, call = _model(redrawn)
    prefix = ', prefix="img/"' if "img/embedding/kernel" in redrawn.given else ""
    lines = [*_writing("npz", redrawn.case.dtype), f"model.load_pretrained(path{prefix})"]
    return Call([*call.imports, *_FILE_IMPORTS], call.prepare, _in_folder(lines), call.functions)


def _model(redrawn: Redrawn) -> tuple[source_code.Names, Call]:
    """The destination model, built by its class."""
    family, loader, arch = redrawn.family, redrawn.loader, redrawn.case.arch
    names = source_code.Names()

    def build(options: dict[str, Any]) -> torch.nn.Module:
        resolved = {k: v for k, v in loader.model_kwargs(family, arch).items() if k in options}
        return loader.model_class(family)(**redrawn.sizes, **resolved)

    options = source_code.fewest(build, _options(redrawn, created=False))
    built = names.imported(f"timm.models.{family.module}", family.model_class)
    sizes = ", ".join(f"{k}={source_code.size(v)}" for k, v in redrawn.sizes.items())
    prepare = [*names.options(options), f"model = {built}({sizes}, **options)"]
    model = redrawn.as_drawn.model()
    if hasattr(model, "pretrained_cfg"):
        prepare.append(f'model.pretrained_cfg = {{"input_size": {model.pretrained_cfg["input_size"]}}}')
    return names, Call([*names.imports], prepare, ["state = checkpoint"], names.functions)
