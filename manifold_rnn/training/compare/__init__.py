"""``manifold-rnn compare``: many runs as one study, which any number of processes and machines share."""
