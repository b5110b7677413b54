"""Structured constraints, one a file: weights that are computed from parameters, in the trivialized view only."""
