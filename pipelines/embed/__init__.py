"""Encoders behind one protocol, each with a fingerprint of model, revision, weights hash and preprocessing."""
