"""Attention on every device, without cuDNN's kernels.

In bfloat16 PyTorch prefers cuDNN on Hopper cards. cuDNN plans its kernels anew for every shape, for 6 to 35 ms a call,
and batches of histories change their length from step to step. On an H100 that took 63 % of a training step of 273
million weights and 77 % of one of 4.9 million (2026-11-27, profile of `make gpu`).
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["scaled_dot_product_attention"]

torch.backends.cuda.enable_cudnn_sdp(False)
