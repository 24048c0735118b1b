"""Sources that can be read once only, kept in a scratch file: results of queries, standard input."""
