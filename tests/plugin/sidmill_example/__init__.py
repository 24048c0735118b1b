"""An example of a package that adds a quantizer and an encoder to sidmill."""
