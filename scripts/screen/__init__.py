"""What a person sees: progress, tables, and what is written to files as things happen."""
