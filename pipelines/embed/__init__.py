"""Encoders behind one protocol, each with a fingerprint: model, revision, weights hash, preprocessing."""
