"""Puts main.py and configs/ inside of the package: at the top their names would be anyone's."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["lsh_gan*", "checkpoints_tools*"]),
        "lsh_gan.shipped",
        "lsh_gan.shipped.configs",
    ],
    package_dir={"lsh_gan.shipped": ".", "lsh_gan.shipped.configs": "configs"},
)
