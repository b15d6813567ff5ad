"""A temporary folder for the files of one case."""

from __future__ import annotations

import re
import tempfile
from functools import partial

# The folder's name differs from run to run, so SCRATCH removes it from the messages of loaders.
scratch_folder = partial(tempfile.TemporaryDirectory, prefix="timm-conformance-case-")
SCRATCH = re.compile(r"[^\s'\"]*timm-conformance-case-\w+/")
