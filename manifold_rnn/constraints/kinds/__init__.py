"""Structured constraints, one per file: weights that are computed from parameters, in the trivialized view only."""
