"""People's grades of evaluated responses: a blind sample, a page to grade it on, the table, and how far the judges agree."""
