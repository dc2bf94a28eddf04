"""A local web page to read and correct the rows of a run."""
