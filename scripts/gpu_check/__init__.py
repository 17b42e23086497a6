"""What only a GPU can prove, as checks of seconds to minutes: `python -m scripts.gpu_check`.

A check is a function that returns its figures and raises where something is wrong. Each runs in a process of its own,
with a time limit, so that whatever it does to the device or to its process the next one starts clean.
"""
