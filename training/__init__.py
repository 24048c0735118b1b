"""The generator: model, loss, log loader, decoding and evaluation over semantic IDs.

The training loop and Ray Train are in `learning`; what they train is any `Trainable`.
"""
