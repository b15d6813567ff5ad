"""``python tests/real_input_worker.py TARGET JOBS.json``: timm's own ``create_model`` on checkpoint files, one release.

A job names the model, the checkpoint file and the arguments of ``create_model``; what came of it, the loaded state dict
and the output on an image in float64, or the error's text, is saved under the job's ``out``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from timm_conformance.targets.target import activate, parse_target


def create(job: dict[str, Any]) -> torch.nn.Module:
    """The job's model: through timm's loader as a user calls it, or built by timm and loaded with the reference."""
    import timm

    overlay = {"file": job["checkpoint"], "custom_load": False, **job["overlay"]}
    if not job["reference"]:
        return timm.create_model(job["name"], pretrained=True, pretrained_cfg_overlay=overlay, **job["kwargs"])
    from safetensors.torch import load_file

    from timm_conformance import reference

    model = timm.create_model(job["name"], pretrained=False, pretrained_cfg_overlay=overlay, **job["kwargs"])
    model.load_state_dict(reference.load_state_dict(load_file(job["checkpoint"]), model), strict=True)
    return model


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """What came of a job: state dict and output, or an error."""
    try:
        model = create(job).eval()
    except Exception as error:
        return {"state": None, "output": None, "error": f"{type(error).__name__}: {error}"}
    state, output = model.state_dict(), None
    if job["image"]:
        image = torch.load(job["image"], weights_only=True)["image"]
        with torch.inference_mode():
            output = model.double()(image).clone()  # double() leaves the tensors of state as they are
    return {"state": state, "output": output, "error": None}


def main(target: str, jobs: str) -> None:
    """Perform every job with the target's timm."""
    version = activate(parse_target(target))
    for job in json.loads(Path(jobs).read_text()):
        torch.save({"version": version, **perform(job)}, job["out"])


if __name__ == "__main__":
    main(*sys.argv[1:])
