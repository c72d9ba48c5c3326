"""`midstream demo`: a half-sent page is asked for, for who has seen nothing yet."""
