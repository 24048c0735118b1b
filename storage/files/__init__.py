"""Files of a lake: blobs, data files of tables, and the log that lists them."""
