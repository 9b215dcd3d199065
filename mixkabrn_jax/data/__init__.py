"""Text in, batches out: sources -> tokens -> packed windows -> grain datasets."""
