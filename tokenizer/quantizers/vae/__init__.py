"""The network of the learned quantizers (RQ-VAE, FSQ), its settings and its training."""
