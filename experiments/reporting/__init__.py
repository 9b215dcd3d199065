"""What `experiments.report` is made of: runs, their configurations, statistics over seeds, tables, figures, a page."""
