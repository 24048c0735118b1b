"""What can be read once only, and is kept in a scratch file: results of queries, standard input."""
