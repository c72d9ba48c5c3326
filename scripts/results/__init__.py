"""Reports as data: the schema that all of them keep to, what one says, and tables of many."""
