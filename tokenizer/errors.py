"""Errors of the inputs and the files of the tokenizer.

ValueError
├── VectorError         vectors that no codebook can be fitted to or encode
├── CapacityExhausted   a code space too small for the items it is planned for
├── CodebookDiverged    the network of a codebook whose loss is not finite: lower the learning rate
├── CodebookCorrupt     codebook bytes that are not what was written
└── TrieCorrupt         a trie file that is not what was written
"""


class VectorError(ValueError):
    """Vectors are missing, misshapen or not finite; the message names the source and the first bad item."""


class CapacityExhausted(ValueError):
    """The code space holds fewer SIDs than the items it is planned for."""


class CodebookDiverged(ValueError):
    """The loss of a learned codebook or its gradient is not finite, a fault of the settings."""


class CodebookCorrupt(ValueError):
    """Codebook bytes differ from those that were written."""


class TrieCorrupt(ValueError):
    """A trie file is truncated, malformed or does not match its hash."""
