"""The lake: table schemas, Delta tables, idempotent commits, blobs, releases and typed errors.

The only package that touches a lake URI. Everything durable in sidmill is a row of a Delta table or a
content-addressed blob; everything that must change atomically goes through `storage.commit`.
"""
