"""The network of the learned quantizers (rq-vae, fsq) and its training; settings are in vae_spec.py."""
