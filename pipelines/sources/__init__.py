"""Sources of rows: files, tables with versions, queries, streams and standard input, found and read as columns."""
