"""An example of a package that adds a source, an encoder, a fusion method, a quantizer and a gate to sidmill."""
