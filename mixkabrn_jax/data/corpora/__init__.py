"""The corpora that ship with the package, each with its licence in NOTICE."""
