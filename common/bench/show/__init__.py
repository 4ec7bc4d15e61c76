"""A report as a table, a page and plots."""
