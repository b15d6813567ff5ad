"""The folders ``conformance``, ``reference`` and ``fixtures`` become the package ``timm_conformance`` and two of its parts.

MANIFEST.in names the files that go with the modules.
"""

import shutil

from setuptools import find_namespace_packages, find_packages, setup

FOLDERS = {
    "timm_conformance": "conformance",
    "timm_conformance.reference": "reference",
    "timm_conformance.fixtures": "fixtures",
}

# A wheel that is built here would contain what an earlier build left, modules that are gone among it.
shutil.rmtree("build/lib", ignore_errors=True)

packages = [f"timm_conformance.{package}" for package in find_packages("conformance")]
packages += [f"timm_conformance.reference.{package}" for package in find_packages("reference")]
packages += [f"timm_conformance.fixtures.{folder}" for folder in find_namespace_packages("fixtures", exclude=["*__*"])]

setup(package_dir=FOLDERS, packages=[*FOLDERS, *packages])
