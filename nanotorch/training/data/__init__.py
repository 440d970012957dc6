"""From a file to batches: tables are read, divided, standardized and served."""
