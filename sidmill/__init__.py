"""The public Python interface of sidmill: read a lake, its releases, and recommend from them.

    import sidmill

    release = sidmill.open("./lake").release("production")
    release.sids()  # a polars frame: item_id, sid
    release.recommend([["item-1", "item-7"]], k=10)

Everything outside this package is private and may change.
"""

from plugins.registry import code_version
from sidmill.reader import LakeReader, Release, open_lake

__version__ = code_version()
open = open_lake

__all__ = ["LakeReader", "Release", "__version__", "open"]
