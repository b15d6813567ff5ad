"""The folders ``conformance``, ``reference`` and ``fixtures`` become the package ``timm_conformance`` and two of its parts."""

from setuptools import find_packages, setup

FOLDERS = {
    "timm_conformance": "conformance",
    "timm_conformance.reference": "reference",
    "timm_conformance.fixtures": "fixtures",
}

setup(
    package_dir=FOLDERS,
    packages=[
        ".".join([name, *rest])
        for name, folder in FOLDERS.items()
        for rest in ([], *([p] for p in find_packages(folder)))
    ],
    package_data={
        "timm_conformance": ["py.typed", "*/*.css", "*/*.ini", "*/*.j2", "*/*.js", "*/*.json"],
        "timm_conformance.fixtures": ["**/*"],
    },
)
