"""Short runs of tasks of every kind, whose checkpoints commands look at."""

LSTM = ["--network.cell", "LSTM", "--network.hidden_size", "5"]
TEXT = "to be or not to be, that is the question. " * 60
TASKS = {  # how each is trained, and whether its answers are compared
    "digits": (["--task", "Digits", "--network.zoo", "scornn", "--network.hidden_size", "6"], True),
    "adding": (["--task", "Adding", "--task.steps", "6", "--task.sizes", "[40,10,20]", *LSTM], False),
    "copying": (["--task", "Copying", "--task.delay", "3", "--task.sizes", "[40,10,20]", *LSTM], False),
    "text": (["--task", "Characters", "--task.path", "TEXT", "--task.length", "7", *LSTM], False),
    "double": (
        ["--task", "Adding", "--task.sizes", "[9,9,9]", "--task.steps", "3", "--precision", "float64", *LSTM],
        False,
    ),
}
