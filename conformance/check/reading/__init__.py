"""Reads a checkpoint, a file or a folder, into a dict of tensors.

In: a path. Out: CPU tensors by name, in the wrappers they were saved in, and what was found beside them. No file can run code,
fill the memory, or cause a traceback. Every error of the libraries that read the containers becomes one
:class:`timm_conformance.errors.UserError`. :mod:`timm_conformance.check.sanity` looks at the tensors afterwards. May import
``errors`` and ``reference``.
"""

from .beside import Beside, beside
from .locating import SHARDS, Located, container_of, locate
from .numpy_values import FromNumpy
from .reader import read

__all__ = ["SHARDS", "Beside", "FromNumpy", "Located", "beside", "container_of", "locate", "read"]
