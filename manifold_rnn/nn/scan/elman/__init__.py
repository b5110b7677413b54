"""Scans of a recurrence in Elman form: a nonlinearity of one product with the recurrent matrix."""
