"""An example of a package that adds a quantizer, an encoder and a gate to sidmill."""
