"""The lake: table schemas, Delta tables, idempotent commits, blobs, releases and typed errors.

Only this package accesses a lake URI. All durable data of sidmill are rows of Delta tables or content-addressed blobs;
everything that must change atomically goes through `storage.commit`.
"""
