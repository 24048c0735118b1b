"""Tables with versions: Delta and Iceberg."""
