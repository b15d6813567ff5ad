"""A temporary folder for the files of one case."""

from __future__ import annotations

import re
import tempfile
from functools import partial

# A folder for the files of one case; its name, another each time, is no part of what a loader says of them.
scratch_folder = partial(tempfile.TemporaryDirectory, prefix="timm-conformance-case-")
SCRATCH = re.compile(r"[^\s'\"]*timm-conformance-case-\w+/")
