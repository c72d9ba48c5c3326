"""Whole migrations in virtual time: the engines of both sides over a model of what is between."""
