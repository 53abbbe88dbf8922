"""Readers and writers of concept files: `read_any` for everything that exists, one module per file dialect.

Lives here: dialects, each checking sizes, dtypes and finite values. Only pickled.py may unpickle. The heads of other
rooms (training, fusion) are never imported here.
"""

from .dialect import ReadResult
from .read import read_any

__all__ = ["ReadResult", "read_any"]
