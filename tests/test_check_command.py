"""`check` as a user meets it on the command line: its output, its mistakes, its memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.check_files import CLIP, TINY, native, save, tensors
from tests.preloaded import PYTHON
from timm_conformance.check.protocol import Request
from timm_conformance.cli.main import main
from timm_conformance.targets import subprocess_call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A sound checkpoint."""
    return save(tmp_path_factory.mktemp("tiny"), native())


def check(*args):
    """Run the command in this process; the worker has one of its own."""
    return CliRunner().invoke(main, ["check", *map(str, args)])


def test_a_sound_checkpoint(tiny):
    """The whole of the output."""
    done = check(tiny, "--model", TINY)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"checkpoint  {tiny}, safetensors",
        "format      timm_native, by patch_embed.proj.weight",
        "geometry    patch 16x16, grid 14x14 (224x224 pixels)",
        f"target      timm==1.0.31, {TINY}: loads it; 152 tensors agree with the reference, bit for bit",
        f'the call    model = timm.create_model("{TINY}", pretrained=True, pretrained_cfg_overlay=dict(file="{tiny}", '
        "custom_load=False, num_classes=1000, input_size=(3, 224, 224)))",
        done.stdout.splitlines()[5],
        "            not compared, since no tensor tells it and it was taken from the model: num_heads=3, act=gelu, eps=1e-06, "
        "global_pool=token",
        "exit code   0: the target loads what the reference does",
    ]
    assert done.stdout.splitlines()[5].startswith(
        "forward     the output of the upstream model at the checkpoint's own size"
    )


def test_the_default_target_is_the_requests():
    """The command line names it without importing what knows it."""
    (option,) = (o for o in main.commands["check"].params if o.name == "target")
    assert option.default == Request.__struct_defaults__[0]


def test_json(tiny):
    """The same as values, for a script."""
    done = check(tiny, "--model", TINY, "--img-size", "96x160", "--format", "json")
    found = json.loads(done.stdout)
    assert found["destination"] == {"patch_size": [16, 16], "grid_size": [6, 10]}
    assert (found["exit_code"], found["forward"]["verdict"]) == (0, "same")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["--model", "vit_tiny_patch16_225"],
            "unknown model of timm 1.0.31 'vit_tiny_patch16_225': did you mean 'vit_tiny_",
        ),
        (["--model", TINY, "--patch-size", "0"], "--patch-size '0': write pixels"),
        (["--model", TINY, "--img-size", "8x"], "--img-size '8x': write pixels"),
        (["--model", TINY, "--fix", "out.pth"], "--fix out.pth: it is written as safetensors"),
        (["--model", TINY, "--target", "timm=1"], "unknown target 'timm=1'"),
        (["--model", TINY, "--ledger", "missing.toml"], "ledger missing.toml"),
        (["--model", TINY, "--timeout", "1"], "no answer within 1 s"),
        (
            ["--model", "vit_small_patch16_dinov3.lvd1689m", "--target", "timm==0.9.16"],
            "timm 0.9.16 has no model 'vit_small_patch16_dinov3.lvd1689m' yet; timm 1.0.31 has",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(tiny, args, says):
    """What was wrong, and the nearest thing that exists; never a traceback."""
    done = check(tiny, *args)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    assert says in line


@pytest.mark.parametrize(("content", "says"), [(None, "there is no such file"), (b"PK\x03\x04", "damaged or cut off")])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, content, says):
    """Said by the reader, never given to the target."""
    path = tmp_path / "checkpoint.pth"
    if content is not None:
        path.write_bytes(content)
    done = check(path, "--model", TINY)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    assert says in line
    assert "Traceback" not in done.output


# The most memory any process of a command held, in KiB.
_PEAK = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True, check=False); "
_PEAK += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"


def peak(*args: str) -> int:
    """The bytes of memory that a check takes at most."""
    command = [PYTHON, "-c", _PEAK, PYTHON, "-m", "timm_conformance.cli.main", "check", *args]
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_call.environment(), timeout=280)
    return int(done.stdout) * 1024


@pytest.fixture(scope="module")
def imports(tiny) -> int:
    """What a check takes that ends once torch and timm are imported."""
    return peak(str(tiny), "--model", "vit_tiny_patch16_225")


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize(
    ("family", "container", "refused"),
    [("openai_clip", "pth", False), ("openai_clip", "safetensors", True), ("google_npz", "npz", False)],
)
def test_a_checkpoint_is_in_memory_twice_at_most(tmp_path, imports, family, container, refused):
    """Beyond what the imports take, with less than half of it for the pass in float64: 350 MB, loaded or refused."""
    model = CLIP if family == "openai_clip" else "vit_base_patch32_224.augreg_in21k_ft_in1k"
    options = {} if family == "openai_clip" else {"pre_norm": False, "fc_norm": False, "global_pool": "token"}
    path = save(tmp_path, tensors(family, CLIP, (32, 32), (7, 7), **options), container)
    asked = ["--model", model, "--img-size", "384", "--num-classes", "512"]
    if refused:
        asked += ["--patch-size", "16", "--target", "timm==0.9.16", "--fix", str(tmp_path / "fixed.safetensors")]
    taken = peak(str(path), *asked) - imports
    assert not refused or (tmp_path / "fixed.safetensors").is_file()
    assert path.stat().st_size < taken < 2.4 * path.stat().st_size
