"""RayDog: elastic Ray clusters on the YellowDog Platform."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

try:
    __version__ = _version("raydog")
except PackageNotFoundError:  # carried to a head node as plain files, without metadata
    __version__ = "0+carried"

__all__ = ["__version__"]
