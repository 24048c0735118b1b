"""Fusion: the vectors of an item's modalities become one. Fitted once, frozen, applied to every new item.

`modalities` is what goes in, `network` and `training` what is learnt, `fit` makes a `Fusion` (`frozen`).
"""
