"""The commands of `edgewf`, one a file, each a thin call into the rooms below.

Nothing heavy is imported until a command needs it, so that `edgewf --help` answers at once.
"""
