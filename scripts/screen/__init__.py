"""Progress, tables, and what is written to files as things happen: all that a person sees."""
