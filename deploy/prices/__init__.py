"""The price file: one format, for the plan of a push and for the report."""
