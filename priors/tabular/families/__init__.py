"""Single families of synthetic tables, one per file; `table_mixtures` combines them."""
