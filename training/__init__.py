"""The generator: model, loss, log loader, decoding and evaluation over semantic IDs.

`launch` is the one place of the system that starts Ray Train; what it trains is any `Trainable`.
"""
