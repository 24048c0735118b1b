"""The hash that identifies settings, and the inputs of a release."""

import hashlib
import json
from typing import Any


def json_hash(value: Any) -> str:
    """Return 16 hex digits over a JSON value, independent of the order of its names. Raise TypeError for others.

    Hashes that are stored in lakes are made by it: of recipes, mappings, fingerprints, keys of releases, and names of
    data files.
    """
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()
