"""The catalogue: columns, single rows where a cell leaves doubt, and the table `items`."""
