"""Fusion of an item's modality vectors into one: fitted once, frozen, applied to every new item.

`modalities` holds the input, `network` and `training` the learned part; `fit` makes a `Fusion` (`frozen`).
"""
