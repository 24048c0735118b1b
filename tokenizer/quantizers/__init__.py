"""Quantizers: a module each, entered in `registry.py`, behind the protocol in `protocol.py`."""
