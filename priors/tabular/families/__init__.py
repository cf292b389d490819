"""Single families of synthetic tables, one a file; `table_mixtures` combines them."""
