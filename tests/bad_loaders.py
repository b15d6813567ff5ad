"""Loaders that misbehave as processes, not as loaders: the runner must survive them."""

from __future__ import annotations

import os
import signal
import time

from timm_conformance import reference


def crashes(checkpoint, model):
    """Kills its own process."""
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(checkpoint, model):
    """Never returns."""
    time.sleep(3600)


def exits(checkpoint, model):
    """Ends the interpreter behind everyone's back."""
    os._exit(7)


def returns_nonsense(checkpoint, model):
    """Returns something that is no state dict."""
    return 42


def perfect(checkpoint, model):
    """The reference."""
    return reference.load_state_dict(checkpoint, model)
